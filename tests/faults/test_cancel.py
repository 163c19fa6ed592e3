"""A caller that left: what it asked for is never run, and its slot is free at once."""

import http.client
import threading
import time

import grpc
import pytest

from callers import body, books, executions, post, request, settled_books, stub, until, until_in_flight
from conftest import identity_repository

BATCH_US = 400_000


@pytest.fixture
def busy(start, tmp_path):
    """One worker that is busy with a first request, three more slots, batches of one."""
    options = {"penstock.max_concurrency": 4, "max_batch_size": 1, "execute_delay_us": BATCH_US}
    identity_repository(tmp_path, "slow", **options)
    server = start("--model-repository", tmp_path)
    server.first = stub(server).ModelInfer.future(request("slow", 1.0))
    until_in_flight(server, "slow", 1)
    return server


def in_flight(server):
    return books(server, "slow").in_flight


def test_grpc_call(busy):
    caller = stub(busy)
    waiting = [caller.ModelInfer.future(request("slow")) for _ in range(3)]
    until(lambda: in_flight(busy) == 4)
    refused = caller.ModelInfer.future(request("slow")).exception(timeout=5)
    assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in waiting:
        call.cancel()
    began = time.monotonic()
    until(lambda: in_flight(busy) == 1, what="the slots are free")
    freed_ms = (time.monotonic() - began) * 1000
    live = [caller.ModelInfer.future(request("slow", 7.0)) for _ in range(2)]
    assert [call.exception(timeout=10) for call in live] == [None, None]
    assert busy.first.exception(timeout=5) is None
    print(f"slots free after {freed_ms:.1f} ms")
    assert freed_ms < BATCH_US / 1000, "freed when the batch ended, not when the caller left"
    assert executions(busy, "slow") == (3, 3), "the first and the two live ones, nothing else"
    found = settled_books(busy, "slow")
    expected = {("done", ""): 3, ("cancelled", ""): 3, ("shed", "environment_concurrency"): 1}
    assert found.outcomes == expected


def test_http_disconnection(busy):
    host, port = busy.http.split(":")
    connections = [http.client.HTTPConnection(host, int(port)) for _ in range(3)]
    for connection in connections:
        connection.request("POST", "/v2/models/slow/infer", body())
    until(lambda: in_flight(busy) == 4)
    assert post(busy, "slow", body())[0] == 429
    for connection in connections:
        connection.close()
    until(lambda: in_flight(busy) == 1, what="the slots are free")
    assert post(busy, "slow", body())[0] == 200
    assert busy.first.exception(timeout=5) is None
    assert executions(busy, "slow") == (2, 2)
    assert settled_books(busy, "slow").outcomes["cancelled", ""] == 3


def test_stream_reset_with_many_in_flight(start, tmp_path):
    identity_repository(tmp_path, "slow", max_batch_size=1, execute_delay_us=BATCH_US)
    server = start("--model-repository", tmp_path)
    over = threading.Event()

    def requests():
        for number in range(64):
            yield request("slow", number, id=str(number))
        over.wait(20)

    stream = stub(server).ModelStreamInfer(requests())
    until(lambda: in_flight(server) == 64, what="all 64 are in flight")
    stream.cancel()
    until(lambda: in_flight(server) == 0, timeout_s=2, what="all are given up")
    over.set()
    # What ran when the stream was reset ends; of the rest nothing runs before what came later.
    assert stub(server).ModelInfer.future(request("slow")).exception(timeout=10) is None
    items, batches = executions(server, "slow")
    assert items == batches <= 3, "at most the batches already begun, and the live one"
    found = settled_books(server, "slow")
    assert found.outcomes["cancelled", ""] >= 62 and found.received == 65


def test_cancelled_while_it_runs(busy):
    """Its slot is free at once, although the worker cannot be stopped; its answer is thrown away."""
    busy.first.cancel()
    until(lambda: in_flight(busy) == 0, timeout_s=BATCH_US / 1e6 * 0.8, what="the slot is free before the batch ends")
    assert stub(busy).ModelInfer.future(request("slow", 3.0)).exception(timeout=10) is None
    assert settled_books(busy, "slow").outcomes == {("done", ""): 1, ("cancelled", ""): 1}
