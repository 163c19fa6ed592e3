"""kill -9 of one environment of two, every two seconds for a minute, under unary calls and streams: every request is
answered or refused, and the metrics count each exactly once. A function beside it notices nothing. While the
pauses before restarts grow (to 10 s) there may be nothing to kill, and requests are refused."""

import os
import signal
import threading
import time

import grpc

from callers import Load, environment_pids, request, settled_books, stub, total
from conftest import identity_repository

TITLE = "kill -9 every 2 s under load"
SECONDS = float(os.environ.get("PROVE_KILL_SECONDS", 60))
EVERY_S = 2


def run(report, start, folder):
    identity_repository(folder, "busy", execute_delay_us=5000)
    identity_repository(folder, "calm")
    server = start("--model-repository", folder, "--set", "environments.per_version=2")
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
    load = Load(server, "busy", timeout=10_000_000)
    began, kills = time.monotonic(), 0
    while time.monotonic() < began + SECONDS:
        time.sleep(EVERY_S)
        if pids := environment_pids(server, "busy"):
            os.kill(pids[kills % len(pids)], signal.SIGKILL)
            kills += 1
            if kills % 5 == 0:
                report.progress(f"{kills} kills, {sum(load.codes.values())} answers, {len(pids)} environments stood")
    codes = load.end()
    over.set()
    neighbour.join()
    books = settled_books(server, "busy")
    report.figure(f"{kills} kills; answers by code: {dict(codes)}; {sum(codes.values()) / SECONDS:.0f} requests a second")
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
