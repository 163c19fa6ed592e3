"""An instance of an emulated EC2 that has a GPU: its agent sees it through a library that answers from a recording, as in `test_gpus`, where the driver's
own would be. This machine has none."""

import contextlib
import os
import pathlib

from lambda_client import client_of, create, identity, invoke, publish, settled
from scraped import until
from test_ec2 import WAIT_S, below, on, running, world
from test_gpus import Driver
from test_instances import instances

__all__ = ["running", "world"]
GPU = "GPU-33333333-aaaa-bbbb-cccc-000000000003"


def environments_on(uuid):
    """Processes that were told this device."""
    found = set()
    for pid in below(os.getpid()):
        with contextlib.suppress(OSError):
            variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {pid} if f"CUDA_VISIBLE_DEVICES={uuid}".encode() in variables else set()
    return found


def test_a_function_that_needs_a_gpu_has_that_of_its_instance(world):
    Driver(world.machines.tools).says(f"driver 580.159.04 13000\ngpu {GPU} 23034 3 0 30 70000 72000 0 0 0 NVIDIA L4\n")
    world.machines.vcpu_of = {"g6.xlarge": 4}.__getitem__
    server = world.serve(("ec2.image_gpu_x86", world.cloud.ec2.describe_images()["Images"][0]["ImageId"]))
    client = client_of(server)
    world.provider(client, AllowedInstanceTypes=["g6.xlarge"])
    until(lambda: client.get_capacity_provider(CapacityProviderName="machines")["CapacityProvider"]["State"] == "Active", "it is active", WAIT_S)
    create(client, "f", identity(), MemorySize=2048, AcceleratorConfig={"AcceleratorMemorySize": 20}, **on("machines"))
    try:
        assert publish(client, "f") == "1"
    except AssertionError:
        print(world.machines.logs(), "".join(server.log[-60:]))
        raise
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])
    (one,) = instances(server)
    (device,) = one["Devices"]
    assert (one["InstanceType"], device["DeviceId"], device["Name"], device["MemoryGivenMiB"]) == ("g6.xlarge", GPU, "NVIDIA L4", 20 * 1024)
    assert len(environments_on(GPU)) == 1
    # What the type is said to have, less what is kept free.
    create(client, "large", identity(), MemorySize=2048, AcceleratorConfig={"AcceleratorMemorySize": 22}, **on("machines"))
    client.publish_version(FunctionName="large")
    found = settled(client, "large", "1")
    assert found["State"] == "Failed" and "22528 MiB of one device" in found["StateReason"] and "no type of instance is so large" in found["StateReason"], found
    # Without a provider it would be on this machine, which has none.
    create(client, "here", identity(), MemorySize=2048, AcceleratorConfig={"AcceleratorMemorySize": 1})
    client.publish_version(FunctionName="here")
    assert "this machine has no GPU" in settled(client, "here", "1")["StateReason"]
