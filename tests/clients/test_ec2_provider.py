"""The provider of EC2 instances against moto, with faults between the two: what is asked for comes, nothing comes twice, nothing is left."""

import base64
import hashlib
import json
import os
import subprocess
import urllib.parse

import botocore.session
import pytest
from ec2_services import Provider, Recorder, cloud
from scraped import until

WAIT_S = 30


@pytest.fixture(scope="module")
def running():
    with cloud() as it:
        yield it


@pytest.fixture
def aws(running):
    running.reset()
    return running


@pytest.fixture
def start(aws):
    started = []

    def one(**options):
        started.append(Provider(aws, **options))
        assert "error" not in started[-1].opened, started[-1].opened
        return started[-1]

    yield one
    for provider in started:
        provider.kill()


def names(answer):
    assert "error" not in answer, answer
    return [one["name"] for one in answer["launched"]]


def missing(answer):
    assert "error" not in answer, answer
    return [(one["type"], one["zone"], one["reason"].split(":")[0]) for one in answer["missing"]]


def tags(instance):
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def test_what_is_ordered_comes_marked_and_closed_in(aws, start):
    provider = start()
    zone_a, zone_b, _ = provider.opened["opened"]
    answer = provider.launch("o-1", 2, ["g6.xlarge", zone_b], ["g5.xlarge", zone_a], ["g99.xlarge", zone_a])
    assert missing(answer) == [("g99.xlarge", zone_a, "EC2 has no such type in this region")]
    alive = aws.alive()
    assert sorted(names(answer)) == sorted(alive)
    for one in alive.values():
        assert (one["InstanceType"], one["Placement"]["AvailabilityZone"]) == ("g6.xlarge", zone_b)
        assert one["SubnetId"] == aws.subnets()[zone_b]
        told = tags(one)
        assert (told["penstock:fleet"], told["penstock:order"].split(".")[0], told["team"]) == ("tests", "o-1", "tests")
    (template,) = aws.ec2.describe_launch_templates()["LaunchTemplates"]
    versions = aws.ec2.describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"])
    content = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert content["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"}
    assert content["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert content["IamInstanceProfile"] == {"Name": "penstock-instance"}
    assert "UserData" not in content
    # Another architecture: its image is named by a parameter of SSM.
    (name,) = names(provider.launch("o-2", 1, ["c7g.large", zone_a]))
    image = aws.ec2.describe_images(ImageIds=[aws.alive()[name]["ImageId"]])["Images"][0]
    assert image["Architecture"] == "arm64" and "al2023" in image["Name"]


def test_types_are_those_of_the_catalogue(aws, start, tmp_path):
    provider = start(types_file=str(tmp_path / "types.json"), efa=True)
    offered = provider.offered({"g6.xlarge": 0.8048, "p5en.48xlarge": 63.296, "c7g.large": 0.0725, "trn1.2xlarge": 1.34})
    assert offered["count"] > 1000
    found = {one["name"]: one for one in offered["types"]}
    devices = {name: (one["device"], one["shape"]["devices"], one["shape"]["device_memory_mib"], one["efa"]) for name, one in found.items()}
    assert devices["g6.xlarge"] == ("L4", 1, 22888, False)
    assert devices["p5en.48xlarge"] == ("H200", 8, 144384, True)
    assert devices["trn1.2xlarge"][:3] == (None, 0, 0)
    assert found["c7g.large"]["shape"]["architecture"] == "Arm"
    assert provider.offered({}, "g6.xlarge", "g6.2xlarge")["is_guessed"]
    kept = json.loads((tmp_path / "types.json").read_text())
    assert kept["region"] == "us-east-1" and len(kept["types"]) == offered["count"]
    aws.rule(operation="DescribeInstanceTypes", error={"code": "UnauthorizedOperation"})
    assert start(fleet="other", types_file=str(tmp_path / "types.json")).opened


def test_no_capacity_in_one_zone_is_told_and_another_zone_has_it(aws, start):
    provider = start()
    zone_a, zone_b, _ = provider.opened["opened"]
    subnet = aws.subnets()[zone_a]
    for code in ("InsufficientInstanceCapacity", "VcpuLimitExceeded"):
        aws.rule(
            operation="CreateFleet",
            body=f"\"LaunchTemplateConfigs.1.Overrides.1.SubnetId\" == '{subnet}'",
            error={"code": code},
            times=1,
        )
        answer = provider.launch(f"a-{code}", 1, ["g6.xlarge", zone_a])
        assert (names(answer), missing(answer)) == ([], [("g6.xlarge", zone_a, code)])
        assert len(names(provider.launch(f"b-{code}", 1, ["g6.xlarge", zone_b]))) == 1
    assert {one["Placement"]["AvailabilityZone"] for one in aws.alive().values()} == {zone_b}


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "Unavailable", "InternalError"])
def test_what_is_refused_for_a_while_is_asked_again(aws, start, code):
    provider = start()
    for operation in ("CreateFleet", "DescribeSubnets", "CreateLaunchTemplate"):
        aws.rule(operation=operation, error={"code": code}, times=3)
    answer = provider.launch("o-1", 1, ["g6.xlarge", provider.opened["opened"][0]])
    assert names(answer) == list(aws.alive())
    assert aws.fired().count("CreateFleet") == 3


