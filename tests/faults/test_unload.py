"""Unloading answers what is in flight, ends the process, and can be undone."""

import pathlib
import threading
import time

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from callers import body, environment_pids, post, request, settled_books, stub, total, until
from conftest import identity_repository

EXPLICIT = ("--model-control-mode", "explicit")


def test_unload_drains_and_ends_the_process(start, tmp_path):
    identity_repository(tmp_path, "guest", max_batch_size=1, execute_delay_us=120_000)
    server = start("--model-repository", tmp_path, *EXPLICIT, "--load-model", "guest")
    caller = stub(server)
    [pid] = environment_pids(server, "guest")
    answers = [caller.ModelInfer.future(request("guest", number)) for number in range(5)]
    until(lambda: total(server, "penstock_requests_in_flight", function="guest") == 5)
    unloading = caller.RepositoryModelUnload.future(pb.RepositoryModelUnloadRequest(model_name="guest"))
    until(lambda: state(caller, "guest")[0] != "READY", what="it is being unloaded")
    late = stub(server).ModelInfer.future(request("guest")).exception(timeout=5)
    assert late.code() == grpc.StatusCode.UNAVAILABLE, late
    assert [answer.exception(timeout=10) for answer in answers] == [None] * 5
    assert unloading.exception(timeout=10) is None
    assert not pathlib.Path(f"/proc/{pid}").exists(), "unloading is process exit"
    assert server.environments() == []
    assert state(caller, "guest") == ("UNAVAILABLE", "unloaded")

    error = caller.ModelInfer.future(request("guest")).exception(timeout=5)
    assert error.code() == grpc.StatusCode.NOT_FOUND and "has no available versions" in error.details(), error
    status, _, text = post(server, "guest", body())
    assert status == 404 and b"has no available versions" in text, text

    caller.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="guest"), timeout=20)
    assert state(caller, "guest")[0] == "READY"
    caller.ModelInfer(request("guest"), timeout=10)
    [again] = environment_pids(server, "guest")
    assert again != pid
    found = settled_books(server, "guest")
    assert found.outcomes["done", ""] == 6


def state(caller, name):
    index = caller.RepositoryIndex(pb.RepositoryIndexRequest()).models
    return next((model.state, model.reason) for model in index if model.name == name)


def test_loads_at_the_same_time_do_not_undo_each_other(start, tmp_path):
    names = [f"guest{number}" for number in range(6)]
    for name in names:
        identity_repository(tmp_path, name)
    server = start("--model-repository", tmp_path, *EXPLICIT)
    caller = stub(server)

    def all_at_once(call, message):
        calls = [call.future(message(model_name=name)) for name in names]
        assert [one.exception(timeout=20) for one in calls] == [None] * len(names)

    for _ in range(3):
        all_at_once(caller.RepositoryModelLoad, pb.RepositoryModelLoadRequest)
        for name in names:
            assert state(caller, name)[0] == "READY", name
            caller.ModelInfer(request(name), timeout=5)
        assert len(server.environments()) == len(names)
        all_at_once(caller.RepositoryModelUnload, pb.RepositoryModelUnloadRequest)
        assert server.environments() == []


def test_new_content_takes_over_without_a_gap(start, tmp_path):
    """A reload under load: every request is answered by the old content or the new one."""
    identity_repository(tmp_path, "guest", execute_delay_us=1000)
    server = start("--model-repository", tmp_path, *EXPLICIT, "--load-model", "guest")
    [old] = environment_pids(server, "guest")
    over, answers, errors = threading.Event(), [], []

    def call():
        caller = stub(server)
        while not over.is_set():
            try:
                caller.ModelInfer(request("guest"))
                answers.append(time.monotonic())
            except grpc.RpcError as error:
                errors.append((error.code().name, error.details()))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) > 50)
    identity_repository(tmp_path, "guest", execute_delay_us=2000)
    stub(server).RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="guest"), timeout=20)
    count = len(answers)
    until(lambda: len(answers) > count + 50)
    until(lambda: not pathlib.Path(f"/proc/{old}").exists(), what="the old process is gone")
    over.set()
    for thread in threads:
        thread.join(10)
    assert not errors, errors[:3]
    [new] = environment_pids(server, "guest")
    assert new != old


@pytest.mark.parametrize("environments", [2])
def test_unload_waits_for_every_environment(start, tmp_path, environments):
    identity_repository(tmp_path, "guest", execute_delay_us=100_000)
    setting = ("--set", f"environments.per_version={environments}")
    server = start("--model-repository", tmp_path, *EXPLICIT, "--load-model", "guest", *setting)
    until(lambda: len(environment_pids(server, "guest")) == environments)
    caller = stub(server)
    answers = [caller.ModelInfer.future(request("guest")) for _ in range(10)]
    until(lambda: total(server, "penstock_requests_in_flight", function="guest") == 10)
    caller.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="guest"), timeout=20)
    assert server.environments() == []
    assert [answer.exception(timeout=5) for answer in answers] == [None] * 10
