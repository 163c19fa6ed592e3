"""Capacity providers on EC2: an emulated one, whose instances run real agents from their real user data. Whatever happens, the fleet comes back to what is
wanted, never has more cores than it may, and nothing is left."""

import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ec2_machines import Machines, url_of
from ec2_services import KEYS, REGION, cloud
from lambda_client import PROVIDER_ARN, adding, client_of, create, created, identity, invoke, publish, refused, settled
from scraped import Scraped, until
from test_instances import Load, instances
from test_lambda_scaling import environments, infer, scaled

from conftest import CACHE, PROGRAM, Server, descendants, role

WAIT_S = 90
VCPU = {"c7i.large": 2, "c7i.xlarge": 4, "m7i.xlarge": 4}
MOST = 8


@pytest.fixture(scope="module")
def running():
    with cloud() as it:
        yield it


@pytest.fixture
def world(running, tmp_path):
    running.reset()
    all_ = World(running, tmp_path)
    yield all_
    all_.stop()


class World:
    def __init__(self, cloud, folder):
        self.cloud, self.servers, self.models, self.most = cloud, [], folder / "models", {}
        self.models.mkdir()
        self.machines = Machines(cloud, folder, VCPU.__getitem__)
        self.agent = self.machines.publish()
        self.group = cloud.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        self.subnets = cloud.subnets()

    def serve(self, *more, env=None):
        url = self.machines.url
        settings = {
            "instances.provider": "ec2",
            "instances.empty_s": 3,
            "ec2.region": REGION,
            "ec2.endpoint_url": url,
            "ec2.sts_endpoint_url": url,
            "ec2.ssm_endpoint_url": url,
            "ec2.instance_profile": "penstock-instance",
            "ec2.agent_x86": self.agent,
            "scaling.idle_s": 1,
            "scaling.down_after_s": 2,
            "scaling.interval_ms": 100,
        } | dict(more)
        options = [option for key, value in settings.items() for option in ("--set", f"{key}={value}")]
        keys = {"AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"], "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"]}
        self.servers.append(Server("--model-repository", self.models, *options, env=keys | (env or {})))
        return self.servers[-1]

    def provider(self, client, name="machines", most=MOST, **requirements):
        requirements = {"Architectures": ["x86_64"], "AllowedInstanceTypes": list(VCPU)} | requirements
        told = client.create_capacity_provider(
            CapacityProviderName=name,
            VpcConfig={"SubnetIds": list(self.subnets.values()), "SecurityGroupIds": [self.group]},
            PermissionsConfig={"CapacityProviderOperatorRoleArn": "arn:aws:iam::123456789012:role/penstock-operator"},
            InstanceRequirements=requirements,
            CapacityProviderScalingConfig={"MaxVCpuCount": most, "ScalingMode": "Auto"},
            PropagateTags={"Mode": "Explicit", "ExplicitTags": {"team": "tests"}},
        )
        self.most[name] = most
        return told["CapacityProvider"]

    def active(self, client, name="machines"):
        self.provider(client, name)
        until(lambda: client.get_capacity_provider(CapacityProviderName=name)["CapacityProvider"]["State"] == "Active", "it is active", WAIT_S)

    def deployed(self, *settings):
        """A server with a function on one instance, and a client of it."""
        server = self.serve(*settings)
        client = client_of(server)
        self.active(client)
        create(client, "f", identity(), MemorySize=2048, Timeout=WAIT_S, **on("machines"))
        publish(client, "f")
        self.at_rest(1)
        return server, client

    def at_rest(self, count):
        """So many instances are alive, and are those that serve."""
        server = self.servers[-1]

        def is_so():
            ready = {one["InstanceId"] for one in instances(server) if one["State"] == "Ready"}
            return len(ready) == count and ready == set(self.cloud.alive())

        until(is_so, f"{count} instances", WAIT_S)

    def stop(self):
        for server in self.servers:
            server.stop() if server.process.poll() is None else None
        left = self.cloud.alive()
        self.machines.stop()
        assert not left, f"left: {left}"
        assert self.machines.vcpu_most <= sum(self.most.values())


