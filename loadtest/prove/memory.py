"""Memory of the front end and of each environment, at rest and after 10,000 requests to identity and 2,000 to MiniLM."""

import os

from cycles import text_request
from process import descriptors, private_mib, resident_mib, threads

from callers import environment_pids, request, settled_books, stub

TITLE = "Memory at rest and after 10,000 requests"
REQUESTS = int(os.environ.get("PROVE_REQUESTS", 10_000))
IN_FLIGHT = 32


def flood(caller, message, count):
    waiting = []
    for _ in range(count):
        waiting.append(caller.ModelInfer.future(message))
        if len(waiting) >= IN_FLIGHT:
            waiting.pop(0).result(timeout=60)
    for call in waiting:
        call.result(timeout=60)


def run(report, start, folder):
    server = start()
    names = ("minilm", "magika", "identity")

    def snapshot():
        pids = {"front end": server.process.pid} | {name: environment_pids(server, name)[0] for name in names}
        return {name: (resident_mib(pid), private_mib(pid), threads(pid), descriptors(pid))
                for name, pid in pids.items()}

    rest = snapshot()
    report.progress("at rest: " + ", ".join(f"{name} {now[0]:.1f} MiB" for name, now in rest.items()))
    caller = stub(server)
    flood(caller, request("identity"), REQUESTS)
    report.progress(f"{REQUESTS} requests to identity")
    flood(caller, text_request(), REQUESTS // 5)
    report.progress(f"{REQUESTS // 5} requests to minilm")
    after = snapshot()
    flood(caller, request("identity"), REQUESTS)
    again = snapshot()
    rows = [
        (name, f"{rest[name][0]:.1f} ({rest[name][1]:.1f})", f"{after[name][0]:.1f} ({after[name][1]:.1f})",
         f"{again[name][0]:.1f} ({again[name][1]:.1f})", again[name][2], again[name][3])
        for name in rest
    ]
    report.table(("process", "at rest, MiB (private)", "after the requests", f"after {REQUESTS} more", "threads",
                  "descriptors"), rows)
    growth = again["front end"][0] - after["front end"][0]
    report.figure(f"front end, second {REQUESTS} requests: {growth:+.1f} MiB")
    report.invariant(growth < 8, "the front end does not grow with the number of requests (8 MiB allowed)")
    books = settled_books(server, "identity")
    report.invariant(books.outcomes["done", ""] == 2 * REQUESTS, "every request was answered and counted")
