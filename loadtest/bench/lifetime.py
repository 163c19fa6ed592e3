"""Start-up time, and memory at rest and after 10,000 requests, of the program as `make run` starts it: three demo models.

Called by bench.py. The first start is not measured: it reads the models from disk.
"""

import statistics
import time

from . import machine
from .programs import Failed, Server

IDENTITY_REQUESTS, IDENTITY_RPS = 10_000, 2500
EMBEDDINGS, EMBEDDINGS_IN_FLIGHT = 1000, 8


def measure(programs, plan, say):
    """(start-up, memory)."""
    starts = []
    with Server(programs):
        pass
    for number in range(plan.starts):
        with Server(programs) as server:
            answered = server.post("/v1/embeddings", {"model": "minilm", "input": "hello"})
            starts.append({"ready_s": server.ready_s, "first_answer_s": time.perf_counter() - server.began})
            if len(answered["data"][0]["embedding"]) != 384:
                raise Failed(f"the first answer is no embedding: {answered}")
            say(f"start {number + 1}: ready after {server.ready_s:.2f} s, "
                f"first answer after {starts[-1]['first_answer_s']:.2f} s")
            if number == plan.starts - 1:
                memory = _memory(programs, server, say)
    figures = {name: statistics.median(start[name] for start in starts) for name in starts[0]}
    return figures | {"runs": starts}, memory


def _memory(programs, server, say):
    time.sleep(1)
    processes = {"front end": server.pid} | server.environments()
    rest = {name: machine.memory_mib(pid) for name, pid in processes.items()}
    seconds = IDENTITY_REQUESTS / IDENTITY_RPS
    _load(programs, "--target", f"grpc://{server.grpc}", "--rps", IDENTITY_RPS, "--seconds", seconds, "--warmup", 0,
          "--arrivals", "constant")
    # As many as the generator goes round, and a few more: a closed loop ends by time, so it is repeated until then.
    while server.counter("penstock_requests_received_total", "minilm") < EMBEDDINGS:
        _load(programs, "--target", f"embeddings://{server.http}", "--tokens", "16", "--closed", EMBEDDINGS_IN_FLIGHT,
              "--seconds", 2, "--warmup", 0)
    time.sleep(1)
    after = {name: machine.memory_mib(pid) for name, pid in processes.items()}
    served = {name: int(server.counter("penstock_requests_received_total", name)) for name in ("identity", "minilm")}
    for name in processes:
        say(f"memory of {name}: {rest[name]['rss']:.1f} MiB at rest, {after[name]['rss']:.1f} MiB after the load "
            f"(shared pages divided: {rest[name]['pss']:.1f}, {after[name]['pss']:.1f})")
    return {"rest_mib": rest, "after_mib": after, "requests": served}


def _load(programs, *arguments):
    found, _ = programs.generate("run", *arguments, timeout_s=120)
    wrong = [outcome for outcome in found["steps"][0]["outcomes"] if outcome["class"] != "ok"]
    if wrong:
        raise Failed(f"{arguments}: {wrong}")
