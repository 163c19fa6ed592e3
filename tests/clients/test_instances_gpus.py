"""Instances that have GPUs: each local one some of this machine's for itself, seen through a library that answers from a recording, as in
`test_gpus`. What is placed there is `identity` in the plain executable."""

import concurrent.futures
import os
import shutil
import subprocess
import time

import numpy
import pytest
from lambda_client import client_of, create, created, identity, invoke, settled
from scraped import Scraped, until
from test_gpus import FIRST, GIB, ONE_GPU, SECOND, driver, gib, load, state, visible
from test_instances import QUICK, WAIT_S, Load, events, instances, is_alive

import tritonclient.grpc as triton
from conftest import CACHE, PROGRAM, Server, identity_repository

__all__ = ["driver"]
TWO_GPUS = f"{ONE_GPU}gpu {SECOND} 81920 512 0 30 70000 700000 0 0 0 NVIDIA H100 80GB HBM3\n"
OWN = ("instances.provider=local", "instances.devices=1", "instances.vcpu=4", "instances.empty_s=1", "environments.threads=1")


def settings(*more):
    return [option for setting in (*OWN, *QUICK, *more) for option in ("--set", setting)]


def variables(driver):
    return {"PENSTOCK_NVML": str(driver.library), "PENSTOCK_DEVICES_PROGRAM": str(PROGRAM)}


@pytest.fixture
def serve(driver, tmp_path):
    running = []

    def serve(recording, *more, **functions):
        driver.says(recording)
        (tmp_path / "models").mkdir(exist_ok=True)
        for name, options in functions.items():
            identity_repository(tmp_path / "models", name, **{"group": "kind: KIND_GPU", **options})
        options = ("--model-repository", tmp_path / "models", "--model-control-mode", "explicit", *settings(*more))
        running.append(Server(*options, env=variables(driver)))
        running[-1].client = triton.InferenceServerClient(running[-1].grpc)
        return running[-1]

    yield serve
    for server in running:
        pids = [one["Pid"] for one in instances(server)] if server.process.poll() is None else []
        assert server.stop() == 0, "".join(server.log[-50:])
        until(lambda: not any(map(is_alive, pids)), "instances end with the server", WAIT_S)


def held(server):
    """What is given out of each device, in GiB."""
    devices = [device for one in instances(server) for device in one["Devices"]]
    return {device["DeviceId"]: device["MemoryGivenMiB"] / 1024 for device in devices}


@pytest.mark.parametrize("how", [("instances.transport=unix",), ("instances.transport=tcp", "instances.disk=own")], ids=["unix", "tcp, own disk"])
def test_each_instance_has_gpus_of_its_own_and_environments_share_them(serve, how):
    server = serve(TWO_GPUS, *how, a=gib(50), b=gib(20), c=gib(60), d=gib(70), e=gib(100), plain={"group": "kind: KIND_CPU"})
    assert load(server, "plain") is None
    assert [(one["InstanceType"], one["Devices"]) for one in instances(server)] == [("local", [])], "it needs none"
    assert [load(server, name) for name in "abc"] == [None] * 3
    assert visible(server) == sorted([FIRST, FIRST, SECOND, None], key=str)
    assert held(server) == {FIRST: 70, SECOND: 60}
    together = {frozenset(one["Environments"]): [device["DeviceId"] for device in one["Devices"]] for one in instances(server)}
    assert together == {frozenset({"plain:1"}): [], frozenset({"a:1", "b:1"}): [FIRST], frozenset({"c:1"}): [SECOND]}
    # All are taken; it comes as soon as there is room.
    assert "it needs 1 vCPU, 71680 MiB of one device and 1024 MiB of an instance, and no instance of a type that is large enough can be had" in load(server, "d")
    for name in "ab":
        server.client.unload_model(name)
    until(lambda: state(server, "d")[0] == "READY", "d is served", WAIT_S)
    assert held(server) == {FIRST: 70, SECOND: 60}
    assert "102400 MiB of one device and 1024 MiB of an instance, and no type of instance is so large" in load(server, "e")
    devices = {device["DeviceId"]: device for one in instances(server) for device in one["Devices"]}
    until(lambda: all(device["MemoryUsedMiB"] is not None for one in instances(server) for device in one["Devices"]), "what is in use is told", WAIT_S)
    assert devices[SECOND].items() >= {"Name": "NVIDIA H100 80GB HBM3", "MemoryMiB": 81920, "Fault": None}.items()
    memory = lambda kind: Scraped(server).value("penstock_instances_gpu_memory_bytes", provider="local", kind=kind)
    assert Scraped(server).value("penstock_instances_gpus", provider="local", state="well") == 2
    until(lambda: memory("used") > 0, "metrics tell it", WAIT_S)
    assert (memory("total"), memory("given"), memory("used")) == (2 * 81920 << 20, 130 * GIB, 512 << 20)
    shown = subprocess.run([PROGRAM, "instances", "--endpoint", server.url], capture_output=True, text=True, check=True).stdout
    assert any(line.split() == ["DEVICE", "INSTANCE", "NAME", "MEMORY", "GIVEN", "USED", "FAULT"] for line in shown.splitlines())
    assert any(line.startswith(SECOND) and "81920 MiB" in line and "61440 MiB" in line and "512 MiB" in line for line in shown.splitlines()), shown