def test_expired_credentials_are_renewed(aws, start):
    provider = start()
    aws.rule(operation="CreateFleet", error={"code": "RequestExpired"}, times=1)
    aws.rule(service="sts", operation="AssumeRole", latency=1)
    assert len(names(provider.launch("o-1", 1, ["g6.xlarge", provider.opened["opened"][0]]))) == 1
    assert (aws.fired().count("CreateFleet"), aws.fired().count("AssumeRole")) == (1, 1)
    aws.rule(operation="CreateFleet", error={"code": "AuthFailure"})
    answer = provider.launch("o-2", 1, ["g6.xlarge", provider.opened["opened"][0]])
    assert answer["error"].startswith("EC2 CreateFleet: AuthFailure")
    assert len(aws.alive()) == 1


@pytest.mark.parametrize("fault", [{"response": {"abort_frac": 0.3}}, {"response": {"abort_bytes": 1}}])
def test_an_answer_that_was_lost_leaves_nothing_that_is_not_known(aws, start, fault):
    """moto does not know a client token again, so the second request launches a second time: what the first has launched is found by its tag and ended."""
    provider = start()
    aws.rule(operation="CreateFleet", times=1, **fault)
    told = names(provider.launch("o-1", 2, ["g6.xlarge", provider.opened["opened"][0]]))
    assert len(told) == 2 and len(aws.instances()) == 4
    until(lambda: sorted(aws.alive()) == sorted(told), "what nobody knows is ended", WAIT_S)
    assert provider.ended == []


def test_an_answer_that_never_comes_is_found_by_its_tag(aws, start):
    provider = start(call_ms=4000)
    zone = provider.opened["opened"][0]
    assert len(names(provider.launch("o-0", 1, ["g6.xlarge", zone]))) == 1
    aws.rule(operation="CreateFleet", times=1, response={"abort_bytes": 1})
    aws.rule(operation="CreateFleet", reset=True)
    told = names(provider.launch("o-1", 1, ["g6.xlarge", zone]))
    assert len(told) == 1 and tags(aws.alive()[told[0]])["penstock:order"].startswith("o-1.")
    assert len(aws.alive()) == 2


def test_what_is_ended_from_outside_is_told(aws, start):
    provider = start()
    told = names(provider.launch("o-1", 3, ["g6.xlarge", provider.opened["opened"][0]]))
    aws.ec2.terminate_instances(InstanceIds=[told[0]])
    until(lambda: provider.ended == [told[0]], "its end is told", WAIT_S)
    aws.ec2.stop_instances(InstanceIds=[told[1]])
    until(lambda: provider.ended == told[:2], "a stopped one is told", WAIT_S)
    until(lambda: list(aws.alive()) == [told[2]], "and ended", WAIT_S)
    provider.terminate(told[2])
    assert aws.alive() == {}
    assert provider.ended == told[:2]


