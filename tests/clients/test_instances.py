"""Instances that are processes of this machine: they come with the environments that need them and go with them, are replaced when lost or old, and never
have more cores than they may."""

import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest
from lambda_client import ask, client_of, create, created, identity, invoke, settled
from scraped import Scraped, until
from test_lambda_scaling import environments, infer, scaled

from conftest import CACHE, PROGRAM, Server, identity_repository

WAIT_S = 30
# One environment of two vCPU fits on each, beside the agent.
LOCAL = ("instances.provider=local", "instances.vcpu=3", "instances.empty_s=1", "environments.threads=2")
QUICK = ("scaling.idle_s=1", "scaling.down_after_s=2", "scaling.interval_ms=100")


@pytest.fixture(params=["unix", "tcp"])
def start(request, tmp_path):
    running = []

    def start(*settings, **parameters):
        models = identity_repository(tmp_path / "models", "own", **parameters)
        settings = (*LOCAL, *QUICK, f"instances.transport={request.param}", *settings)
        options = [option for setting in settings for option in ("--set", setting)]
        running.append(Server("--model-repository", models, *options))
        return running[-1]

    yield start
    for server in running:
        pids = [one["Pid"] for one in instances(server)] if server.process.poll() is None else []
        assert server.stop() == 0, "".join(server.log[-50:])
        until(lambda: not any(map(is_alive, pids)), "instances end with the server", WAIT_S)


def instances(server):
    return json.loads(ask(server, "GET", "/2026-11-26/instances")[2])["Instances"]


def is_alive(pid):
    stat = pathlib.Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def events(server, event):
    return Scraped(server).sum("penstock_instance_events_total", event=event)


