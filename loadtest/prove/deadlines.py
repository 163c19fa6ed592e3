"""Three things while a batch of seconds runs. 100 requests with deadlines of 20 to 200 ms come: each must be answered
DEADLINE_EXCEEDED, when its deadline passes, and never run. All slots but one are held by requests whose deadline passes:
then their slots must be free. 200 requests that wait are cancelled at once, over gRPC, on a stream and by closing HTTP
connections: none of them may run, and their slots must be free. Times are taken in this Python client, its own cost
included; those of deadlines also by penstock-loadtest, whose own cost is small."""

import collections
import http.client
import json
import random
import subprocess
import threading
import time

from built import generator
from process import without_pauses

import callers
from callers import executions, percentile, reason, request, settled_books, stub, until_in_flight
from conftest import identity_repository

TITLE = "Deadlines and cancelling while the worker is busy"
BATCH_S = 5
REQUESTS = 100
# The generator's: requests with one deadline, at a steady rate of which no two are near each other.
GENERATED_BATCH_S, GENERATED_S, GENERATED_RPS, GENERATED_MS = 12, 9, 50, 100
BOUNDS_MS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 500)
# The dead hold all slots but one until their deadline; live ones come every millisecond from just before it.
SLOTS, ROUNDS, DEAD_MS, EARLY_MS = 8, 20, 250, 30
FREED_MS, FREED_MS_MAX = 5, 1000
# A live one that was not refused by then is admitted, and waits for the worker.
REFUSED_WITHIN_S = 0.05
LEAVERS, LEAVE_BATCH_S = 200, 2


def run(report, start, folder):
    with without_pauses():
        deadlines_kept(report, start, folder)
        deadlines_by_the_generator(report, start, folder)
        slots_of_the_dead(report, start, folder)
        nothing_cancelled_runs(report, start, folder)


def deadlines_kept(report, start, folder):
    identity_repository(folder, "slow", execute_delay_us=BATCH_S * 1_000_000)
    for how in ("OIP parameter timeout", "grpc-timeout"):
        server = start("--model-repository", folder)
        first = stub(server).ModelInfer.future(request("slow"))
        until_in_flight(server, "slow", 1)
        caller, seeded, ends, lock = stub(server), random.Random(1), [], threading.Lock()
        warm = caller.ModelInfer.future(request("slow", timeout=1000))  # connects
        warm.exception(timeout=5)
        for _ in range(REQUESTS):
            timeout_ms = seeded.randint(20, 200)
            began = time.perf_counter()

            def answered(call, began=began, timeout_ms=timeout_ms):
                late_ms = (time.perf_counter() - began) * 1000 - timeout_ms
                with lock:
                    ends.append((late_ms, call.exception().code().name if call.exception() else "OK"))

            if how == "grpc-timeout":
                call = caller.ModelInfer.future(request("slow"), metadata=[("grpc-timeout", f"{timeout_ms}m")])
            else:
                call = caller.ModelInfer.future(request("slow", timeout=timeout_ms * 1000))
            call.add_done_callback(answered)
            time.sleep(0.02)
        until = time.monotonic() + 2
        while len(ends) < REQUESTS and time.monotonic() < until:
            time.sleep(0.01)
        busy = not first.done()
        late = [late for late, _ in ends]
        codes = dict(collections.Counter(code for _, code in ends))
        counts = [sum(low < one <= high for one in late)
                  for low, high in zip((-1e9, *BOUNDS_MS), (*BOUNDS_MS, float("inf")))]
        names = [f"≤ {bound}" for bound in BOUNDS_MS] + [f"> {BOUNDS_MS[-1]}"]
        report.figure(f"{how}: answer minus deadline p50 {percentile(late, 0.5):.2f} ms, p99 {percentile(late, 0.99):.2f} ms, "
                      f"worst {max(late):.2f} ms; codes {codes}")
        report.table(["answer − deadline, ms", *names], [[how, *counts]])
        report.invariant(busy, "all were answered while the worker was still busy")
        report.invariant(codes == {"DEADLINE_EXCEEDED": REQUESTS}, f"all {REQUESTS} are DEADLINE_EXCEEDED")
        report.invariant(min(late) > -1, "none before its deadline")
        first.result(timeout=30)
        stub(server).ModelInfer.future(request("slow")).result(timeout=30)
        books = settled_books(server, "slow")
        report.invariant(executions(server, "slow") == (2, 2), "none of them ran: two batches of one, first and last")
        expected = {("done", ""): 2, ("expired", ""): REQUESTS + 1}
        report.invariant(books.outcomes == expected, "each is counted as expired, once")
        server.kill()