def below(pid):
    """All processes that it has begun, and theirs."""
    return [one for child in descendants(pid) for one in (child, *below(child))]


def on(name):
    return {"CapacityProviderConfig": {"LambdaManagedInstancesCapacityProviderConfig": {"CapacityProviderArn": f"{PROVIDER_ARN}:{name}"}}}


def test_a_function_runs_on_instances_that_come_and_go(world):
    server = world.serve()
    client = client_of(server)
    world.active(client)
    assert not world.cloud.alive(), "nobody wants any"
    create(client, "f", identity(), MemorySize=2048, **on("machines"))
    try:
        assert publish(client, "f") == "1"
    except AssertionError:
        print(world.machines.logs(), "".join(server.log[-60:]))
        raise
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])
    world.at_rest(1)
    ((name, listed),) = world.cloud.alive().items()
    (seen,) = instances(server)
    assert (seen["InstanceId"], seen["InstanceType"], seen["Market"]) == (name, "c7i.large", "OnDemand"), "the cheapest that has room"
    assert seen["Zone"] == listed["Placement"]["AvailabilityZone"] and seen["Environments"] == {"f:1": 1}
    assert {"Key": "team", "Value": "tests"} in listed["Tags"]
    assert not server.environments(), "none runs here"
    # An environment has no way to its machine's metadata; its agent has.
    machine = world.machines.machines[name]
    processes = below(machine.process.pid)
    metadata = [f"{url_of(machine.metadata)}/latest/", "--max-time", "5"]
    reaches = {role(pid): subprocess.run(["nsenter", "--target", str(pid), "--net", "curl", "-s", *metadata]).returncode == 0 for pid in processes}
    assert (reaches["instance"], reaches["environment"]) == (True, False)
    assert Scraped(server).value("penstock_cost_usd_per_hour", provider="machines", function="f") > 0
    # A step: more, over the zones, and never above what may be.
    scaled(client, "f", 4, 4)
    until(lambda: environments(server, "f") == 4, "four", WAIT_S)
    zones = {one["Placement"]["AvailabilityZone"] for one in world.cloud.alive().values()}
    assert len(zones) > 1
    scaled(client, "f", 1, 1)
    world.at_rest(1)
    # What is not wanted any more is ended, and then the provider can go.
    with refused("ResourceConflictException", 409, "in use by functions: f"):
        client.delete_capacity_provider(CapacityProviderName="machines")
    client.delete_function(FunctionName="f")
    until(lambda: not world.cloud.alive(), "all are given back", WAIT_S)
    told = client.delete_capacity_provider(CapacityProviderName="machines")["CapacityProvider"]
    assert told["State"] == "Deleting"
    until(lambda: is_gone(client), "it is gone", WAIT_S)
    world.active(client)


def is_gone(client, name="machines"):
    try:
        assert client.get_capacity_provider(CapacityProviderName=name)["CapacityProvider"]["State"] == "Deleting"
    except client.exceptions.ResourceNotFoundException:
        return True


def test_a_deletion_that_a_kill_cut_off_is_finished_by_the_next_server(world):
    server, client = world.deployed(("instances.empty_s", 600))
    client.delete_function(FunctionName="f")
    until(lambda: not instances(server)[0]["Environments"], "nothing is there any more", WAIT_S)
    client.delete_capacity_provider(CapacityProviderName="machines")
    with refused("ResourceConflictException", 409, "is being deleted"):
        create(client, "g", identity(), MemorySize=2048, **on("machines"))
    with refused("ResourceConflictException", 409, "is being deleted"):
        client.update_capacity_provider(CapacityProviderName="machines", CapacityProviderScalingConfig={"MaxVCpuCount": 8})
    server.kill()
    # One that has no agent, which would end by itself.
    tags = [{"Key": "penstock:fleet", "Value": "penstock.machines"}]
    image = world.cloud.ec2.describe_images()["Images"][0]["ImageId"]
    world.cloud.ec2.run_instances(ImageId=image, InstanceType="c7i.large", MinCount=1, MaxCount=1, TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])
    # The next cannot reach EC2 at first, and does not forget it.
    world.cloud.rule(operation="DescribeInstances", sequence={"fail": 2, "pass": 100}, error={"code": "UnauthorizedOperation"})
    again = world.serve(env={"PENSTOCK_DATA_DIR": server.data.name})
    client = client_of(again)
    until(lambda: is_gone(client), "it is gone", WAIT_S)
    assert not world.cloud.alive() and world.cloud.fired() == ["DescribeInstances"] * 2