class Load:
    """Clients in a loop, each with a deadline; answers by their status."""

    def __init__(self, server, function, clients, deadline_s=20):
        self.answers, self._stop = [], threading.Event()
        self._callers = [threading.Thread(target=self._run, args=(server, function, deadline_s)) for _ in range(clients)]
        for caller in self._callers:
            caller.start()

    def _run(self, server, function, deadline_s):
        while not self._stop.is_set():
            status, _, body = infer(server, function, deadline_s)
            self.answers.append((status, None if status == 200 else body))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Those that were not answered."""
        self._stop.set()
        for caller in self._callers:
            caller.join()
        return [answer for answer in self.answers if answer[0] != 200]


def test_instances_come_with_the_load_and_go_with_it(start):
    server = start(
        "environments.concurrency=8", **{"penstock.environments_max": "4", "execute_delay_us": "50000", "max_batch_size": "1"}
    )
    assert [one["Environments"] for one in instances(server)] == [{"own:1": 1}]
    with Load(server, "own", 24):
        until(lambda: len([one for one in instances(server) if one["Environments"] == {"own:1": 1}]) == 4, "four with one each", WAIT_S)
    assert set(Scraped(server).ended("own")) <= {("done", ""), ("shed", "environment_concurrency")}
    until(lambda: len(instances(server)) == 1, "three are given back", WAIT_S)
    assert (events(server, "ready"), events(server, "empty")) == (4, 3)
    assert infer(server, "own")[0] == 200


def test_the_first_request_after_a_quiet_spell_is_answered_by_a_new_instance(start):
    server = start(**{"penstock.environments": "0", "penstock.environments_max": "1"})
    until(lambda: instances(server) == [], "there is none", WAIT_S)
    at = time.monotonic()
    assert infer(server, "own", 10)[0] == 200
    assert time.monotonic() - at < 5
    assert len(instances(server)) == 1


def test_an_instance_that_is_killed_is_replaced_and_every_request_answered(start):
    server = start(**{"penstock.environments": "2", "execute_delay_us": "5000"})
    with Load(server, "own", 4) as load:
        until(lambda: environments(server, "own") == 2, "both are there", WAIT_S)
        for _ in range(3):
            killed = instances(server)[0]
            os.kill(killed["Pid"], signal.SIGKILL)

            def is_replaced(killed=killed):
                all_ = {one["InstanceId"]: sum(one["Environments"].values()) for one in instances(server)}
                # In this order: that another was given room is after the loss was seen, and before it is ready.
                return killed["InstanceId"] not in all_ and sum(all_.values()) == 2 and environments(server, "own") == 2

            until(is_replaced, "both are there again", WAIT_S)
    assert load.end() == [] and len(load.answers) > 20
    assert (events(server, "lost"), len(instances(server))) == (3, 2)


def test_an_instance_that_hangs_is_lost(start):
    server = start()
    hangs = instances(server)[0]
    os.kill(hangs["Pid"], signal.SIGSTOP)
    until(lambda: events(server, "lost") == 1, "no sign of life", WAIT_S)
    until(lambda: environments(server, "own") == 1, "it is replaced", WAIT_S)
    assert infer(server, "own", 10)[0] == 200
    assert instances(server)[0]["InstanceId"] != hangs["InstanceId"]
    until(lambda: not is_alive(hangs["Pid"]), "and ended by force", WAIT_S)


def test_a_rotation_of_all_instances_fails_no_request(start):
    server = start("instances.max_age_s=2", **{"penstock.environments": "2", "execute_delay_us": "5000"})
    with Load(server, "own", 4, deadline_s=None) as load:
        until(lambda: events(server, "aged") >= 4, "each was replaced, twice", 60)
    assert load.end() == [] and len(load.answers) > 20
    assert Scraped(server).sum("penstock_environment_restarts_total", function="own") == 0, "they moved, and were not lost"
    assert set(Scraped(server).ended("own")) == {("done", "")}


def test_all_instances_are_replaced_when_that_is_asked_for(start):
    server = start(**{"penstock.environments": "3", "execute_delay_us": "5000"})
    before = {one["InstanceId"] for one in instances(server)}
    with Load(server, "own", 4, deadline_s=None) as load:
        subprocess.run([PROGRAM, "instances", "--replace", "--endpoint", server.url], capture_output=True, check=True)
        until(lambda: not before & {one["InstanceId"] for one in instances(server)}, "all are others", WAIT_S)
    assert load.end() == [] and len(load.answers) > 20
    assert (len(before), len(instances(server)), events(server, "aged")) == (3, 3, 3), "and are left alone then"


def test_there_are_never_more_cores_than_there_may_be(start):
    server = start("instances.vcpu_max=6", "environments.concurrency=2", **{"execute_delay_us": "20000", "penstock.environments_max": "8"})
    client = client_of(server)
    most, end = 0, time.monotonic() + 3
    with Load(server, "own", 16):
        until(lambda: environments(server, "own") == 2, "as many as fit", WAIT_S)
        while time.monotonic() < end:
            most = max(most, sum(one["VCpu"] for one in instances(server)))
    assert (most, environments(server, "own")) == (6, 2)
    # What does not fit is not published, and says why.
    create(client, "large", identity(), MemorySize=32768)
    client.publish_version(FunctionName="large")
    found = settled(client, "large", "1")
    assert found["StateReasonCode"] == "InsufficientCapacity" and "no type of instance is so large" in found["StateReason"], found


def test_the_provider_says_how_many_cores_there_may_be_and_how_busy_workers_are_to_be(start):
    """One client keeps a worker busy nearly all the time: with a target of a half that is work for two, and with one of a fifth for five."""
    server = start("environments.concurrency=8", **{"penstock.environments_max": "8", "execute_delay_us": "50000"})
    client = client_of(server)
    told = client.get_capacity_provider(CapacityProviderName="local")["CapacityProvider"]["CapacityProviderScalingConfig"]
    assert told == {"MaxVCpuCount": 8 * os.cpu_count(), "ScalingMode": "Auto"}

    def target(percent, most):
        policy = {"PredefinedMetricType": "LambdaCapacityProviderAverageCPUUtilization", "TargetValue": percent}
        scaling = {"MaxVCpuCount": most, "ScalingMode": "Manual", "ScalingPolicies": [policy]}
        client.update_capacity_provider(CapacityProviderName="local", CapacityProviderScalingConfig=scaling)

    with Load(server, "own", 1) as load:
        until(lambda: len(load.answers) > 40, "it is looked at", WAIT_S)
        assert environments(server, "own") == 1
        target(50.0, 9)
        until(lambda: environments(server, "own") == 2, "twice as many", WAIT_S)
        target(20.0, 9)
        until(lambda: environments(server, "own") == 3, "as many as there may be", WAIT_S)
        assert sum(one["VCpu"] for one in instances(server)) == 9
        target(20.0, 15)
        until(lambda: environments(server, "own") == 5, "as many as are wanted", WAIT_S)
    assert load.end() == []
    steps = Scraped(server).sum("penstock_scaling_steps_total", function="own", direction="up", reason="utilization")
    assert steps >= 1, "on a busy machine another reason may come first"


def test_cores_that_are_busy_count_beside_workers(start):
    """One client keeps one of four workers busy, and with it all of the one core that an environment has."""
    spins = {"delay_kind": "spin", "execute_delay_us": "50000", "group": "kind: KIND_CPU", "count": 4}
    server = start("environments.concurrency=8", "environments.threads=1", **{"penstock.environments_max": "8", **spins})
    policy = {"PredefinedMetricType": "LambdaCapacityProviderAverageCPUUtilization", "TargetValue": 60.0}
    scaling = {"MaxVCpuCount": 16, "ScalingMode": "Manual", "ScalingPolicies": [policy]}
    with Load(server, "own", 1) as load:
        until(lambda: len(load.answers) > 40, "it is looked at", WAIT_S)
        assert environments(server, "own") == 1
        client_of(server).update_capacity_provider(CapacityProviderName="local", CapacityProviderScalingConfig=scaling)
        until(lambda: environments(server, "own") == 2, "work for two", WAIT_S)
    assert load.end() == []
    used = lambda: Scraped(server).value("penstock_environment_cpu_seconds", function="own")  # noqa: E731
    until(lambda: used() >= 0.5 * 0.05 * len(load.answers), "time of cores is told", WAIT_S)


def test_an_instance_has_no_more_memory_than_it_says(start):
    """Where this process may make control groups; elsewhere it says that it has none."""
    server = start("instances.memory_bytes=3221225472")
    one = instances(server)[0]
    groups = pathlib.Path(f"/proc/{one['Pid']}/cgroup").read_text()
    assert one["MemoryLimited"] == (f"/penstock-{server.process.pid}-{one['InstanceId']}" in groups)
    if one["MemoryLimited"]:
        (environment,) = server.environments()
        assert one["InstanceId"] in pathlib.Path(f"/proc/{environment}/cgroup").read_text(), "its environments are in it"
        paths = [line.split(":", 2)[1:] for line in groups.splitlines() if one["InstanceId"] in line]
        folder = pathlib.Path("/sys/fs/cgroup") / ("memory" if paths[0][0] else "") / paths[0][1].lstrip("/")
        limit = next(file for name in ("memory.max", "memory.limit_in_bytes") if (file := folder / name).exists())
        assert int(limit.read_text()) == 3 << 30
        server.stop()
        until(lambda: not folder.exists(), "and it goes", WAIT_S)


def test_what_instances_cost_is_told_by_function(start):
    """Of eight cores that environments may have, one has two and the other one: a quarter of the price, an eighth, and the rest is nobody's."""
    server = start("instances.vcpu=9", "instances.microusd_per_hour=360000000")
    client = client_of(server)
    created(client, "f", identity())

    def costs():
        return {one["FunctionName"]: one for one in json.loads(ask(server, "GET", "/2026-11-26/instances")[2])["Costs"]}

    until(lambda: costs().get("f", {}).get("Usd"), "there is something to tell", WAIT_S)
    until(lambda: {name: one["UsdPerHour"] for name, one in costs().items()} == {"f": 45, "own": 90, "": 225}, "by their parts", WAIT_S)
    assert Scraped(server).value("penstock_cost_usd_per_hour", function="f") == 45
    for _ in range(4):
        invoke(client, "f", 1.5, Qualifier="1")
    told = costs()["f"]
    assert told["CapacityProviderNames"] == ["local"] and instances(server)[0]["CapacityProviderName"] == "local"
    assert told["Invocations"] == 4 and told["UsdPerMillionInvocations"] == pytest.approx(told["Usd"] / 4 * 1e6) and costs()["own"]["UsdPerMillionInvocations"] is None
    # 1.25 cents a second since it came.
    assert 0 < told["Usd"] < 0.0125 * 60
    shown = subprocess.run([PROGRAM, "instances", "--endpoint", server.url], capture_output=True, text=True, check=True).stdout
    assert "USD/MILLION" in shown and "(nobody's)" in shown and "45.0000" in shown, shown


