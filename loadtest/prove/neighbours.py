"""Two functions on one device: a victim that uses 30 % of its half, and a neighbour that offers ten times its own half. How much
longer the victim waits than alone, with turns and without. The device is one core: both environments are pinned to it, and what a
batch does there is spin. A batch of the neighbour is never interrupted, so it is what the victim may have to wait for."""

import json
import os
import subprocess
import threading

from built import generator
from callers import settled_books
from conftest import identity_repository
from overload import OTHER_CORE, pin

TITLE = "Neighbours on one device"
SECONDS = float(os.environ.get("PROVE_NEIGHBOUR_SECONDS", 20))
BATCH_US, NEIGHBOURS_BATCH_US = 10_000, 2_000
# Batches of one, so that a share of the device is a rate.
VICTIM_RPS = 0.3 * 0.5 * 1_000_000 / BATCH_US
NEIGHBOUR_RPS = 10 * 0.5 * 1_000_000 / NEIGHBOURS_BATCH_US
AIM = 1.2


def run(report, start, folder):
    tool = generator(report, cores=2)
    if tool is None:
        return
    report.figure(f"the victim: {VICTIM_RPS:.0f} requests a second of {BATCH_US / 1000:.0f} ms each; its neighbour: "
                  f"{NEIGHBOUR_RPS:.0f} of {NEIGHBOURS_BATCH_US / 1000:.0f} ms, which is five times the whole device")
    rows, p99 = [], {}
    for turns in (True, False):
        place = folder / ("turns" if turns else "none")
        options = {"delay_kind": "spin", "max_batch_size": 1, "penstock.threads": 1}
        options |= {"penstock.device": "one"} if turns else {}
        identity_repository(place, "victim", execute_delay_us=BATCH_US, **options)
        identity_repository(place, "neighbour", execute_delay_us=NEIGHBOURS_BATCH_US, **options)
        server = start("--model-repository", place)
        pin(server)
        alone = generate(tool, folder / "alone.json", server, "victim", VICTIM_RPS, 1)
        noise = threading.Thread(target=generate, args=(tool, folder / "noise.json", server, "neighbour", NEIGHBOUR_RPS, 2))
        noise.start()
        beside = generate(tool, folder / "beside.json", server, "victim", VICTIM_RPS, 1)
        noise.join()
        for name in ("victim", "neighbour"):
            books = settled_books(server, name)
            report.invariant(books.received == sum(books.outcomes.values()), f"every request of the {name} is counted once")
        neighbour = json.loads((folder / "noise.json").read_text())["steps"][0]
        words = "with turns" if turns else "without"
        p99[turns] = beside["latency"]["p99"] / alone["latency"]["p99"]
        rows.append((words, shown(alone), shown(beside), f"{p99[turns]:.2f}", f"{neighbour['throughput_rps']:.0f}"))
        report.progress(f"{words}: p99 {alone['latency']['p99']:.1f} ms alone, {beside['latency']['p99']:.1f} ms beside it")
        server.kill()
    report.table(("", "victim alone p50 / p99, ms", "beside the neighbour", "p99, times", "neighbour, answered a second"), rows)
    report.figure(f"the victim's p99 is {p99[True]:.2f} times what it is alone with turns, {p99[False]:.2f} times without "
                  f"(aim {AIM})")


def shown(step):
    return f"{step['latency']['p50']:.1f} / {step['latency']['p99']:.1f}"


def generate(tool, file, server, model, rps, seed):
    command = ["taskset", "-c", OTHER_CORE, tool, "run", "--target", f"grpc://{server.grpc}", "--model", model,
               "--rps", f"{rps:.0f}", "--seconds", SECONDS, "--seed", seed, "--drain", 30, "--max-in-flight", 60_000,
               "--json", file]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        raise RuntimeError(f"the generator failed: {done.stderr.strip()[-300:]}")
    return json.loads(file.read_text())["steps"][0]
