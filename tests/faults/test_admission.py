"""Full is said early, fast, in every protocol's own words, and counted by reason."""

import http.client
import json
import socket
import time

import grpc
import pytest

from callers import body, details, percentile, post, reason, request, settled_books, stub, total, until, until_in_flight
from conftest import identity_repository

REFUSALS = 60


def repository(folder):
    options = {"penstock.max_concurrency": 2, "max_batch_size": 1, "execute_delay_us": 600_000}
    return identity_repository(folder, "full", **options)


@pytest.fixture
def full(start, tmp_path):
    """Both slots taken."""
    server = start("--model-repository", repository(tmp_path))
    server.taken = [stub(server).ModelInfer.future(request("full")) for _ in range(2)]
    until_in_flight(server, "full", 2)
    return server


def test_slots_over_grpc(full):
    caller = stub(full)
    latencies = []
    for _ in range(REFUSALS):
        began = time.perf_counter()
        error = caller.ModelInfer.future(request("full")).exception(timeout=5)
        latencies.append((time.perf_counter() - began) * 1000)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
    trailers = dict(error.trailing_metadata())
    assert int(trailers["grpc-retry-pushback-ms"]) >= 1
    assert trailers["x-penstock-shed-reason"] == reason(error) == "environment_concurrency"
    assert details(error)["ErrorInfo"][2] == b"penstock"
    wait = details(error)["RetryInfo"]
    assert wait.get(1), wait
    print(f"gRPC refusals: p50 {percentile(latencies, 0.5):.2f} ms, p99 {percentile(latencies, 0.99):.2f} ms")
    assert [taken.exception(timeout=10) for taken in full.taken] == [None, None]
    expected = {("done", ""): 2, ("shed", "environment_concurrency"): REFUSALS}
    assert settled_books(full, "full").outcomes == expected
    assert total(full, "nv_inference_request_failure", model="full", reason="REJECTED") == REFUSALS


def test_slots_over_http(full):
    latencies = []
    for _ in range(REFUSALS):
        began = time.perf_counter()
        status, headers, text = post(full, "full", body())
        latencies.append((time.perf_counter() - began) * 1000)
        assert status == 429, text
    assert int(headers["Retry-After"]) >= 1
    assert 1 <= int(headers["x-amz-retry-after"]) <= int(headers["Retry-After"]) * 1000
    assert headers["x-penstock-shed-reason"] == "environment_concurrency"
    assert "2" in json.loads(text)["error"]
    print(f"HTTP refusals: p50 {percentile(latencies, 0.5):.2f} ms, p99 {percentile(latencies, 0.99):.2f} ms")
    assert [taken.exception(timeout=10) for taken in full.taken] == [None, None]
    assert settled_books(full, "full").outcomes["shed", "environment_concurrency"] == REFUSALS


def test_function_concurrency(start, tmp_path):
    identity_repository(tmp_path, "full", execute_delay_us=300_000)
    server = start("--model-repository", tmp_path, "--set", "functions.concurrency=1")
    first = stub(server).ModelInfer.future(request("full"))
    until_in_flight(server, "full", 1)
    error = stub(server).ModelInfer.future(request("full")).exception(timeout=5)
    assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "function_concurrency")
    assert first.exception(timeout=5) is None


def test_what_a_function_reserves_is_kept_for_it_and_is_all_it_has(start, tmp_path):
    identity_repository(tmp_path, "reserved", execute_delay_us=1_500_000, **{"penstock.reserved_concurrency": 2})
    identity_repository(tmp_path, "other", execute_delay_us=1_500_000)
    server = start("--model-repository", tmp_path, "--set", "limits.concurrency=3")
    taken = [stub(server).ModelInfer.future(request("other"))]
    until_in_flight(server, "other", 1)
    error = stub(server).ModelInfer.future(request("other")).exception(timeout=10)
    assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "server_concurrency"), error
    status, headers, _ = post(server, "other", body())
    assert (status, headers["x-penstock-shed-reason"]) == (429, "server_concurrency")
    taken += [stub(server).ModelInfer.future(request("reserved")) for _ in range(2)]
    until_in_flight(server, "reserved", 2)
    error = stub(server).ModelInfer.future(request("reserved")).exception(timeout=10)
    assert reason(error) == "function_concurrency", error
    assert [call.exception(timeout=10) for call in taken] == [None] * 3
    assert settled_books(server, "other").outcomes == {("done", ""): 1, ("shed", "server_concurrency"): 2}


def test_each_caller_finds_room_however_many_requests_another_sends(start, tmp_path):
    identity_repository(tmp_path, "shared", execute_delay_us=1_500_000, **{"penstock.max_concurrency": 16})
    server = start("--model-repository", tmp_path, "--set", "callers.header=x-api-key")
    caller = stub(server)

    def send(key, count):
        return [caller.ModelInfer.future(request("shared"), metadata=[("x-api-key", key)]) for _ in range(count)]

    assert send("modest", 1)[0].exception(timeout=10) is None  # both have been seen
    greedy = send("greedy", 40)
    until(lambda: sum(call.done() for call in greedy) == 26, what="the greedy caller has all but an eighth of 16 slots")
    refused = [call.exception() for call in greedy if call.done()]
    assert {reason(error) for error in refused} == {"caller_concurrency"}, refused[0]
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    status, headers, text = post(server, "shared", body(), headers={"X-Api-Key": "greedy"})
    assert (status, headers["x-penstock-shed-reason"]) == (429, "caller_concurrency"), text
    modest = send("modest", 2)
    assert [call.exception(timeout=10) for call in modest] == [None, None]
    assert sum(call.exception(timeout=10) is None for call in greedy) == 14