def test_more_cores_are_for_versions_without_a_maximum_of_their_own(world):
    server, client = world.deployed(("ec2.vcpu_percent", 50))

    def most():
        return Scraped(server).value("penstock_environments_max", function="f")

    until(lambda: most() == MOST / 2, "as many as have a core each", WAIT_S)
    client.update_capacity_provider(CapacityProviderName="machines", CapacityProviderScalingConfig={"MaxVCpuCount": 20})
    until(lambda: most() == 10, "more", WAIT_S)
    server.kill()
    again = world.serve(("ec2.vcpu_percent", 50), env={"PENSTOCK_DATA_DIR": server.data.name})
    server = again
    until(lambda: most() == 10, "after a restart, too", WAIT_S)


def test_what_is_taken_away_is_replaced(world):
    """Terminated from outside; a notice of Spot; refused in one zone."""
    server, client = world.deployed(("ec2.spot_percent", 100))
    (first,) = world.cloud.alive().values()
    assert first["InstanceLifecycle"] == "spot" and instances(server)[0]["Market"] == "Spot"
    # A notice: others come first, and no request fails.
    with Load(server, "f", 3) as load:
        world.machines.machines[first["InstanceId"]].notice = {"action": "terminate", "time": "2026-01-01T00:00:00Z"}
        until(lambda: first["InstanceId"] not in world.cloud.alive(), "it is drained and ended", WAIT_S)
        world.at_rest(1)
    assert not load.end()
    # Somebody ends it: there is another soon.
    (second,) = world.cloud.alive()
    assert second != first["InstanceId"]
    world.cloud.ec2.terminate_instances(InstanceIds=[second])
    until(lambda: set(world.cloud.alive()) - {second}, "another one comes", WAIT_S)
    world.at_rest(1)
    until(lambda: environments(server, "f") == 1, "and serves", WAIT_S)
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])
    # EC2 has none, once: then there is one all the same.
    world.cloud.rule(operation="CreateFleet", sequence={"fail": 1, "pass": 100}, error={"code": "InsufficientInstanceCapacity"})
    scaled(client, "f", 2, 2)
    until(lambda: environments(server, "f") == 2, "a second one", WAIT_S)
    assert world.cloud.fired() == ["CreateFleet"]


def test_a_zone_that_has_none_is_left_to_the_others(world):
    """EC2 refuses whatever is asked for in one zone, for as long as this lasts, and has what is asked for beside it."""
    server, client = world.deployed()
    (first,) = world.cloud.alive().values()
    bare, note = first["Placement"]["AvailabilityZone"], world.machines.note
    note.bare.add(world.subnets[bare])
    before = len(note.fleets)
    world.cloud.ec2.terminate_instances(InstanceIds=[first["InstanceId"]])
    until(lambda: set(world.cloud.alive()) - {first["InstanceId"]}, "another one comes", WAIT_S)
    scaled(client, "f", 3, 3)
    until(lambda: environments(server, "f") == 3, "three", WAIT_S)
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])
    zones = {one["Placement"]["AvailabilityZone"] for one in world.cloud.alive().values()}
    assert bare not in zones and len(zones) == 2, zones
    # What was refused is not asked for again and again.
    asked = [one for one in note.fleets[before:] if world.subnets[bare] in one.values()]
    assert note.refused >= 1 and len(asked) <= 3, asked


