"""A queue policy as Triton's users write it: how many may wait, for how long, and what becomes of those that do."""

import json
import os
import signal
import time

import grpc
import pytest

from callers import body, environment_pids, post, reason, request, settled_books, stub, until, until_in_flight
from conftest import identity_repository

# A batch holds one request, so that what runs and what waits can be told apart.
RUN_S = 0.6


def policy(folder, text, count=1, batching="", **parameters):
    """An identity function with this queue policy."""
    identity_repository(folder, "queued", max_batch_size=1, count=count, execute_delay_us=int(RUN_S * 1e6), **parameters)
    config = folder / "queued/config.pbtxt"
    batching = f"dynamic_batching {{ {batching} default_queue_policy {{ {text} }} }}"
    config.write_text(config.read_text().replace("dynamic_batching { }", batching))
    return folder


@pytest.mark.parametrize("count", [1, 2])
def test_max_queue_size_bounds_what_waits_and_not_what_runs(start, tmp_path, count):
    server = start("--model-repository", policy(tmp_path, "max_queue_size: 2", count=count))
    admitted = count + 2
    calls = [stub(server).ModelInfer.future(request("queued")) for _ in range(admitted)]
    until_in_flight(server, "queued", admitted)
    error = stub(server).ModelInfer.future(request("queued")).exception(timeout=5)
    assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_requests"), error
    assert "at most 2 may" in error.details()
    status, headers, _ = post(server, "queued", body())
    assert (status, headers["x-penstock-shed-reason"]) == (429, "queue_requests")
    assert [call.exception(timeout=10) for call in calls] == [None] * admitted
    assert settled_books(server, "queued").outcomes == {("done", ""): admitted, ("shed", "queue_requests"): 2}


def test_default_timeout_is_the_queues_and_not_the_runs(start, tmp_path):
    text = "default_timeout_microseconds: 200000"
    server = start("--model-repository", policy(tmp_path, text))
    runs = stub(server).ModelInfer.future(request("queued"))
    until_in_flight(server, "queued", 1)
    began = time.monotonic()
    error = stub(server).ModelInfer.future(request("queued")).exception(timeout=5)
    took = time.monotonic() - began
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and "200000 us in the queue" in error.details(), error
    assert took >= 0.2, "it was refused before its time was over"
    assert runs.exception(timeout=5) is None, "a run may take longer than the queue's timeout"
    assert settled_books(server, "queued").outcomes == {("done", ""): 1, ("expired", ""): 1}


def test_what_is_not_followed_is_said_once_a_load(start, tmp_path):
    batching = "preserve_ordering: true priority_levels: 2 default_priority_level: 1"
    server = start("--model-repository", policy(tmp_path, "default_timeout_microseconds: 900000", batching=batching))
    [line] = [line for line in server.log if "not followed" in line]
    fields = json.loads(line)
    fields = fields.get("fields", fields)
    for field in ("preserve_ordering", "allow_timeout_override"):
        assert f".{field}: " in fields["notes"], fields


def test_the_higher_priority_goes_first(start, tmp_path):
    """One runs; then three of the default, the lower level, and one that came last and is of the higher."""
    batching = "priority_levels: 2 default_priority_level: 2"
    server = start("--model-repository", policy(tmp_path, "", batching=batching))
    order, calls = [], []
    for name, priority in [("runs", 0), ("low 1", 0), ("low 2", 2), ("low 3", 7), ("high", 1)]:
        call = stub(server).ModelInfer.future(request("queued", priority=priority))
        call.add_done_callback(lambda _, name=name: order.append(name))
        calls.append(call)
        until_in_flight(server, "queued", len(calls))
    assert [call.exception(timeout=30) for call in calls] == [None] * 5
    until(lambda: len(order) == 5, what="all are told")
    assert order == ["runs", "high", "low 1", "low 2", "low 3"]


def test_a_batch_that_never_ends_costs_its_environment_and_nobody_else(start, tmp_path):
    """Fifty rows would run for five seconds, where half a one is allowed: tried once more, alone, and then told."""
    options = {"penstock.batch_timeout_ms": 500, "execute_delay_us_per_item": 100_000, "max_batch_size": 50}
    identity_repository(tmp_path, "hangs", **options)
    identity_repository(tmp_path, "calm")
    server = start("--model-repository", tmp_path)
    hung, calm = environment_pids(server, "hangs"), environment_pids(server, "calm")
    deadly = request("hangs", raw=bytes(4 * 50), timeout=20_000_000)
    deadly.inputs[0].shape[:] = [50, 1]
    error = stub(server).ModelInfer.future(deadly).exception(timeout=30)
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "execution_crashed"), error
    until(lambda: any("the model hangs" in line for line in server.log), what="the log says why")
    until(lambda: (pids := environment_pids(server, "hangs")) and pids != hung, what="there is a new environment")
    assert stub(server).ModelInfer.future(request("calm")).exception(timeout=10) is None
    assert environment_pids(server, "calm") == calm
    assert settled_books(server, "hangs").outcomes == {("failed", "internal"): 1}


def test_a_function_may_have_a_deadline_of_its_own(start, tmp_path):
    server = start("--model-repository", policy(tmp_path, "", **{"penstock.timeout_ms": 200}))
    began = time.monotonic()
    error = stub(server).ModelInfer.future(request("queued")).exception(timeout=5)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert 0.2 <= time.monotonic() - began < RUN_S
    status, _, _ = post(server, "queued", body())
    assert status == 504


def test_functions_that_share_a_device_take_turns(start, tmp_path):
    options = {"max_batch_size": 1, "execute_delay_us": 500_000, "penstock.device": "one"}
    for name in ("left", "right"):
        identity_repository(tmp_path, name, **options)
    server = start("--model-repository", tmp_path)
    began = time.monotonic()
    calls = [stub(server).ModelInfer.future(request(name, timeout=20_000_000)) for name in ("left", "right") for _ in range(2)]
    until_in_flight(server, "left", 2)
    assert [call.exception(timeout=10) for call in calls] == [None] * 4
    assert time.monotonic() - began >= 4 * 0.5, "one batch at a time on the device"
    # One that dies in its turn gives it back.
    left = stub(server).ModelInfer.future(request("left", timeout=20_000_000))
    until_in_flight(server, "left", 1)
    right = stub(server).ModelInfer.future(request("right", timeout=20_000_000))
    until_in_flight(server, "right", 1)
    [pid] = environment_pids(server, "left")
    os.kill(pid, signal.SIGKILL)
    assert [call.exception(timeout=15) for call in (left, right)] == [None, None]
