"""Environments follow the load: none while nobody asks, the first at once when somebody does, more as the load grows, fewer when it is gone."""

import asyncio
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import pytest
from lambda_client import client_of, created, identity, invoke, payload, settled
from scraped import Scraped, until

from conftest import Server, descendants, identity_repository, role

WAIT_S = 30
QUICK = ("--set", "scaling.idle_s=1", "--set", "scaling.down_after_s=2", "--set", "scaling.interval_ms=100")


@pytest.fixture
def start(tmp_path):
    running = []

    def start(*settings, models=None, **parameters):
        models = models or identity_repository(tmp_path / "models", "own", **parameters)
        running.append(Server("--model-repository", models, *QUICK, *settings))
        return running[-1]

    yield start
    for server in running:
        assert server.stop() == 0, "".join(server.log[-50:])


def environments(server, function):
    return Scraped(server).sum("penstock_environments_ready", function=function)


def scaled(client, name, least, most, version="1"):
    config = {"MinExecutionEnvironments": least, "MaxExecutionEnvironments": most}
    client.put_function_scaling_config(FunctionName=name, Qualifier=version, FunctionScalingConfig=config)


def infer(server, function, deadline_s=None):
    """Status, headers and body of one inference over HTTP."""
    body = payload()
    if deadline_s:
        body = json.dumps(json.loads(body) | {"parameters": {"timeout": int(deadline_s * 1e6)}})
    request = urllib.request.Request(f"{server.url}/v2/models/{function}/infer", data=body.encode())
    try:
        with urllib.request.urlopen(request, timeout=30 + (deadline_s or 0)) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_none_is_kept_while_nobody_asks_and_the_first_request_is_answered(start):
    server = start()
    client = client_of(server)
    created(client, "f", identity())
    scaled(client, "f", 0, 3)
    until(lambda: environments(server, "f") == 0, "it rests", WAIT_S)
    found = settled(client, "f", "1")
    assert (found["State"], client.get_function_scaling_config(FunctionName="f", Qualifier="1")["AppliedFunctionScalingConfig"]) == (
        "Active",
        {"MinExecutionEnvironments": 0, "MaxExecutionEnvironments": 3},
    )
    # To whoever asks it is ready, and says what it takes.
    assert urllib.request.urlopen(f"{server.url}/v2/models/f/ready").status == 200
    told = json.loads(urllib.request.urlopen(f"{server.url}/v2/models/f").read())
    assert told["inputs"][0]["name"] == "INPUT0"
    at = time.monotonic()
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])
    assert time.monotonic() - at < 5
    assert environments(server, "f") == 1
    until(lambda: environments(server, "f") == 0, "and rests again", WAIT_S)
    steps = Scraped(server)
    assert steps.value("penstock_scaling_steps_total", function="f", version="1", direction="up", reason="waiting") == 1
    assert steps.value("penstock_scaling_steps_total", function="f", version="1", direction="down", reason="idle") == 2
    logs = "".join(server.log)
    assert "environments" in logs and '"reason":"waiting"' in logs


def test_a_thousand_at_once_to_one_that_rests(start):
    """All are answered, or refused with a reason and a wait; every one is in the books."""
    server = start(
        **{"penstock.environments": "0", "penstock.environments_max": "2", "execute_delay_us": "2000"}
    )
    until(lambda: environments(server, "own") == 0, "it rests", WAIT_S)

    async def all_at_once():
        connector = aiohttp.TCPConnector(limit=1000)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def one():
                async with session.post(f"{server.url}/v2/models/own/infer", data=payload()) as answer:
                    return answer.status, answer.headers.get("x-penstock-shed-reason"), "retry-after" in answer.headers

            return await asyncio.gather(*[one() for _ in range(1000)])

    answers = asyncio.run(all_at_once())
    done = sum(status == 200 for status, *_ in answers)
    refused = [(status, reason, told) for status, reason, told in answers if status != 200]
    assert done >= 500, f"{done} were done"
    assert all(status in (429, 503) and reason and told for status, reason, told in refused), set(refused)
    ended = Scraped(server).ended("own")
    assert sum(ended.values()) == 1000 and ended[("done", "")] == done


