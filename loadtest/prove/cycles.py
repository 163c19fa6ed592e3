"""Loading and unloading MiniLM and identity a hundred times, a request to each in between, must leave the front end
with the descriptors, threads and memory it had, and no process behind. The front end closes its ends of a link and of
a log pipe just after it answers the unload, so descriptors are given a second; how long they took is told. (Counted at
once, they made one earlier run fail: 15 in place of 13 right after the last cycle.)"""

import os
import time

import numpy as np
from process import descriptors, named_descriptors, resident_mib, threads
from tritonclient.grpc import service_pb2 as pb

from callers import request, stub

TITLE = "100 load/unload cycles"
CYCLES = int(os.environ.get("PROVE_CYCLES", 100))
# After the allocator has settled, which takes the first cycles; what comes later must not grow with their number.
GROWTH_MIB_MAX = 8
SETTLE_S = 1
NAMES = ("minilm", "identity")


def text_request():
    message = pb.ModelInferRequest(model_name="minilm")
    message.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    text = b"a penstock lets through what the turbine can take"
    message.raw_input_contents.append(np.uint32(len(text)).tobytes() + text)
    return message


def run(report, start, folder):
    server = start("--model-control-mode", "explicit")
    pid, caller = server.process.pid, stub(server)

    def cycle():
        for name in NAMES:
            caller.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=60)
        caller.ModelInfer(text_request(), timeout=30)
        caller.ModelInfer(request("identity"), timeout=30)
        environments = sorted(resident_mib(environment) for environment in server.environments())
        for name in NAMES:
            caller.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=60)
        return environments

    def measure(number, environments):
        rows.append((number, f"{resident_mib(pid):.1f}", descriptors(pid), threads(pid),
                     ", ".join(f"{mib:.1f}" for mib in environments)))
        report.progress(f"cycle {number}: front end {rows[-1][1]} MiB, {rows[-1][2]} descriptors, {rows[-1][3]} threads")

    def settle(baseline):
        """The last ends of an ended environment's pipes close a moment after the unload is answered: seconds until the
        front end has its descriptors back, or None, and which were still there at first."""
        began, late = time.monotonic(), []
        while time.monotonic() < began + SETTLE_S:
            now = named_descriptors(pid)
            if len(now) <= len(baseline):
                return time.monotonic() - began, late
            late = late or sorted(now.items() - baseline.items())
            time.sleep(0.001)
        return None, late

    rows, left_behind, waits = [], 0, []
    measure(0, [])
    for number in range(1, CYCLES + 1):
        environments = cycle()
        left_behind += len(server.environments())
        if number == 1:
            time.sleep(SETTLE_S)
            baseline = named_descriptors(pid)
        waited, late = settle(baseline)
        waits.append(waited)
        if late:
            report.progress(f"cycle {number}: {late} still open, {'not ' if waited is None else ''}closed within "
                            f"{SETTLE_S if waited is None else waited:.3f} s")
        if number == 1 or number % 10 == 0 or number == CYCLES:
            measure(number, environments)
    report.table(("cycle", "front end MiB", "descriptors", "threads", "environments while loaded, MiB"), rows)
    late_rows = [row for row in rows if row[0] >= min(10, CYCLES)]
    growth = float(late_rows[-1][1]) - float(late_rows[0][1])
    report.figure(f"front end's memory from cycle {late_rows[0][0]} to {late_rows[-1][0]}: {growth:+.1f} MiB")
    report.invariant(left_behind == 0, "no process is left after an unload")
    report.invariant(growth <= GROWTH_MIB_MAX, f"the front end's memory stays within {GROWTH_MIB_MAX} MiB")
    settled = [wait for wait in waits if wait is not None]
    report.figure(f"descriptors were back when the unload was answered in {sum(wait < 0.001 for wait in settled)} of "
                  f"{CYCLES} cycles; the longest took {max(settled) * 1000:.0f} ms more")
    report.invariant(len(settled) == CYCLES and descriptors(pid) == len(baseline),
                     f"descriptors: {len(baseline)} after the first cycle, {descriptors(pid)} after the last; back within "
                     f"{SETTLE_S} s of every unload")
    report.invariant(threads(pid) <= rows[1][3] + 1, f"threads: {rows[1][3]} after the first cycle, "
                                                     f"{threads(pid)} after the last")
    report.invariant(server.process.poll() is None, "the server still runs")