def deadlines_by_the_generator(report, start, folder):
    if (tool := generator(report)) is None:
        return
    identity_repository(folder, "long", execute_delay_us=GENERATED_BATCH_S * 1_000_000)
    for how, scheme, code in (("grpc-timeout", "grpc", "DEADLINE_EXCEEDED"), ("OIP timeout over HTTP", "http", "HTTP 504")):
        server = start("--model-repository", folder)
        first = stub(server).ModelInfer.future(request("long"))
        until_in_flight(server, "long", 1)
        file = folder / f"{scheme}.json"
        address = server.grpc if scheme == "grpc" else server.http
        command = [tool, "run", "--target", f"{scheme}://{address}", "--model", "long", "--rps", GENERATED_RPS, "--warmup", 0,
                   "--seconds", GENERATED_S, "--deadline-ms", GENERATED_MS, "--json", file]
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
        step = json.loads(file.read_text())["steps"][0]
        late = {name: step["expiry"][name] - GENERATED_MS for name in ("p50", "p99", "max")}
        report.figure(f"{how}, by penstock-loadtest: answer minus deadline p50 {late['p50']:.2f} ms, p99 {late['p99']:.2f} ms, "
                      f"worst {late['max']:.2f} ms, of {step['expiry']['count']}")
        ends = {end["name"]: end["count"] for end in step["outcomes"]}
        report.invariant(ends == {code: step["intended"]} and not first.done(), f"while the worker was busy all ended {ends}")
        server.kill()


def slots_of_the_dead(report, start, folder):
    identity_repository(folder, "kept", execute_delay_us=BATCH_S * 1_000_000, **{"penstock.max_concurrency": SLOTS})
    rounds, dead_ends, refusals, accounts = [], collections.Counter(), collections.Counter(), []
    while len(rounds) < ROUNDS:
        # Once a batch has ended its time is known, and the dead would be refused when they come: a server for each batch.
        server = start("--model-repository", folder)
        caller, began, before = stub(server), time.perf_counter(), len(rounds)
        running = caller.ModelInfer.future(request("kept"))
        until_in_flight(server, "kept", 1)
        refused_here = admitted_here = 0
        while len(rounds) < ROUNDS and time.perf_counter() < began + BATCH_S - 1:
            dead = []
            for _ in range(SLOTS - 1):
                dead.append((time.perf_counter(), caller.ModelInfer.future(request("kept", timeout=DEAD_MS * 1000))))
            until_in_flight(server, "kept", SLOTS)
            time.sleep(max(0, dead[0][0] + (DEAD_MS - EARLY_MS) / 1000 - time.perf_counter()))
            inside, outside = try_to_enter(caller, dead[-1][0] + (DEAD_MS + FREED_MS_MAX) / 1000)
            dead_ends.update(call.exception(timeout=5).code().name for _, call in dead)
            refusals.update((call.exception().code().name, reason(call.exception())) for _, call in outside)
            rounds.append(Round(dead, inside, outside))
            refused_here, admitted_here = refused_here + len(outside), admitted_here + len(inside)
            for _, call in inside:
                call.cancel()
            until_in_flight(server, "kept", 1)
        still_ran = not running.done()
        running.result(timeout=30)
        caller.ModelInfer.future(request("kept")).result(timeout=30)
        outcomes = {("done", ""): 2, ("expired", ""): (SLOTS - 1) * (len(rounds) - before),
                    ("cancelled", ""): admitted_here, ("shed", "environment_concurrency"): refused_here}
        found = settled_books(server, "kept").outcomes, executions(server, "kept")
        accounts.append(still_ran and found == (outcomes, (2, 2)))
        report.progress(f"{len(rounds)} rounds; {' '.join(map(str, found))}")
        server.kill()
    entered = [found for found in rounds if found.inside]
    for which, late in (("the first deadline of the dead passed until the first of the", [found.first_ms for found in entered]),
                        (f"their last one passed until the last of the {SLOTS - 1}", [found.last_ms for found in entered])):
        report.figure(f"from when {which} live ones that got in was sent: p50 {percentile(late, 0.5):.2f} ms, p99 "
                      f"{percentile(late, 0.99):.2f} ms, worst {max(late):.2f} ms ({len(late)} rounds)")
    report.figure(f"for the first the aim is {FREED_MS} ms, met in {sum(found.first_ms <= FREED_MS for found in entered)} of "
                  f"{ROUNDS} rounds; to the last it takes {SLOTS - 1} tries, a millisecond or more apart, and between the first "
                  f"and the last to get in {sum(found.between for found in entered)} were refused in all rounds together")
    report.invariant(all(found.full for found in rounds), "while the dead held the slots live ones were refused")
    report.invariant(set(refusals) == {("RESOURCE_EXHAUSTED", "environment_concurrency")},
                     f"so they were when all slots were taken again: {dict(refusals)}")
    report.invariant(set(dead_ends) == {"DEADLINE_EXCEEDED"}, f"the dead are {dict(dead_ends)}")
    report.invariant(all(found.inside == SLOTS - 1 for found in rounds),
                     f"within {FREED_MS_MAX} ms as many were admitted as had died ({SLOTS - 1}), and no more")
    report.invariant(all(accounts), "all that while the batch ran; none of the dead ran; each request is counted once")


