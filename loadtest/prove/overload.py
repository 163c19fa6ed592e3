"""Half to ten times what the model can do, offered in an open loop whatever comes back: how much is done in time, how long
a refusal takes, and whether the advised wait is of use. The model has one core and one thread; front end and generator
share the other, and a step in which the generator used over 70 % of its core is marked. The capacity is measured under
the same pinning, in a closed loop. Beside it the same load with the deadlines kept from the server and no bound on what
waits, so that the gain is seen."""

import json
import os
import subprocess

from built import generator
from callers import settled_books
from conftest import identity_repository

TITLE = "Overload, half to ten times capacity"
SECONDS = float(os.environ.get("PROVE_SWEEP_SECONDS", 6))
LOADS = (0.5, 1, 2, 5, 10)
GENERATOR_BUSY_PERCENT = 70
# The least share of the capacity that is to be done in time at or above it, and how fast a refusal is to be.
AIMS = {"identity": 0.95, "minilm": 0.90}
REFUSAL_MS = 2
MODEL_CORE, OTHER_CORE = 0, 1


def run(report, start, folder):
    tool = generator(report, cores=2)
    if tool is None:
        return
    identity_repository(folder, "fixed", execute_delay_us=10_000, delay_kind="spin", **{"penstock.threads": 1})
    one_thread = ("--set", "environments.threads=1")
    unbounded = ("--set", "environments.concurrency=65536", "--set", "functions.concurrency=1000000")
    only = os.environ.get("PROVE_MODELS", "identity minilm").split()
    models = {
        "identity": (("--model-repository", folder), "fixed", ["--tensor-bytes", 16], 100, 64),
        "minilm": (("--model-control-mode", "explicit", "--load-model", "minilm"), "minilm",
                   ["--tokens", 16], 1000, 64),
    }
    for name in only:
        arguments, function, payload, deadline_ms, closed = models[name]
        found = {}
        for policies in ("on", "off"):
            server = start(*arguments, *one_thread, *(unbounded if policies == "off" else ()))
            pin(server)
            # gRPC for both: HTTP, which carries one request at a time, would have thousands of connections share a core.
            common = ["--target", f"grpc://{server.grpc}", "--model", function, *payload]
            if policies == "on":
                step = generate(tool, folder, [*common, "--closed", closed])
                capacity = step["throughput_rps"]
                report.figure(f"{name}: {capacity:.0f} requests a second with {closed} in flight; deadline {deadline_ms} ms")
            within = ["--deadline-ms", deadline_ms] if policies == "on" else ["--goodput-ms", deadline_ms]
            for load in LOADS:
                options = [*common, *within, "--rps", f"{capacity * load:.0f}", "--max-in-flight", 60_000]
                found[policies, load] = step = generate(tool, folder, options)
                report.progress(f"{name}, {load} times, policies {policies}: {step['goodput_rps'] / capacity:.3f} in time")
            if policies == "on":
                books = settled_books(server, function)
                report.invariant(books.received == sum(books.outcomes.values()) and books.in_flight == 0,
                                 f"{name}: every request is counted once: {told(books.outcomes)}")
            server.kill()
        report.table(("load", "in time / capacity", "off", "admitted p50 / p99, ms", "off", "refusal p50 / p99, ms",
                      "advised wait p50 / p99, ms", "generator, % of its core"),
                     [row(found["on", load], found["off", load], load, capacity) for load in LOADS])
        above = [found["on", load] for load in LOADS if load >= 1]
        least = min(step["goodput_rps"] for step in above) / capacity
        report.figure(f"{name}: at least {least:.3f} of capacity in time from 1 to 10 times the load (aim {AIMS[name]})")
        slowest = max(step["refusal"]["p99"] for step in above)
        report.figure(f"{name}: refusals within {slowest:.2f} ms p99 (aim {REFUSAL_MS})")


def pin(server):
    """The environments onto one core, the front end onto the other, every thread."""
    cores = {server.process.pid: OTHER_CORE} | {pid: MODEL_CORE for pid in server.environments()}
    for pid, core in cores.items():
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), {core})


def generate(tool, folder, options):
    file = folder / "step.json"
    command = ["taskset", "-c", OTHER_CORE, tool, "run", *options, "--seconds", SECONDS, "--drain", 30, "--json", file]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        raise RuntimeError(f"the generator failed: {done.stderr.strip()[-300:]}")
    return json.loads(file.read_text())["steps"][0]


def row(on, off, load, capacity):
    refusal, wait, busy = on["refusal"], on["retry_after"], on["generator_cpu_percent"]
    waits = f"{wait['p50']:.0f} / {wait['p99']:.0f}" if wait["count"] else ""
    return (f"{load}×", f"{on['goodput_rps'] / capacity:.3f}", f"{off['goodput_rps'] / capacity:.3f}",
            f"{on['latency']['p50']:.0f} / {on['latency']['p99']:.0f}",
            f"{off['latency']['p50']:.0f} / {off['latency']['p99']:.0f}",
            f"{refusal['p50']:.2f} / {refusal['p99']:.2f}" if refusal["count"] else "", waits,
            f"{busy:.0f}" + (" (invalid)" if busy > GENERATOR_BUSY_PERCENT else ""))


def told(outcomes):
    return ", ".join(f"{' '.join(key).strip()} {count:.0f}" for key, count in sorted(outcomes.items()))