def test_what_a_crash_left_is_ended_before_anything_is_launched(aws, start):
    other = start(fleet="other")
    zone = other.opened["opened"][0]
    others = names(other.launch("o-1", 1, ["g6.xlarge", zone]))
    crashed = start()
    left = names(crashed.launch("o-1", 3, ["g6.xlarge", zone]))
    crashed.kill()
    aws.rule(operation="TerminateInstances", error={"code": "RequestLimitExceeded"}, times=2)
    aws.rule(operation="DescribeInstances", error={"code": "InternalError"}, times=2)
    again = start()
    told = names(again.launch("o-1", 1, ["g6.xlarge", zone]))
    assert sorted(aws.alive()) == sorted(others + told), "the same order's name, and not the same instance"
    assert not set(told) & set(left)
    assert len(aws.ec2.describe_launch_templates()["LaunchTemplates"]) == 2, "one a fleet, used again"


def test_a_share_is_spot(aws, start):
    provider = start(spot_percent=50)
    zone = provider.opened["opened"][0]
    answer = provider.launch("o-1", 4, ["g6.xlarge", zone])
    assert sorted(one["market"] for one in answer["launched"]) == ["OnDemand", "OnDemand", "Spot", "Spot"]
    spot = {name for name, one in aws.alive().items() if one.get("InstanceLifecycle") == "spot"}
    assert spot == {one["name"] for one in answer["launched"] if one["market"] == "Spot"}
    assert {one["usd_per_hour"] for one in answer["launched"]} == {None, 0.00001}


def test_the_end_of_the_server_ends_all(aws, start):
    provider = start()
    provider.launch("o-1", 3, ["g6.xlarge", provider.opened["opened"][0]])
    aws.rule(operation="TerminateInstances", error={"code": "RequestLimitExceeded"}, times=2)
    provider.close()
    assert aws.alive() == {}
    assert "the server ends" in provider.launch("o-2", 1, ["g6.xlarge", provider.opened["opened"][0]])["error"]


def members(shape):
    """Members of a structure by their names in a query, as EC2 has it: the first letter is a capital."""
    serialized = {name: member.serialization for name, member in shape.members.items()}
    own = {name: one.get("queryName") or one.get("name", name) for name, one in serialized.items()}
    return {own[name][0].upper() + own[name][1:]: member for name, member in shape.members.items()}


def is_of(shape, name, value):
    """Whether a structure has a parameter of this name, and may have this value there. Lists are numbered from 1."""
    parts = iter(name.split("."))
    for part in parts:
        if shape.type_name != "structure" or part not in members(shape):
            return False
        shape = members(shape)[part]
        if shape.type_name == "list":
            if not next(parts, "").isdigit():
                return False
            shape = shape.member
    return shape.type_name not in ("structure", "list") and not (getattr(shape, "enum", None) and value not in shape.enum)


def test_every_parameter_is_one_of_the_services_own(aws, start, tmp_path):
    """moto takes what it does not know in silence; AWS's description of its API does not have it."""
    recorder = Recorder(aws.url)
    provider = start(endpoint=recorder.url, efa=True, spot_percent=50, types_file=str(tmp_path / "types.json"))
    zone = provider.opened["opened"][0]
    assert len(names(provider.launch("o-1", 2, ["g6.xlarge", zone], ["p5.48xlarge", zone], ["c7g.large", zone]))) == 2
    provider.close()
    provider.kill()
    recorder.stop()
    models = {name: botocore.session.get_session().get_service_model(name) for name in ("ec2", "sts")}
    actions = set()
    for body in recorder.bodies:
        if body.startswith("{"):
            continue  # SSM's, which moto reads whole
        given = dict(urllib.parse.parse_qsl(body))
        action, version = given.pop("Action"), given.pop("Version")
        model = models["sts" if action == "AssumeRole" else "ec2"]
        shape = model.operation_model(action).input_shape
        assert version == model.api_version
        assert [name for name, value in given.items() if not is_of(shape, name, value)] == [], action
        actions.add(action)
    assert {"AssumeRole", "CreateFleet", "CreateLaunchTemplate", "DescribeInstances", "DescribeInstanceTypes", "TerminateInstances"} <= actions