def test_functions_share_instances_and_people_see_them(start):
    server = start("instances.vcpu=9")
    client = client_of(server)
    created(client, "f", identity())
    assert [one["Environments"] for one in instances(server)] == [{"f:1": 1, "own:1": 1}]
    scaled(client, "f", 3, 3)
    until(lambda: environments(server, "f") == 3, "three", WAIT_S)
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])
    shown = subprocess.run([PROGRAM, "instances", "--endpoint", server.url], capture_output=True, text=True, check=True).stdout
    head, *rows = shown.splitlines()
    assert head.split() == ["INSTANCE", "PROVIDER", "TYPE", "STATE", "VCPU", "MEMORY", "AGE", "ENVIRONMENTS"]
    assert any("Ready" in row and "x f:1" in row for row in rows), shown
    logs = subprocess.run([PROGRAM, "logs", "f", "--endpoint", server.url], capture_output=True, text=True, check=True).stdout
    assert "environment ready" in logs


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_an_instance_with_a_disk_of_its_own_is_sent_each_content_once(transport):
    """The encoder and the library that runs it, on another disk: what comes is what comes from the server's own."""
    quick = ("environments.per_version=2", "instances.vcpu=9", "environments.threads=1", f"instances.transport={transport}", "instances.disk=own")
    server = Server(*[option for setting in (*LOCAL, *quick) for option in ("--set", setting)])
    alone = Server()
    try:
        told = {"input": "Penstock", "model": "minilm"}
        assert ask(server, "POST", "/v1/embeddings", told)[0::2] == ask(alone, "POST", "/v1/embeddings", told)[0::2]
        sent = Scraped(server).value("penstock_instance_sent_bytes_total")
        (own, *_) = instances(server)
        folder = f"/disks/{own['InstanceId']}/contents/"
        maps = [pathlib.Path(f"/proc/{pid}/maps").read_text() for pid in server.environments()]
        assert any(folder in text and "libonnxruntime" in text for text in maps)
        files = {path.resolve() for name in ("lib", "models") for path in (CACHE / name).rglob("*") if path.is_file() and "cuda" not in path.parts}
        assert 1 << 20 < sent <= sum(path.stat().st_size for path in files), "each once, whoever reads it"
        disk = pathlib.Path(next(line.split()[-1] for text in maps for line in text.splitlines() if folder in line).split("/contents/")[0])
        assert disk.is_dir()
    finally:
        alone.stop()
        assert server.stop() == 0
    assert not disk.exists(), "it goes with its instance"


def test_nothing_is_left_of_a_server_that_was_killed(tmp_path):
    models = identity_repository(tmp_path / "models", "own", **{"penstock.environments": "2"})
    server = Server("--model-repository", models, *[option for setting in LOCAL for option in ("--set", setting)])
    pids = [one["Pid"] for one in instances(server)]
    children = [int(pid) for pid in subprocess.run(["pgrep", "-P", ",".join(map(str, pids))], capture_output=True, text=True).stdout.split()]
    assert len(pids) == 2 and len(children) == 2
    server.kill()

    until(lambda: not any(map(is_alive, pids + children)), "agents and environments have ended", WAIT_S)
    again = Server("--model-repository", models, *[option for setting in LOCAL for option in ("--set", setting)], env={"PENSTOCK_DATA_DIR": str(server.data.name)})
    assert infer(again, "own")[0] == 200
    again.kill()
