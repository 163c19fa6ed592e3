"""Five times what one worker can take, offered in an open loop whatever comes back: how long a refusal takes, whether
what is admitted keeps flowing, and whether every end is counted by its reason."""

import json
import os
import pathlib
import subprocess

from callers import settled_books
from conftest import identity_repository

TITLE = "Refusals under 5× overload"
SECONDS = int(os.environ.get("PROVE_OVERLOAD_SECONDS", 10))
DELAY_US, BATCH, SLOTS = 20_000, 8, 32
CAPACITY_RPS = BATCH * 1_000_000 // DELAY_US
ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(report, start, folder):
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    tool = next((path for profile in ("release", "debug") if (path := target / profile / "penstock-loadtest").exists()), None)
    if tool is None:
        return report.invariant(False, "penstock-loadtest is built (cargo build --release --bin penstock-loadtest)")
    identity_repository(folder, "full", execute_delay_us=DELAY_US, **{"penstock.max_concurrency": SLOTS})
    server = start("--model-repository", folder)
    report.figure(f"capacity by configuration: batches of {BATCH} in {DELAY_US // 1000} ms, {CAPACITY_RPS} requests a second; "
                  f"{SLOTS} slots")
    sent, rows = 0, []
    for door, scheme, address in (("gRPC", "grpc", server.grpc), ("HTTP", "http", server.http)):
        file = folder / f"{door}.json"
        command = [tool, "run", "--target", f"{scheme}://{address}", "--model", "full", "--rps", 5 * CAPACITY_RPS,
                   "--seconds", SECONDS, "--warmup", 0, "--json", file]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode != 0:
            report.figure(f"penstock-loadtest said: {done.stderr.strip()[-300:]}")
        step = json.loads(file.read_text())["steps"][0]
        ends = {f"{end['class']} {end['name']}".strip(): end["count"] for end in step["outcomes"]}
        report.progress(f"{door}: {ends}")
        unsent = sum(count for name, count in ends.items() if "sent" in name)
        sent += step["intended"] - unsent
        refusal, latency, wait = step["refusal"], step["latency"], step["retry_after"]
        rows.append((door, 5 * CAPACITY_RPS, f"{step['throughput_rps']:.0f}", refusal["count"],
                     f"{refusal['p50']:.2f} / {refusal['p99']:.2f} / {refusal['max']:.2f}",
                     f"{latency['p50']:.1f} / {latency['p99']:.1f}", f"{wait['p50']:.0f} / {wait['p99']:.0f}"))
        report.figure(f"{door}: refusals p50 {refusal['p50']:.2f} ms, p99 {refusal['p99']:.2f} ms, from sending to reading")
    report.table(("door", "offered a second", "answered a second", "refused", "refusal p50 / p99 / worst, ms",
                  "answer p50 / p99, ms", "advised wait p50 / p99, ms"), rows)
    books = settled_books(server, "full")
    report.figure(f"counted by the server: {dict((' '.join(key).strip(), n) for key, n in books.outcomes.items())}")
    report.invariant(books.received == sum(books.outcomes.values()), "every request is counted once")
    report.invariant(books.received == sent, f"sent {sent}, received {books.received}")
    kinds = {outcome for outcome, _ in books.outcomes}
    report.invariant(kinds <= {"done", "shed"}, f"answered or shed, nothing else: {sorted(kinds)}")