@pytest.mark.parametrize("how, words", [(f"xid {FIRST} 79\n", "has failed (Xid 79)"), ("lost", "the GPU has fallen off the bus")], ids=["xid", "lost"])
def test_an_instance_whose_gpu_fails_is_replaced_without_a_failed_request(serve, driver, how, words):
    server = serve(TWO_GPUS, a={"execute_delay_us": 5000, **gib(50)})
    assert load(server, "a") is None and visible(server) == [FIRST]
    (first,) = instances(server)
    with Load(server, "a", 4, deadline_s=None) as calls:
        driver.says(TWO_GPUS + how if how != "lost" else TWO_GPUS.replace(ONE_GPU, f"{ONE_GPU}lost\n"))
        until(lambda: first["InstanceId"] not in {one["InstanceId"] for one in instances(server)}, "it is gone", WAIT_S)
        until(lambda: visible(server) == [SECOND], "another has taken over", WAIT_S)
    assert calls.end() == [] and len(calls.answers) > 20
    assert (events(server, "unhealthy"), held(server)) == (1, {SECOND: 50})
    assert Scraped(server).sum("penstock_environment_restarts_total", function="a") == 0, "it moved, and was not lost"
    assert any("should not be used any more" in line and FIRST in line and words in line for line in server.log)


def test_what_takes_more_than_it_was_given_moves_to_where_there_is_so_much(serve):
    server = serve(TWO_GPUS, a=gib(50), b={"device_memory_bytes": 60 * GIB, **gib(1)}, c={"device_memory_bytes": 90 * GIB, **gib(1)})
    assert load(server, "a") is None
    assert "takes more device memory than it was given: it takes 61440 MiB of NVIDIA H100 80GB HBM3" in load(server, "b")
    until(lambda: state(server, "b")[0] == "READY", "b is served", WAIT_S)
    assert held(server) == {FIRST: 50, SECOND: 60}
    load(server, "c")
    until(lambda: "92160 MiB of one device" in state(server, "c")[1] and "no type of instance is so large" in state(server, "c")[1], "it says why", WAIT_S)


def test_environments_on_one_gpu_of_an_instance_take_turns(serve):
    """21 batches of 50 ms of three functions, two at once: nothing can be faster than half their sum."""
    options = {"execute_delay_us": 50_000, "max_batch_size": 1, **gib(1)}
    server = serve(ONE_GPU, "instances.vcpu=8", a=options, b=options, c=options)
    assert [load(server, name) for name in "abc"] == [None] * 3
    assert len(instances(server)) == 1
    tensor = triton.InferInput("INPUT0", [1, 1], "FP32")
    tensor.set_data_from_numpy(numpy.zeros((1, 1), dtype=numpy.float32))
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(21) as pool:
        list(pool.map(lambda n: server.client.infer("abc"[n % 3], [tensor]), range(21)))
    assert time.monotonic() - began >= 21 * 0.050 / 2