class Round:
    """What became of the requests of one round; each comes with when it was sent."""

    def __init__(self, dead, inside, outside):
        self.inside = len(inside)
        if inside:
            first, last = inside[0][0], inside[-1][0]
            self.first_ms = (first - dead[0][0]) * 1000 - DEAD_MS
            self.last_ms = (last - dead[-1][0]) * 1000 - DEAD_MS
            self.between = sum(first < sent < last for sent, _ in outside)
        self.full = bool(outside) and (not inside or outside[0][0] < inside[0][0])


def try_to_enter(caller, until):
    """One request after the other, a millisecond apart, until as many as there are slots for were not refused, or it is
    `until`. Those admitted and those refused, each with when it was sent."""
    sent = []
    while time.perf_counter() < until:
        sent.append((time.perf_counter(), caller.ModelInfer.future(request("kept"))))
        time.sleep(0.001)
        known = time.perf_counter() - REFUSED_WITHIN_S
        if sum(at < known and not call.done() for at, call in sent) >= SLOTS - 1:
            break
    time.sleep(REFUSED_WITHIN_S)
    return [one for one in sent if not one[1].done()], [one for one in sent if one[1].done()]


def nothing_cancelled_runs(report, start, folder):
    # All that wait fit in one batch: what follows it shows soon what was run.
    slots = {"max_batch_size": 256, "penstock.max_concurrency": LEAVERS + 1}
    identity_repository(folder, "left", execute_delay_us=LEAVE_BATCH_S * 1_000_000, **slots)
    server = start("--model-repository", folder)
    caller, rows, busy, full, free = stub(server), [], True, True, True
    for door, send in (("gRPC, unary", unary), ("gRPC, one stream", stream), ("HTTP", connections)):
        running = caller.ModelInfer.future(request("left"))
        until_in_flight(server, "left", 1)
        leave = send(server)
        until_in_flight(server, "left", LEAVERS + 1)
        refusal = caller.ModelInfer.future(request("left")).exception(timeout=5)
        full &= reason(refusal) == "environment_concurrency"
        began = time.perf_counter()
        leave()
        left_ms = (time.perf_counter() - began) * 1000
        while callers.books(server, "left").in_flight > 1 and time.perf_counter() < began + LEAVE_BATCH_S:
            time.sleep(0.001)
        gone_ms = (time.perf_counter() - began) * 1000
        busy &= not running.done()
        live = [caller.ModelInfer.future(request("left")) for _ in range(LEAVERS)]
        errors = [call.exception(timeout=30) for call in live]
        ends = collections.Counter("OK" if error is None else reason(error) for error in errors)
        free &= ends == {"OK": LEAVERS} and running.exception(timeout=30) is None
        items, _ = executions(server, "left")
        rows.append((door, LEAVERS, f"{left_ms:.1f}", f"{gone_ms:.1f}", dict(ends), items))
        report.progress(f"{door}: {gone_ms:.1f} ms until only the running one was in flight")
    report.table(("door", "cancelled", "cancelling took, ms", "only the running one in flight after, ms", "as many others",
                  "have run so far"), rows)
    report.invariant(full, "while they waited all slots were taken: one more was refused")
    report.invariant(busy, "they had left before the batch they waited for ended")
    report.invariant(free, f"their slots were free: {LEAVERS} others were admitted at once and answered")
    ran, doors = executions(server, "left")[0], len(rows)
    report.invariant(ran == doors * (LEAVERS + 1), f"none of them ran: {ran} ran, {doors} times one and {LEAVERS} others")
    outcomes = {("done", ""): doors * (LEAVERS + 1), ("cancelled", ""): doors * LEAVERS,
                ("shed", "environment_concurrency"): doors}
    report.invariant(settled_books(server, "left").outcomes == outcomes, "each is counted as cancelled, once")


def unary(server):
    caller = stub(server)
    calls = [caller.ModelInfer.future(request("left")) for _ in range(LEAVERS)]
    return lambda: [call.cancel() for call in calls]


def stream(server):
    over = threading.Event()

    def requests():
        for number in range(LEAVERS):
            yield request("left", id=str(number))
        over.wait(30)

    call = stub(server).ModelStreamInfer(requests())

    def leave():
        call.cancel()
        over.set()

    return leave


def connections(server):
    host, port = server.http.split(":")
    opened = [http.client.HTTPConnection(host, int(port)) for _ in range(LEAVERS)]
    for connection in opened:
        connection.request("POST", "/v2/models/left/infer", callers.body())
    return lambda: [connection.close() for connection in opened]
