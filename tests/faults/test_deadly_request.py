"""A request that kills whatever runs it: told apart from its neighbours, and answered with what happened."""

import collections

import grpc
import pytest

from callers import books, environment_pids, reason, request, settled_books, stub, total, until
from conftest import identity_repository

DEADLY = b"\xff\x00\x00\x00"
DEADLINE_US = 30_000_000


def repository(folder, name, **parameters):
    deadly = 'parameters { key: "crash_on_first_byte" value: { string_value: "255" } }'
    return identity_repository(folder, name, extra=deadly, **parameters)


@pytest.mark.parametrize("environments", [1, 2])
def test_innocents_are_answered(start, tmp_path, environments):
    repository(tmp_path, "fragile", execute_delay_us=50_000)
    server = start("--model-repository", tmp_path, "--set", f"environments.per_version={environments}")
    caller = stub(server)
    answers = [caller.ModelInfer.future(request("fragile", i, timeout=DEADLINE_US)) for i in range(10)]
    deadly = caller.ModelInfer.future(request("fragile", raw=DEADLY, timeout=DEADLINE_US))
    answers += [caller.ModelInfer.future(request("fragile", i, timeout=DEADLINE_US)) for i in range(10)]

    error = deadly.exception(timeout=30)
    assert error.code() == grpc.StatusCode.INTERNAL, error
    assert reason(error) == "execution_crashed"
    assert [answer.exception(timeout=30) for answer in answers] == [None] * 20
    assert settled_books(server, "fragile").outcomes == {("done", ""): 20, ("failed", "internal"): 1}
    ready = lambda: total(server, "penstock_environments_ready", function="fragile")
    until(lambda: ready() == environments, what="the function comes back")
    assert total(server, "penstock_environment_restarts_total", function="fragile") == 2
    caller.ModelInfer(request("fragile"), timeout=10)


def test_several_at_once(start, tmp_path):
    """One at a time is retried; each costs at most two environments; the others outlive them all."""
    repository(tmp_path, "fragile", execute_delay_us=20_000)
    server = start("--model-repository", tmp_path, "--set", "environments.per_version=2")
    caller = stub(server)
    answers = [
        caller.ModelInfer.future(request("fragile", raw=DEADLY if i % 10 == 5 else None, timeout=DEADLINE_US))
        for i in range(30)
    ]
    ends = collections.Counter()
    for number, answer in enumerate(answers):
        error = answer.exception(timeout=40)
        kind = "deadly" if number % 10 == 5 else "innocent"
        ends[kind, error.code().name if error else "OK", reason(error) if error else ""] += 1
    assert ends == {("innocent", "OK", ""): 27, ("deadly", "INTERNAL", "execution_crashed"): 3}
    assert total(server, "penstock_environment_restarts_total", function="fragile") <= 6
    assert settled_books(server, "fragile").outcomes == {("done", ""): 27, ("failed", "internal"): 3}


def test_the_retry_does_not_outlive_its_deadline(start, tmp_path):
    repository(tmp_path, "fragile", execute_delay_us=1000)
    server = start("--model-repository", tmp_path)
    caller = stub(server)
    # Earlier losses make the pause before the next start longer than this deadline.
    for _ in range(2):
        error = caller.ModelInfer.future(request("fragile", raw=DEADLY, timeout=DEADLINE_US)).exception(timeout=30)
        assert reason(error) == "execution_crashed"
        until(lambda: total(server, "penstock_environments_ready", function="fragile") == 1)
    error = caller.ModelInfer.future(request("fragile", raw=DEADLY, timeout=100_000)).exception(timeout=5)
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), error
    assert books(server, "fragile").in_flight == 0
