"""Servers that share a state by etcd, each with instances of EC2 of its own: all together have no more cores than they may, and what is deleted by way of
one is ended by all."""

from ec2_machines import BUCKET
from lambda_client import client_of, create, gone, identity, invoke, publish
from scraped import Scraped, until
from test_controllers import store  # noqa: F401
from test_ec2 import MOST, WAIT_S, is_gone, on, running, world  # noqa: F401
from test_instances import instances
from test_lambda_scaling import environments, scaled


def test_each_server_has_its_part_and_ends_it(world, store):  # noqa: F811
    shared = {
        "state.store": "etcd",
        "etcd.endpoints": store.url,
        "etcd.prefix": "tests/ec2",
        "packages.s3_bucket": BUCKET,
        "s3.endpoint_url": world.cloud.direct,
        "ec2.vcpu_percent": 50,
    }
    one, other = (world.serve(*shared.items(), ("ec2.fleet", name)) for name in ("one", "other"))
    client = client_of(other)
    world.active(client)
    create(client, "f", identity(), MemorySize=2048, **on("machines"))
    publish(client, "f")
    scaled(client, "f", 2, 2)
    for server in (one, other):
        until(lambda server=server: environments(server, "f") == 2, "each has as many", WAIT_S)
        assert invoke(client_of(server), "f", 1.5, Qualifier="1") == ("1", [1.5])
        assert Scraped(server).value("penstock_environments_max", function="f") == 2
    own = [{seen["InstanceId"] for seen in instances(server)} for server in (one, other)]
    assert not own[0] & own[1] and own[0] | own[1] <= set(world.cloud.alive())
    # As many as there may be: a half for each.
    scaled(client, "f", 0, 16)
    client.update_capacity_provider(CapacityProviderName="machines", CapacityProviderScalingConfig={"MaxVCpuCount": MOST - 2})
    scaled(client, "f", 8, 8)
    for server in (one, other):
        until(lambda server=server: sum(seen["VCpu"] for seen in instances(server)) >= 4, "what fits is launched", WAIT_S)
    assert world.machines.vcpu_most <= MOST
    client.delete_function(FunctionName="f")
    gone(client, "f")
    client.delete_capacity_provider(CapacityProviderName="machines")
    until(lambda: is_gone(client), "it is gone", WAIT_S)
    until(lambda: not world.cloud.alive(), "of both", WAIT_S)