def test_who_cannot_wait_for_a_start_is_refused_with_how_long_it_takes(start):
    server = start(**{"penstock.environments": "0", "penstock.environments_max": "1"})
    until(lambda: environments(server, "own") == 0, "it rests", WAIT_S)
    took_s = Scraped(server).value("penstock_environment_start_seconds", function="own", version="1")
    status, headers, body = infer(server, "own", took_s / 10)
    assert (status, headers["x-penstock-shed-reason"]) == (503, "no_capacity"), body
    assert abs(int(headers["x-amz-retry-after"]) - took_s * 1000) <= 2, (headers, took_s)
    # It was started all the same.
    until(lambda: environments(server, "own") == 1, "it is there", WAIT_S)
    assert infer(server, "own", 5)[0] == 200


def test_more_load_has_more_environments_and_less_has_fewer(start):
    """Forty slots are wanted where one environment has sixteen; when they are not any more, all but one go."""
    server = start(
        "--set", "environments.concurrency=16",
        **{"penstock.environments_max": "6", "execute_delay_us": "100000", "max_batch_size": "1"},
    )
    stop = threading.Event()

    def load():
        while not stop.is_set():
            infer(server, "own")

    callers = [threading.Thread(target=load) for _ in range(40)]
    at = time.monotonic()
    for caller in callers:
        caller.start()
    until(lambda: environments(server, "own") > 1, "there are more", 10)
    decided_s = time.monotonic() - at
    until(lambda: environments(server, "own") >= 4, "there are enough", WAIT_S)
    stop.set()
    for caller in callers:
        caller.join()
    assert decided_s < 5, decided_s
    until(lambda: environments(server, "own") == 1, "the others go", WAIT_S)
    assert infer(server, "own")[0] == 200
    ended = Scraped(server).ended("own")
    assert set(ended) <= {("done", ""), ("shed", "environment_concurrency")}, ended


def test_what_rests_survives_a_new_version_and_a_restart_of_its_alias(start):
    """A second version comes up beside one that rests; both answer."""
    server = start()
    client = client_of(server)
    created(client, "f", identity("one"))
    scaled(client, "f", 0, 1)
    until(lambda: environments(server, "f") == 0, "it rests", WAIT_S)
    client.update_function_code(FunctionName="f", ZipFile=identity("two"))
    client.publish_version(FunctionName="f")
    assert settled(client, "f", "2")["State"] == "Active"
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])
    assert invoke(client, "f", 2.5, Qualifier="2") == ("2", [2.5])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"penstock.environments": "0"}, "expected a whole number from 1 to 64"),
        ({"penstock.environments": "3", "penstock.environments_max": "2"}, "at least penstock.environments, which is 3"),
    ],
)
def test_bounds_that_contradict_each_other_name_the_field(start, parameters, words):
    server = start(**parameters)
    index = json.loads(urllib.request.urlopen(urllib.request.Request(f"{server.url}/v2/repository/index", method="POST")).read())
    assert words in index[0]["reason"], index


def test_a_version_that_has_served_is_waited_for_though_it_dies_while_it_loads_again(tmp_path):
    """After a restart of the server. That it has been up, only its record knows."""
    tmp_path.joinpath("models").mkdir()
    first = Server("--model-repository", tmp_path / "models")
    created(client_of(first), "f", identity(execute_delay_us=1_500_000), Timeout=WAIT_S)
    first.kill()

    others = set(descendants(os.getpid()))

    def environment():
        servers = [pid for pid in descendants(os.getpid()) if pid not in others and role(pid) == "serve"]
        return next((pid for server in servers for pid in descendants(server) if role(pid) == "environment"), None)

    with ThreadPoolExecutor() as pool:
        coming = pool.submit(Server, "--model-repository", tmp_path / "models", env={"PENSTOCK_DATA_DIR": first.data.name})
        # It runs one row before it is ready.
        os.kill(until(environment, "it loads", WAIT_S), signal.SIGKILL)
        server = coming.result()
    status, _, body = infer(server, "f", WAIT_S)
    assert status == 200, body
    assert Scraped(server).sum("penstock_environment_restarts_total", function="f") == 1
    assert server.stop() == 0
