"""An environment that dies takes nothing with it: every request is answered or refused, and counted once."""

import os
import signal
import threading

import grpc
import pytest

from callers import Load, books, environment_pids, request, settled_books, stub, total, until, until_in_flight
from conftest import identity_repository


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def test_kill_under_load(start, tmp_path):
    identity_repository(tmp_path, "busy", execute_delay_us=5000)
    identity_repository(tmp_path, "calm")
    server = start("--model-repository", tmp_path)
    calm_pid = environment_pids(server, "calm")
    calm_answers, calm_errors, over = [], [], threading.Event()

    def keep_calm():
        caller = stub(server)
        while not over.wait(0.01):
            try:
                caller.ModelInfer(request("calm"), timeout=5)
                calm_answers.append(1)
            except grpc.RpcError as error:
                calm_errors.append(error)

    calm = threading.Thread(target=keep_calm)
    calm.start()
    load = Load(server, "busy")
    for kills in range(2):
        done = lambda: books(server, "busy").outcomes["done", ""]
        before = done()
        until(lambda: done() > before + 200, what="load is answered")
        [pid] = environment_pids(server, "busy")
        kill(pid)
        until(lambda: environment_pids(server, "busy") not in ([], [pid]), what="the environment comes back")
    before = done()
    until(lambda: done() > before + 200, what="load is answered again")
    codes = load.end()
    over.set()
    calm.join()

    print(dict(codes), dict(load.messages))
    assert set(codes) <= {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}, codes
    found = settled_books(server, "busy")
    assert found.received == sum(codes.values()), (found, codes)
    assert found.outcomes["done", ""] == codes["OK"]
    refused = sum(count for (outcome, _), count in found.outcomes.items() if outcome in ("shed", "failed"))
    assert refused == codes["UNAVAILABLE"] + codes["RESOURCE_EXHAUSTED"], (found, codes)
    assert total(server, "penstock_environment_restarts_total", function="busy") == 2
    assert environment_pids(server, "calm") == calm_pid
    assert calm_answers and not calm_errors, calm_errors[:3]
    assert total(server, "penstock_environment_restarts_total", function="calm") == 0


@pytest.mark.parametrize("environments, deadline", [(2, None), (1, 20_000_000)])
def test_what_an_environment_held_is_answered_by_another(start, tmp_path, environments, deadline):
    """With a second environment at once; with one, after its restart, if the deadline leaves the time."""
    identity_repository(tmp_path, "held", execute_delay_us=150_000)
    server = start("--model-repository", tmp_path, "--set", f"environments.per_version={environments}")
    pids = until(lambda: len(found := environment_pids(server, "held")) == environments and found)
    parameters = {} if deadline is None else {"timeout": deadline}
    callers = [stub(server) for _ in range(4)]
    answers = [callers[i % 4].ModelInfer.future(request("held", i, id=str(i), **parameters)) for i in range(50)]
    until_in_flight(server, "held", 50)
    kill(pids[0])
    for number, answer in enumerate(answers):
        result = answer.result(timeout=30)
        assert result.id == str(number)
    found = settled_books(server, "held")
    assert found.outcomes == {("done", ""): 50}
    assert environment_pids(server, "held")[0] != pids[0]
    # Every other environment was left alone.
    assert set(pids[1:]) <= set(environment_pids(server, "held"))


def test_without_a_deadline_a_lost_request_is_refused_at_once(start, tmp_path):
    identity_repository(tmp_path, "lone", execute_delay_us=300_000)
    server = start("--model-repository", tmp_path)
    answers = [stub(server).ModelInfer.future(request("lone", i)) for i in range(12)]
    until_in_flight(server, "lone", 12)
    kill(environment_pids(server, "lone")[0])
    for answer in answers:
        error = answer.exception(timeout=5)
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1
    assert settled_books(server, "lone").outcomes == {("shed", "no_capacity"): 12}
    until(lambda: environment_pids(server, "lone"), what="it comes back")
    until(lambda: total(server, "penstock_environments_ready", function="lone") == 1)
    stub(server).ModelInfer(request("lone"), timeout=10)


def test_what_comes_while_an_environment_restarts_waits_if_it_has_the_time(start, tmp_path):
    """Each start warms up with a batch, which takes a second."""
    identity_repository(tmp_path, "back", execute_delay_us=1_000_000)
    server = start("--model-repository", tmp_path)
    kill(environment_pids(server, "back")[0])
    until(lambda: total(server, "penstock_environments_ready", function="back") == 0)
    patient = [stub(server).ModelInfer.future(request("back", i, id=str(i), timeout=20_000_000)) for i in range(8)]
    with pytest.raises(grpc.RpcError) as refused:
        stub(server).ModelInfer(request("back", timeout=100_000), timeout=5)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert 100 < int(dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"]) < 10_000
    for number, answer in enumerate(patient):
        assert answer.result(timeout=30).id == str(number)
    assert settled_books(server, "back").outcomes == {("done", ""): 8, ("shed", "no_capacity"): 1}