# --- what an instance runs first

SYSTEMD_RUN = '#!/bin/sh\nfor word in "$@"; do echo "$word" >> "$HERE/ran"; done\n'
POWER_OFF = '#!/bin/sh\necho "$@" >> "$HERE/off"\n'
AWS = '#!/bin/sh\nfor to in "$@"; do :; done\necho "$@" >> "$HERE/fetched"\ncp "$HERE/agent" "$to"\n'


@pytest.fixture
def script(aws, start, tmp_path):
    """The user data of an instance, to be run in a folder of its own with other commands in its way: what it has done."""
    provider = start()
    (name,) = names(provider.launch("o-1", 1, ["g6.xlarge", provider.opened["opened"][0]], word="hush"))
    given = aws.ec2.describe_instance_attribute(InstanceId=name, Attribute="userData")["UserData"]["Value"]
    text = base64.b64decode(given).decode()
    agent = b"#!/bin/sh\n"
    (tmp_path / "agent").write_bytes(agent)
    commands = tmp_path / "commands"
    commands.mkdir()
    for command, content in {
        "aws": AWS, "systemd-run": SYSTEMD_RUN, "systemctl": POWER_OFF, "sleep": "#!/bin/sh\n", "sync": "#!/bin/sh\n",
        "uname": "#!/bin/sh\necho x86_64\n",
    }.items():  # fmt: skip
        (commands / command).write_text(content)
        (commands / command).chmod(0o755)

    def run(sha256=hashlib.sha256(agent).hexdigest()):
        own = text.replace("/run/penstock", f"{tmp_path}/run").replace("/opt/penstock", f"{tmp_path}/opt").replace("0" * 64, sha256)
        environment = {"PATH": f"{commands}:{os.environ['PATH']}", "HERE": str(tmp_path)}
        done = subprocess.run(["bash"], input=own, text=True, env=environment, capture_output=True, timeout=WAIT_S)
        return done, {file.name: file.read_text() for file in tmp_path.iterdir() if file.is_file()}

    return run, tmp_path


def test_an_instance_fetches_its_agent_and_tells_it(script):
    run, folder = script
    done, left = run()
    assert done.returncode == 0, done.stderr
    assert left["fetched"].startswith("s3 cp --no-progress --region us-east-1 s3://penstock-test/agent ")
    told = folder / "run/told.json"
    assert json.loads(told.read_text()) == {"word": "hush"} and told.stat().st_mode & 0o077 == 0
    assert (folder / "run").stat().st_mode & 0o077 == 0
    words = left["ran"].splitlines()
    assert words[-2:] == [f"{folder}/opt/penstock", "instance"]
    assert f"--property=StandardInput=file:{told}" in words
    assert f"--property=ExecStopPost={folder}/commands/systemctl poweroff --no-block" in words
    assert "off" not in left, "the agent's end powers it off"
    assert os.access(folder / "opt/penstock", os.X_OK)


def test_an_instance_with_another_agent_powers_itself_off(script):
    run, folder = script
    done, left = run(sha256="1" * 64)
    assert done.returncode != 0 and "is another than 1111" in done.stderr
    assert left["off"] == "poweroff --no-block\n" and "ran" not in left
    assert len(left["fetched"].splitlines()) == 6
    assert not (folder / "opt/penstock").exists()
