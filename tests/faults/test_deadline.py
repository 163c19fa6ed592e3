"""Deadlines are kept while every worker is busy: answered when they pass, as what they are, and never run."""

import collections
import threading
import time

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from callers import body, executions, percentile, post, request, settled_books, stub, until_in_flight
from conftest import identity_repository

BATCH_S = 0.5
TIMEOUTS_MS = (50, 100, 200)
# Generous: two cores run the server, the environment and these clients. `make prove` prints the true distribution.
LATE_MS = 250


@pytest.fixture
def busy(start, tmp_path):
    identity_repository(tmp_path, "slow", execute_delay_us=int(BATCH_S * 1e6))
    server = start("--model-repository", tmp_path)
    server.first = stub(server).ModelInfer.future(request("slow"))
    until_in_flight(server, "slow", 1)
    return server


def histogram(late_ms):
    bounds = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    counts = collections.Counter(next((f"<= {bound}" for bound in bounds if late <= bound), "more") for late in late_ms)
    return dict(counts)


def check(server, ends, how):
    """`ends`: (timeout in ms, latency in ms, code)."""
    late = [latency - timeout for timeout, latency, _ in ends]
    print(f"{how}: answer - deadline in ms: p50 {percentile(late, 0.5):.1f}, p99 {percentile(late, 0.99):.1f},"
          f" worst {max(late):.1f}, {histogram(late)}")
    assert max(late) < LATE_MS
    assert min(late) > -5, "refused before its deadline had passed"
    assert server.first.exception(timeout=5) is None
    # What came later runs later: had dead work been kept, it would have run by the time this is answered.
    assert stub(server).ModelInfer.future(request("slow")).exception(timeout=5) is None
    assert executions(server, "slow") == (2, 2), "dead work ran"
    assert settled_books(server, "slow").outcomes == {("done", ""): 2, ("expired", ""): len(ends)}


def call_all(server, call):
    """Twelve calls at once, each with one of the timeouts."""
    ends, threads = [], []
    for number in range(12):
        timeout = TIMEOUTS_MS[number % 3]

        def one(timeout=timeout):
            began = time.monotonic()
            code = call(timeout)
            ends.append((timeout, (time.monotonic() - began) * 1000, code))

        threads.append(threading.Thread(target=one))
        threads[-1].start()
    for thread in threads:
        thread.join(10)
    assert len(ends) == 12
    return ends


def test_parameter_over_grpc(busy):
    caller = stub(busy)
    caller.ServerLive(pb.ServerLiveRequest())

    def call(timeout_ms):
        error = caller.ModelInfer.future(request("slow", timeout=timeout_ms * 1000)).exception(timeout=5)
        return error.code().name

    ends = call_all(busy, call)
    assert {code for *_, code in ends} == {"DEADLINE_EXCEEDED"}
    check(busy, ends, "OIP parameter timeout over gRPC")


def test_grpc_timeout(busy):
    """The header is sent by hand: a client that knows its own deadline would answer itself."""
    caller = stub(busy)
    caller.ServerLive(pb.ServerLiveRequest())

    def call(timeout_ms):
        metadata = [("grpc-timeout", f"{timeout_ms}m")]
        error = caller.ModelInfer.future(request("slow"), metadata=metadata).exception(timeout=5)
        return error.code().name, error.details()

    ends = call_all(busy, call)
    assert {code for *_, code in ends} == {
        ("DEADLINE_EXCEEDED", "the deadline passed before the answer was ready")
    }, ends
    check(busy, ends, "grpc-timeout")


def test_client_deadline(busy):
    """With a client that keeps its own deadline too, whoever is first: it is the same code, never CANCELLED."""
    caller = stub(busy)
    caller.ServerLive(pb.ServerLiveRequest())

    def call(timeout_ms):
        error = caller.ModelInfer.future(request("slow"), timeout=timeout_ms / 1000).exception(timeout=5)
        return error.code().name

    ends = call_all(busy, call)
    assert {code for *_, code in ends} == {"DEADLINE_EXCEEDED"}
    assert busy.first.exception(timeout=5) is None
    outcomes = settled_books(busy, "slow").outcomes
    # The client gives up in the same moment as the server: either word is true, and each is counted once.
    assert outcomes["expired", ""] + outcomes["cancelled", ""] == 12 and outcomes["done", ""] == 1


@pytest.mark.parametrize("how", ["header", "parameter"])
def test_http(busy, how):
    def call(timeout_ms):
        if how == "header":
            return post(busy, "slow", body(), {"x-penstock-timeout-ms": str(timeout_ms)})[0]
        return post(busy, "slow", body(timeout=timeout_ms * 1000))[0]

    ends = call_all(busy, call)
    assert {code for *_, code in ends} == {504}
    check(busy, ends, f"HTTP {how}")


def test_stream(busy):
    """On a stream a request's deadline is its own: the stream goes on."""
    sent = {}

    def requests():
        for number in range(9):
            sent[str(number)] = time.monotonic()
            yield request("slow", number, id=str(number), timeout=TIMEOUTS_MS[number % 3] * 1000)

    ends = []
    for answer in stub(busy).ModelStreamInfer(requests()):
        id = answer.infer_response.id
        status = answer.infer_response.parameters["grpc-status"].int64_param
        ends.append((TIMEOUTS_MS[int(id) % 3], (time.monotonic() - sent[id]) * 1000, status))
    assert len(ends) == 9 and {status for *_, status in ends} == {grpc.StatusCode.DEADLINE_EXCEEDED.value[0]}
    check(busy, ends, "stream")