def test_a_lambda_function_has_the_device_memory_and_the_memory_that_it_asks_for(serve):
    """Two of 4 GiB do not fit into the 5 of one instance, though their GPU would hold both."""
    server = serve(TWO_GPUS, "instances.vcpu=7", f"instances.memory_bytes={6 * GIB}")
    client = client_of(server)
    for name in ("f", "g"):
        created(client, name, identity(), MemorySize=4096, AcceleratorConfig={"AcceleratorMemorySize": 20})
        assert invoke(client, name, 1.5, Qualifier="1") == ("1", [1.5])
    assert held(server) == {FIRST: 20, SECOND: 20} and visible(server) == [FIRST, SECOND]
    create(client, "large", identity(), AcceleratorConfig={"AcceleratorMemorySize": 90})
    client.publish_version(FunctionName="large")
    found = settled(client, "large", "1")
    assert found["StateReasonCode"] == "InsufficientCapacity" and "92160 MiB of one device" in found["StateReason"], found


def test_what_need_not_be_on_a_gpu_is_not_where_none_is_so_large(serve, tmp_path):
    shutil.copytree(CACHE / "models/minilm", tmp_path / "models/minilm")
    (tmp_path / "models/minilm/config.pbtxt").write_text(f'parameters {{ key: "penstock.device_memory_bytes" value {{ string_value: "{100 * GIB}" }} }}')
    server = serve(ONE_GPU, indexed={"group": "gpus: [ 0 ]"})
    assert load(server, "minilm") is None
    assert visible(server) == [None] and [one["InstanceType"] for one in instances(server)] == ["local"]
    assert any("a version runs on the CPU" in line and "102400" in line for line in server.log)
    assert "they are counted on one machine, and it is to run on any instance" in load(server, "indexed")


@pytest.mark.parametrize(
    "setting, words",
    [
        ("instances.devices=2", "instances.devices is 2: this machine has 1 GPUs that answer"),
        ("devices.use=none", "instances.devices is 1, and devices.use is none"),
        ("devices.program=/nowhere", "there is no /nowhere (devices.program)"),
    ],
)
def test_settings_that_do_not_go_together_are_told(driver, tmp_path, setting, words):
    driver.says(ONE_GPU)
    environment = os.environ | {"HOME": str(tmp_path), "PENSTOCK_DATA_DIR": str(tmp_path)} | variables(driver)
    ended = subprocess.run([PROGRAM, "serve", *settings(setting)], env=environment, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1 and words in ended.stderr, ended.stderr


def test_a_lambda_function_follows_its_load_onto_as_many_gpus_as_there_are(serve):
    server = serve(TWO_GPUS, "environments.concurrency=8")
    client = client_of(server)
    created(client, "f", identity(execute_delay_us=50_000), AcceleratorConfig={"AcceleratorMemorySize": 50})
    assert visible(server) == [FIRST]
    until(lambda: Scraped(server).value("penstock_environments_max", function="f") == 2, "as many as there are GPUs", WAIT_S)
    with Load(server, "f", 24):
        until(lambda: visible(server) == [FIRST, SECOND], "the second has one too", WAIT_S)
    until(lambda: visible(server) in ([FIRST], [SECOND]), "one is given back", WAIT_S)


def test_a_provider_says_how_busy_gpus_are_to_be(serve, driver):
    """By what the driver says of them: one that is too busy is work for another environment, on another GPU."""

    def busy(first, second):
        assert TWO_GPUS.count(" 81920 0 0 ") == TWO_GPUS.count(" 81920 512 0 ") == 1
        driver.says(TWO_GPUS.replace(" 81920 0 0 ", f" 81920 0 {first} ").replace(" 81920 512 0 ", f" 81920 512 {second} "))

    server = serve(TWO_GPUS, "instances.devices=2", f={"penstock.environments_max": "2", **gib(20)})
    busy(0, 0)
    assert load(server, "f") is None
    assert visible(server) == [FIRST]
    policy = {"PredefinedMetricType": "LambdaCapacityProviderAverageGPUUtilization", "TargetValue": 50.0}
    scaling = {"MaxVCpuCount": 16, "ScalingMode": "Manual", "ScalingPolicies": [policy]}
    client_of(server).update_capacity_provider(CapacityProviderName="local", CapacityProviderScalingConfig=scaling)
    with Load(server, "f", 1) as asked:
        busy(90, 0)
        until(lambda: visible(server) == [FIRST, SECOND], "the second has one too", WAIT_S)
        assert len(instances(server)) == 1, "it was there all the time"
        busy(10, 10)
        until(lambda: len(visible(server)) == 1, "one is given back", WAIT_S)
    assert asked.end() == []
