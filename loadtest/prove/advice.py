"""Whether the wait that a refusal advises is of use. Batches take 100 ms. At a random moment of one a request is refused,
because all slots are taken or because its deadline cannot be met, and told how long to wait; from then on the same request
is sent every 2 ms until one is admitted: that is the wait that was needed. The queue is filled by a burst, in some rounds
when the worker is idle (the first of the burst then runs alone), in others behind a full batch. A wait is good if it is
within 30 % of the one needed, or within 5 ms where less than 15 ms were needed."""

import collections
import http.client
import itertools
import random
import time

import grpc
from process import without_pauses

from callers import body, books, percentile, reason, request, stub, until
from conftest import identity_repository

TITLE = "Whether the advised wait is of use"
DELAY_MS, SLOTS, DEADLINE_MS = 100, 16, 250
# What was learned of batches is forgotten after a second without one, so the rounds follow each other closely.
WARM_UP, ROUNDS = 5, 40
EVERY_S, GIVE_UP_S = 0.002, 5
# A refusal takes a few milliseconds at most: one that was not refused while so many followed it is admitted.
ADMITTED_AFTER = 15
NEAR, SHORT_MS, SHORT_NEAR_MS = 0.3, 15, 5


def run(report, start, folder):
    identity_repository(folder, "full", execute_delay_us=DELAY_MS * 1000, **{"penstock.max_concurrency": SLOTS})
    identity_repository(folder, "late", execute_delay_us=DELAY_MS * 1000)
    server = start("--model-repository", folder)
    rows, waitless, reasons = [], 0, collections.Counter()
    for what, name, deadline_ms, bursts in (
        (f"one of {SLOTS} slots", "full", None, [SLOTS]),
        (f"a deadline of {DEADLINE_MS} ms, 40 to 64 before it", "late", DEADLINE_MS, range(40, 65)),
    ):
        for behind in (False, True):
            found = Rounds(server, name, deadline_ms, bursts, behind)
            with without_pauses():
                found.run()
            waitless += found.waitless
            reasons.update(found.reasons)
            words = f"{what}, {'behind a full batch' if behind else 'from idle'}"
            advised, needed = zip(*found.waits)
            ratios = [one / max(other, 1) for one, other in found.waits]
            good = sum(map(near, advised, needed)) / len(ratios)
            spread = f"{percentile(ratios, 0.1):.2f} to {percentile(ratios, 0.9):.2f}"
            rows.append((words, len(ratios), f"{percentile(advised, 0.5):.0f}", f"{percentile(needed, 0.5):.0f}",
                         f"{percentile(ratios, 0.5):.2f}", spread, f"{good:.0%}", dict(found.ends)))
            report.figure(f"{words}: {good:.0%} of {len(ratios)} good, advised / needed {rows[-1][4]} in the median ({spread} in "
                          f"8 of 10 rounds); {found.skipped} more rounds left out: there was room")
    report.table(("waited for", "rounds", "advised, median ms", "needed, median ms", "advised / needed", "8 of 10 rounds",
                  "good", "admitted then"), rows)
    report.invariant(waitless == 0, f"every refusal says how long to wait: {dict(reasons)}")


def near(advised, needed):
    return abs(advised - needed) <= (NEAR * needed if needed >= SHORT_MS else SHORT_NEAR_MS)


class Rounds:
    """Rounds of one kind. `waits` are pairs of the wait advised and the one needed, in ms."""

    def __init__(self, server, name, deadline_ms, bursts, behind):
        self.server, self.name, self.bursts, self.behind = server, name, bursts, behind
        self.parameters = {"timeout": deadline_ms * 1000} if deadline_ms else {}
        self.caller, self.random, self.filling = stub(server), random.Random(1), []
        host, port = server.http.split(":")
        self.http = http.client.HTTPConnection(host, int(port), timeout=30)
        self.waits, self.skipped, self.waitless = [], 0, 0
        self.reasons, self.ends = collections.Counter(), collections.Counter()

    def run(self):
        admitted = []
        for number in range(WARM_UP + ROUNDS):
            began = self.fill(self.random.choice(self.bursts))
            moment = began + self.random.uniform(0.05, 0.9) * DELAY_MS / 1000
            time.sleep(max(0, moment - time.perf_counter()))
            advised_ms = self.ask_over_http() if number % 2 else self.ask_over_grpc()
            refused_at = time.perf_counter()
            if advised_ms is None:
                self.skipped += number >= WARM_UP
                continue
            sent_at, call = self.ask_until_admitted()
            if number >= WARM_UP:
                self.waits.append((advised_ms, (sent_at - refused_at) * 1000))
                admitted.append(call)
            self.filling.append(call)
        for call in self.filling:
            call.exception(timeout=30)
        self.ends.update("OK" if call.exception() is None else reason(call.exception()) or call.exception().code().name
                         for call in admitted)

    def fill(self, count):
        """Fills the queue until so many are in flight; when the batch that runs began."""
        if self.behind:
            self.top_up(count)
            oldest = self.filling[0]
            until(oldest.done, what="the batch ends")
        else:
            for call in self.filling:
                call.exception(timeout=30)
        began = time.perf_counter()
        self.top_up(count)
        return began

    def top_up(self, count):
        self.filling = [call for call in self.filling if not call.done()]
        missing = count - len(self.filling)
        self.filling += [self.caller.ModelInfer.future(request(self.name)) for _ in range(missing)]

    def ask_over_grpc(self):
        """The wait advised, in ms; None if it was not refused."""
        call = self.caller.ModelInfer.future(request(self.name, **self.parameters))
        try:
            error = call.exception(timeout=ADMITTED_AFTER * EVERY_S)
        except grpc.FutureTimeoutError:
            error = None
        if error is None:
            self.filling.append(call)
            return None
        return self.advised(reason(error), dict(error.trailing_metadata()).get("grpc-retry-pushback-ms"))

    def ask_over_http(self):
        self.http.request("POST", f"/v2/models/{self.name}/infer", body(**self.parameters))
        response = self.http.getresponse()
        response.read()
        if response.status == 200:
            return None
        return self.advised(response.headers["x-penstock-shed-reason"], response.headers["x-amz-retry-after"])

    def advised(self, why, wait_ms):
        self.reasons[why] += 1
        self.waitless += wait_ms is None
        return float(wait_ms or 0)

    def ask_until_admitted(self):
        """The first that was not refused, with when it was sent. Those that came after it are cancelled."""
        sent, refused, began = [], 0, time.perf_counter()
        for number in itertools.count():
            time.sleep(max(0, began + number * EVERY_S - time.perf_counter()))
            while refused < len(sent) and self.was_refused(sent[refused][1]):
                refused += 1
            if len(sent) > refused + ADMITTED_AFTER:
                break
            now = time.perf_counter()
            assert now < began + GIVE_UP_S, f"nothing was admitted for {GIVE_UP_S} s"
            sent.append((now, self.caller.ModelInfer.future(request(self.name, **self.parameters))))
        for _, call in sent[:refused]:
            self.advised(reason(call.exception()), dict(call.trailing_metadata()).get("grpc-retry-pushback-ms"))
        for _, call in sent[refused + 1 :]:
            call.cancel()
        # Else what leaves might still hold the room that is filled next.
        left = [*self.filling, sent[refused][1]]
        until(lambda: books(self.server, self.name).in_flight <= sum(not call.done() for call in left), what="room")
        return sent[refused]

    @staticmethod
    def was_refused(call):
        return call.done() and call.exception() is not None