def test_a_load_takes_more_instances_and_gives_them_back(world):
    """A step of load: no limits are changed by anybody."""
    server, client = world.deployed(("environments.concurrency", 8))
    create(client, "busy", identity(execute_delay_us=50_000), MemorySize=2048, Timeout=WAIT_S, **on("machines"))
    publish(client, "busy")
    scaled(client, "busy", 0, 3)
    until(lambda: environments(server, "busy") == 0, "nobody wants any", WAIT_S)
    world.at_rest(1)
    with Load(server, "busy", 40) as load:
        until(lambda: environments(server, "busy") == 3, "as many as there may be", WAIT_S)
        seen = {one["InstanceId"]: sum(one["Environments"].values()) for one in instances(server)}
        assert len(seen) >= 2 and set(seen) <= set(world.cloud.alive()), seen
    until(lambda: environments(server, "busy") == 0, "all are given back", WAIT_S)
    world.at_rest(1)
    assert {status for status, _ in load.answers} <= {200, 429} and any(status == 200 for status, _ in load.answers)


def test_a_function_for_arm_runs_on_instances_that_are(world):
    """By what they are sold as: what is started for them here is this machine's. ONNX Runtime's library goes there with the function."""
    world.machines.vcpu_of = {"c7g.large": 2, "c7i.large": 2}.__getitem__
    library = world.machines.folder / "lib" / "libonnxruntime.so"
    library.parent.mkdir()
    shutil.copy(CACHE / "lib" / "libonnxruntime.so", library)
    server = world.serve(("ec2.agent_arm", world.agent), ("onnxruntime.other_library", library), ("instances.empty_s", 1))
    client = client_of(server)
    world.provider(client, Architectures=["x86_64", "arm64"], AllowedInstanceTypes=["c7g.large", "c7i.large"])
    world.provider(client, "x86", AllowedInstanceTypes=["c7i.large"])
    with refused("InvalidParameterValueException", 400, 'Architectures: found ["arm64"], and the instances of capacity provider x86 are x86_64: change it'):
        create(client, "g", adding(1.0), MemorySize=2048, Architectures=["arm64"], **on("x86"))
    create(client, "f", adding(1.0), MemorySize=2048, Architectures=["arm64"], **on("machines"))
    publish(client, "f")
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [2.5])
    ((name, listed),) = world.cloud.alive().items()
    assert (listed["InstanceType"], listed["Architecture"]) == ("c7g.large", "arm64")
    kept = subprocess.run(["nsenter", "--target", str(below(world.machines.machines[name].process.pid)[0]), "--mount", "find", "/var/lib", "-name", "libonnxruntime.so*"], capture_output=True, text=True)
    assert kept.stdout, kept
    # The same code for the others: only those are launched.
    client.update_function_code(FunctionName="f", ZipFile=adding(2.0), Architectures=["x86_64"])
    assert publish(client, "f") == "2"
    assert invoke(client, "f", 1.5, Qualifier="2") == ("2", [3.5])
    assert sorted(one["InstanceType"] for one in world.cloud.alive().values()) == ["c7g.large", "c7i.large"]
    # One version whose content changes its architecture: the new one comes up where it can.
    client.publish_version(FunctionName="f", PublishTo="LATEST_PUBLISHED")
    until(lambda: settled(client, "f", "$LATEST.PUBLISHED", WAIT_S)["State"] == "Active", "it serves", WAIT_S)
    client.update_function_code(FunctionName="f", ZipFile=adding(5.0), Architectures=["arm64"])
    client.publish_version(FunctionName="f", PublishTo="LATEST_PUBLISHED")
    until(lambda: invoke(client, "f", 1.5, Qualifier="$LATEST.PUBLISHED") == ("$LATEST.PUBLISHED", [6.5]), "the new one serves", WAIT_S)
    of_it = lambda: [one["InstanceType"] for one in instances(server) if "f:$LATEST.PUBLISHED" in one["Environments"]]  # noqa: E731
    until(lambda: of_it() == ["c7g.large"], "and it alone", WAIT_S)
    # To another provider and its architecture: two updates, of which the first alone is not published.
    client.update_function_configuration(FunctionName="f", **on("x86"))
    with refused("InvalidParameterValueException", 400, "Architectures: found"):
        client.publish_version(FunctionName="f")
    with refused("InvalidParameterValueException", 400, "Architectures: found"):
        client.update_function_code(FunctionName="f", ZipFile=adding(7.0), Publish=True)
    client.update_function_code(FunctionName="f", ZipFile=adding(6.0), Architectures=["x86_64"])
    assert publish(client, "f") == "3"
    assert invoke(client, "f", 1.5, Qualifier="3") == ("3", [7.5])