def test_the_most_that_a_caller_may_have(start, tmp_path):
    identity_repository(tmp_path, "shared", execute_delay_us=1_500_000)
    options = ["--set", "callers.header=authorization", "--set", "callers.concurrency=2"]
    server = start("--model-repository", tmp_path, *options)
    taken = [stub(server).ModelInfer.future(request("shared"), metadata=[("authorization", "one")]) for _ in range(2)]
    until_in_flight(server, "shared", 2)
    refused = stub(server).ModelInfer.future(request("shared"), metadata=[("authorization", "one")])
    assert reason(refused.exception(timeout=10)) == "caller_concurrency"
    # Another one has its own, and so have those who say nothing.
    assert post(server, "shared", body(), headers={"Authorization": "two"})[0] == 200
    assert post(server, "shared", body())[0] == 200
    assert [call.exception(timeout=10) for call in taken] == [None, None]


def test_overload_codes_as_triton_has_them(start, tmp_path):
    """The code changes, the reason does not."""
    server = start("--model-repository", repository(tmp_path), "--set", "overload_codes=triton")
    taken = [stub(server).ModelInfer.future(request("full")) for _ in range(2)]
    until_in_flight(server, "full", 2)
    error = stub(server).ModelInfer.future(request("full")).exception(timeout=5)
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "environment_concurrency")
    status, headers, _ = post(server, "full", body())
    assert (status, headers["x-penstock-shed-reason"]) == (503, "environment_concurrency")
    assert [call.exception(timeout=10) for call in taken] == [None, None]


@pytest.fixture
def small(start, tmp_path):
    """A budget of two messages, and a function that holds what it is given for a while."""
    identity_repository(tmp_path, "held", execute_delay_us=600_000)
    limits = ["--set", f"limits.message_bytes={1 << 20}", "--set", f"limits.memory_budget_bytes={1 << 20}"]
    server = start("--model-repository", tmp_path, *limits)
    server.holder = stub(server).ModelInfer.future(request("held", raw=bytes(500_000)))
    until_in_flight(server, "held", 1)
    return server


def test_memory_budget_over_http_before_the_body_is_read(small):
    host, port = small.http.split(":")
    connection = socket.create_connection((host, int(port)), timeout=5)
    head = f"POST /v2/models/held/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {900_000}\r\n\r\n"
    connection.sendall(head.encode())  # and not a byte of the body
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert response.status == 429
    assert response.headers["x-penstock-shed-reason"] == "memory_budget"
    assert int(response.headers["Retry-After"]) >= 1
    connection.close()
    assert small.holder.exception(timeout=10) is None
    counted = total(small, "penstock_requests_total", outcome="shed", reason="memory_budget")
    assert counted == 1, "every refusal is counted"
    # Everything came back: the same bytes fit now, and as many in the answer.
    assert stub(small).ModelInfer.future(request("held", raw=bytes(500_000))).exception(timeout=10) is None


def test_memory_budget_over_grpc(small):
    error = stub(small).ModelInfer.future(request("held", raw=bytes(700_000))).exception(timeout=5)
    assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "memory_budget"), error
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1
    # A small request still fits beside it.
    assert stub(small).ModelInfer.future(request("held")).exception(timeout=10) is None
    assert small.holder.exception(timeout=10) is None
    assert total(small, "penstock_requests_total", outcome="shed", reason="memory_budget") == 1


def test_the_advised_wait_is_the_measured_one(start, tmp_path):
    """With runs of 100 ms a slot is free when the one that runs has ended: that is what is said, not a constant."""
    options = {"penstock.max_concurrency": 2, "max_batch_size": 1, "execute_delay_us": 100_000}
    server = start("--model-repository", identity_repository(tmp_path, "steady", **options))
    caller = stub(server)
    waits = []
    deadline = time.monotonic() + 2
    calls = []
    while time.monotonic() < deadline:
        call = caller.ModelInfer.future(request("steady"))
        calls.append(call)
        time.sleep(0.02)
        if call.done() and call.exception() is not None:
            waits.append(int(dict(call.exception().trailing_metadata())["grpc-retry-pushback-ms"]))
    for call in calls:
        call.exception(timeout=5)
    late = waits[len(waits) // 2 :]
    low, middle, high = (percentile(late, share) for share in (0.1, 0.5, 0.9))
    print(f"advised waits: p10 {low} ms, p50 {middle} ms, p90 {high} ms of {len(waits)} refusals")
    assert low <= 35 and 20 <= middle <= 80 and 60 <= high <= 200
