"""Loading and unloading MiniLM and identity a hundred times, a request to each in between, must leave the front end
with the descriptors, threads and memory it had, and no process behind."""

import os

import numpy as np
from process import descriptors, resident_mib, threads
from tritonclient.grpc import service_pb2 as pb

from callers import request, stub

TITLE = "100 load/unload cycles"
CYCLES = int(os.environ.get("PROVE_CYCLES", 100))
# After the allocator has settled, which takes the first cycles; what comes later must not grow with their number.
GROWTH_MIB_MAX = 8
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

    rows, left_behind = [], 0
    measure(0, [])
    for number in range(1, CYCLES + 1):
        environments = cycle()
        left_behind += len(server.environments())
        if number == 1 or number % 10 == 0 or number == CYCLES:
            measure(number, environments)
    report.table(("cycle", "front end MiB", "descriptors", "threads", "environments while loaded, MiB"), rows)
    settled = [row for row in rows if row[0] >= min(10, CYCLES)]
    growth = float(settled[-1][1]) - float(settled[0][1])
    report.figure(f"front end's memory from cycle {settled[0][0]} to {settled[-1][0]}: {growth:+.1f} MiB")
    report.invariant(left_behind == 0, "no process is left after an unload")
    report.invariant(growth <= GROWTH_MIB_MAX, f"the front end's memory stays within {GROWTH_MIB_MAX} MiB")
    report.invariant(descriptors(pid) == rows[1][2], f"descriptors: {rows[1][2]} after the first cycle, "
                                                     f"{descriptors(pid)} after the last")
    report.invariant(threads(pid) <= rows[1][3] + 1, f"threads: {rows[1][3]} after the first cycle, "
                                                     f"{threads(pid)} after the last")
    report.invariant(server.process.poll() is None, "the server still runs")