def test_who_asks_waits_while_instances_cannot_be_had(world):
    """Of what passes nobody hears but those that have no time for it."""
    server, client = world.deployed()
    scaled(client, "f", 0, 1)
    until(lambda: not world.cloud.alive(), "none is kept", WAIT_S)
    world.cloud.rule(operation="CreateFleet", sequence={"fail": 2, "pass": 100}, error={"code": "InsufficientInstanceCapacity"})
    with ThreadPoolExecutor() as callers:
        waits = callers.submit(infer, server, "f", WAIT_S)
        by_lambda = callers.submit(invoke, client_of(server, read_timeout=WAIT_S), "f", 2.5, Qualifier="1")
        until(lambda: world.cloud.fired(), "EC2 has none", WAIT_S)
        time.sleep(1)
        status, headers, body = infer(server, "f", 0.5)
        assert (status, waits.done()) == (503, False) and int(headers["Retry-After"]) >= 1, body
        assert waits.result()[0] == 200
        assert by_lambda.result() == ("1", [2.5])
    assert world.cloud.fired() == ["CreateFleet"] * 2


def test_a_provider_says_how_busy_workers_are_to_be(world):
    """Each provider its own: that of this machine says nothing of it."""
    server, client = world.deployed()
    create(client, "busy", identity(execute_delay_us=20_000), MemorySize=2048, **on("machines"))
    publish(client, "busy")

    def target(percent, name="machines"):
        policy = {"PredefinedMetricType": "LambdaCapacityProviderAverageCPUUtilization", "TargetValue": percent}
        scaling = {"MaxVCpuCount": MOST, "ScalingMode": "Manual", "ScalingPolicies": [policy]}
        client.update_capacity_provider(CapacityProviderName=name, CapacityProviderScalingConfig=scaling)

    # One client keeps a worker busy nearly all the time.
    with Load(server, "busy", 1) as load:
        target(10.0, "local")
        until(lambda: len(load.answers) > 100, "it is looked at", WAIT_S)
        assert environments(server, "busy") == 1
        target(40.0)
        until(lambda: environments(server, "busy") == 3, "as many as that wants", WAIT_S)
        target(100.0)
        until(lambda: environments(server, "busy") == 1, "and no more than that", WAIT_S)
    assert not load.end()


def test_other_tags_are_for_what_comes_and_end_nothing(world):
    server, client = world.deployed()
    (first,) = world.cloud.alive()
    with Load(server, "f", 3) as load:
        client.update_capacity_provider(CapacityProviderName="machines", PropagateTags={"Mode": "Explicit", "ExplicitTags": {"team": "others"}})
        scaled(client, "f", 2, 2)
        world.at_rest(2)
    assert not load.end()
    teams = {name: [tag["Value"] for tag in one["Tags"] if tag["Key"] == "team"] for name, one in world.cloud.alive().items()}
    assert teams.pop(first) == ["tests"] and list(teams.values()) == [["others"]]


