"""`identity` over gRPC against a bare tonic echo of the same message, and from it what the link costs.

Called by bench.py. The server holds `identity` alone, so that its one environment's processor time is this model's.
"""

from . import machine
from .programs import Echo, Failed, Server

SIZES = {"16 B": 16, "64 KiB": 65536}
SATURATED = 64
# A generator above this share of its core may itself be the limit; as in loadtest/src/summary.rs.
BUSY_PERCENT = 70.0


def measure(programs, plan, say):
    """One row for each size and number in flight."""
    rows = []
    with Server(programs, "identity") as server, Echo(programs, machine.threads()) as echo:
        _check(server)
        for size, tensor_bytes in SIZES.items():
            for closed in plan.identity_in_flight:
                rounds = plan.identity_rounds * (2 if closed == SATURATED else 1)
                row = _compare(programs, server, echo, tensor_bytes, closed, rounds, plan.identity_slice_s)
                rows.append({"message": size} | row)
                say(f"identity {size}, {closed} in flight: {row['penstock_rps']:.0f} of {row['echo_rps']:.0f} requests/s, "
                    f"ratio {row['ratio']['median']:.3f}; link and environment {row['link_us']:.1f} us a request")
    return rows


def _check(server):
    values = [0.5, -1.25, 3e10, 0.0]
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": values}
    answer = server.post("/v2/models/identity/infer", {"inputs": [tensor]})
    if answer["outputs"][0]["data"] != values:
        raise Failed(f"identity answered {answer['outputs']} to {values}")


def _compare(programs, server, echo, tensor_bytes, closed, rounds, slice_s):
    environment = server.environments()["identity"]
    watched = {"front_end": server.pid, "environment": environment, "echo": echo.pid}

    def requests():
        return server.counter("penstock_requests_received_total", "identity")

    served, used = requests(), {name: machine.cpu_us(pid) for name, pid in watched.items()}
    found, _ = programs.generate(
        "compare", "--a", f"grpc://{server.grpc}", "--b", f"grpc://{echo.grpc}", "--tensor-bytes", tensor_bytes,
        "--closed", closed, "--slice", slice_s, "--rounds", rounds, "--pid-a", server.pid, "--pid-b", echo.pid,
        timeout_s=60 + 4 * slice_s * (rounds + 1))
    used = {name: machine.cpu_us(pid) - used[name] for name, pid in watched.items()}
    served = requests() - served
    wrong = found["a"]["not_ok"] + found["b"]["not_ok"]
    if wrong or not served:
        raise Failed(f"identity, {tensor_bytes} bytes, {closed} in flight: {wrong} requests had no result")
    # The echo's own count is not known here; the generator measured its time for each result in the same slices.
    front_end, in_environment = used["front_end"] / served, used["environment"] / served
    echoed = found["b"]["server_cpu_us"]
    sides = {"penstock": found["a"], "echo": found["b"]}
    generator = {name: side["generator_cpu_us"] for name, side in sides.items()}
    share = {name: generator[name] * side["throughput_rps"]["median"] / 1e4 for name, side in sides.items()}
    return {
        "in_flight": closed,
        "rounds": rounds,
        "ratio": found["ratio"],
        "penstock_rps": found["a"]["throughput_rps"]["median"],
        "echo_rps": found["b"]["throughput_rps"]["median"],
        "p50_ms": {name: side["p50_ms"]["median"] for name, side in sides.items()},
        "p99_ms": {name: side["p99_ms"]["median"] for name, side in sides.items()},
        "cpu_us": {"front_end": front_end, "environment": in_environment, "echo": echoed, "generator": generator},
        "link_us": in_environment + front_end - echoed,
        "generator_core_percent": share,
        "generator_busy": max(share.values()) > BUSY_PERCENT,
    }
