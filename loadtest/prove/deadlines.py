"""One batch of five seconds runs; 100 requests with deadlines of 20 to 200 ms come meanwhile. Each must be answered
DEADLINE_EXCEEDED, when its deadline passes, and never run. Times are taken in this Python client, its own cost included."""

import collections
import random
import threading
import time

from callers import executions, percentile, request, settled_books, stub, until_in_flight
from conftest import identity_repository

TITLE = "Deadlines while the worker is busy"
BATCH_S = 5
REQUESTS = 100
BOUNDS_MS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 500)


def run(report, start, folder):
    identity_repository(folder, "slow", execute_delay_us=BATCH_S * 1_000_000)
    for how in ("OIP parameter timeout", "grpc-timeout"):
        server = start("--model-repository", folder)
        first = stub(server).ModelInfer.future(request("slow"))
        until_in_flight(server, "slow", 1)
        caller, seeded, ends, lock = stub(server), random.Random(1), [], threading.Lock()
        warm = caller.ModelInfer.future(request("slow", timeout=1000))  # connects
        warm.exception(timeout=5)
        for _ in range(REQUESTS):
            timeout_ms = seeded.randint(20, 200)
            began = time.perf_counter()

            def answered(call, began=began, timeout_ms=timeout_ms):
                late_ms = (time.perf_counter() - began) * 1000 - timeout_ms
                with lock:
                    ends.append((late_ms, call.exception().code().name if call.exception() else "OK"))

            if how == "grpc-timeout":
                call = caller.ModelInfer.future(request("slow"), metadata=[("grpc-timeout", f"{timeout_ms}m")])
            else:
                call = caller.ModelInfer.future(request("slow", timeout=timeout_ms * 1000))
            call.add_done_callback(answered)
            time.sleep(0.02)
        until = time.monotonic() + 2
        while len(ends) < REQUESTS and time.monotonic() < until:
            time.sleep(0.01)
        busy = not first.done()
        late = [late for late, _ in ends]
        codes = dict(collections.Counter(code for _, code in ends))
        counts = [sum(low < one <= high for one in late)
                  for low, high in zip((-1e9, *BOUNDS_MS), (*BOUNDS_MS, float("inf")))]
        names = [f"≤ {bound}" for bound in BOUNDS_MS] + [f"> {BOUNDS_MS[-1]}"]
        report.figure(f"{how}: answer minus deadline p50 {percentile(late, 0.5):.2f} ms, p99 {percentile(late, 0.99):.2f} ms, "
                      f"worst {max(late):.2f} ms; codes {codes}")
        report.table(["answer − deadline, ms", *names], [[how, *counts]])
        report.invariant(busy, "all were answered while the worker was still busy")
        report.invariant(codes == {"DEADLINE_EXCEEDED": REQUESTS}, f"all {REQUESTS} are DEADLINE_EXCEEDED")
        report.invariant(min(late) > -1, "none before its deadline")
        first.result(timeout=30)
        stub(server).ModelInfer.future(request("slow")).result(timeout=30)
        books = settled_books(server, "slow")
        report.invariant(executions(server, "slow") == (2, 2), "none of them ran: two batches of one, first and last")
        expected = {("done", ""): 2, ("expired", ""): REQUESTS + 1}
        report.invariant(books.outcomes == expected, "each is counted as expired, once")
        server.kill()
