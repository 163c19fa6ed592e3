"""kill -9 of one environment of twelve, the oldest, every second for a minute, while more requests are in flight than all
of them can run: every request is answered or refused, and the metrics count each exactly once. A function beside it
notices nothing. Pauses before restarts grow with each death of the same one, so fewer than twelve may stand."""

import os
import signal
import threading
import time

import grpc

from callers import Load, environment_pids, request, settled_books, stub, total, until
from conftest import identity_repository

TITLE = "kill -9 every second at saturation"
SECONDS = int(os.environ.get("PROVE_KILL_SECONDS", 60))
ENVIRONMENTS, BATCH, DELAY_US = 12, 2, 20_000
CAPACITY_RPS = ENVIRONMENTS * BATCH * 1_000_000 // DELAY_US
UNARY, STREAMS, PER_STREAM = 60, 12, 8


def run(report, start, folder):
    identity_repository(folder, "busy", execute_delay_us=DELAY_US, max_batch_size=BATCH)
    identity_repository(folder, "calm")
    server = start("--model-repository", folder, "--set", f"environments.per_version={ENVIRONMENTS}")
    for name in ("busy", "calm"):
        until(lambda: len(environment_pids(server, name)) == ENVIRONMENTS, what="all environments are ready")
    calm_pids = environment_pids(server, "calm")
    over, calm = threading.Event(), {"OK": 0, "errors": 0}

    def keep_calm():
        caller = stub(server)
        while not over.wait(0.02):
            try:
                caller.ModelInfer(request("calm"), timeout=5)
                calm["OK"] += 1
            except grpc.RpcError:
                calm["errors"] += 1

    neighbour = threading.Thread(target=keep_calm)
    neighbour.start()
    load = Load(server, "busy", UNARY, STREAMS, PER_STREAM, timeout=10_000_000)
    began, kills, standing, busy = time.monotonic(), 0, [], []
    for second in range(1, SECONDS + 1):
        time.sleep(max(0, began + second - time.monotonic()))
        pids = environment_pids(server, "busy")
        standing.append(len(pids))
        busy.append(total(server, "penstock_requests_in_flight", function="busy"))
        if pids:
            os.kill(pids[0], signal.SIGKILL)
            kills += 1
        if second % 10 == 0:
            report.progress(f"{kills} kills in {second} s, {sum(load.codes.values())} answers, {len(pids)} stood")
    lasted_s = time.monotonic() - began
    codes = load.end()
    over.set()
    neighbour.join()
    books = settled_books(server, "busy")
    report.figure(f"{kills} of {SECONDS} seconds saw a kill, {lasted_s:.1f} s in all; {min(standing)} to {max(standing)} of "
                  f"{ENVIRONMENTS} environments stood just before it")
    report.figure(f"{codes['OK'] / lasted_s:.0f} requests a second answered OK, of {CAPACITY_RPS} that all environments could; "
                  f"{min(busy):.0f} to {max(busy):.0f} in flight, {ENVIRONMENTS * BATCH} can run at once")
    report.figure(f"answers by code: {dict(codes)}")
    report.figure(f"counted by the server: {dict((' '.join(key).strip(), n) for key, n in books.outcomes.items())}")
    for words, count in load.messages.most_common(5):
        report.figure(f"{count} times: {words}")
    report.invariant(books.received == sum(codes.values()), f"received {books.received}, sent {sum(codes.values())}")
    report.invariant(books.received == sum(books.outcomes.values()) and books.in_flight == 0,
                     "received is the sum of all outcomes, nothing is in flight")
    report.invariant(books.outcomes["done", ""] == codes["OK"], "done is what was answered OK")
    allowed = {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL"}
    report.invariant(set(codes) <= allowed, "no other code, nothing lost on a stream")
    crashed = books.outcomes["failed", "internal"]
    report.invariant(codes["INTERNAL"] == crashed, f"INTERNAL only for requests whose retry was killed too ({crashed})")
    restarts = total(server, "penstock_environment_restarts_total", function="busy")
    report.figure(f"restarts: {restarts:.0f}")
    report.invariant(restarts <= kills, "no environment was restarted but after a kill")
    report.invariant(calm["errors"] == 0 and environment_pids(server, "calm") == calm_pids,
                     f"the neighbour answered {calm['OK']} requests without an error, in the same processes")