def test_what_a_server_has_left_is_ended_by_the_next(world):
    server, client = world.deployed()
    # Killed while more are being launched.
    world.cloud.rule(operation="CreateFleet", latency={"fixed_ms": 3000})
    count = len(world.machines.note.fleets)
    scaled(client, "f", 3, 3)
    until(lambda: len(world.machines.note.fleets) > count, "they are asked for", WAIT_S)
    server.kill()
    # What is left cannot be ended at first, and there is no room for as many beside it.
    world.cloud.rule(operation="TerminateInstances", sequence={"fail": 3, "pass": 1000}, error={"code": "UnauthorizedOperation"})
    again = world.serve(env={"PENSTOCK_DATA_DIR": server.data.name})
    client = client_of(again)
    assert settled(client, "f", "1", WAIT_S)["State"] == "Active"
    until(lambda: environments(again, "f") == 3, "all are back", WAIT_S)
    until(lambda: {one["InstanceId"] for one in instances(again)} == set(world.cloud.alive()), "and nothing else", WAIT_S)
    assert "TerminateInstances" in world.cloud.fired()
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("ec2.agent_x86", "s3://agents/agent 12", "ec2.agent_x86, ec2.agent_arm: found \"12\", expected the SHA-256 of the file"),
        ("ec2.instance_profile", "", "ec2.instance_profile: found \"\", expected the name or the ARN of an instance profile"),
        ("ec2.prices_file", "/nowhere", "ec2.prices_file: /nowhere: No such file"),
        ("ec2.fleet", "a.b", "ec2.fleet: found 'a.b', expected letters, digits, - and _"),
        ("ec2.endpoint_url", "", "instances.listen: found 127.0.0.1:"),
    ],
)
def test_wrong_settings_are_said_before_a_port_opens(key, value, words, tmp_path):
    settings = {"instances.provider": "ec2", "ec2.endpoint_url": "http://127.0.0.1:1", "ec2.instance_profile": "own", "data_dir": tmp_path}
    settings |= {"ec2.agent_x86": f"s3://agents/agent {'0' * 64}"} | {key: value}
    command = [PROGRAM, "serve", *(word for name, text in settings.items() for word in ("--set", f"{name}={text}"))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 64 and words in ended.stderr, ended.stderr


def test_a_provider_that_cannot_be_used_says_why(world):
    server = world.serve()
    client = client_of(server)
    with refused("InvalidParameterValueException", 400, "VpcConfig.SecurityGroupIds: found \"0\", expected 1 to 5 security groups"):
        client.create_capacity_provider(
            CapacityProviderName="no-groups",
            VpcConfig={"SubnetIds": list(world.subnets.values()), "SecurityGroupIds": []},
            PermissionsConfig={"CapacityProviderOperatorRoleArn": "arn:aws:iam::123456789012:role/penstock-operator"},
        )
    with refused("ValidationException", 400, "architectures"):
        world.provider(client, "elsewhere", Architectures=["riscv"])
    # There is no agent for these: it is said when it is opened, as it is of types that are not sold.
    world.provider(client, "no-agent", Architectures=["arm64"], AllowedInstanceTypes=["c7g.*"])
    world.provider(client, "none-left", AllowedInstanceTypes=["g99.*"])

    def state(name):
        return client.get_capacity_provider(CapacityProviderName=name)["CapacityProvider"]["State"]

    until(lambda: state("none-left") == state("no-agent") == "Failed", "they fail", WAIT_S)
    assert any("no instance type is left in" in line for line in server.log)
    shown = subprocess.run([PROGRAM, "instances", "--endpoint", server.url], capture_output=True, text=True, check=True).stdout
    assert re.search("^none-left +.*no instance type is left in", shown, re.MULTILINE), shown
    # One whose role may not be assumed can be deleted all the same.
    world.cloud.rule(service="sts", operation="AssumeRole", sequence={"fail": 100, "pass": 1}, error={"code": "AccessDenied"})
    world.provider(client, "denied")
    until(lambda: state("denied") == "Failed", "it fails", WAIT_S)
    client.delete_capacity_provider(CapacityProviderName="denied")
    until(lambda: is_gone(client, "denied"), "it is gone", WAIT_S)
    create(client, "f", identity(), MemorySize=2048, **on("none-left"))
    version = client.publish_version(FunctionName="f")["Version"]
    told = settled(client, "f", version, WAIT_S)
    assert told["State"] == "Failed" and "no instance type is left in" in told["StateReason"], told
    assert not world.cloud.alive()
