"""MiniLM over HTTP against onnxruntime in process: the same texts, weights, tokenizer and threads, in alternating slices.

Called by bench.py. A slice's rate is all of its texts over the time until the last of them was done, on both sides, so
that a batch that is cut by the end of a slice counts for neither.
"""

import csv
import io
import statistics
import time

from . import machine, reference, texts
from .identity import BUSY_PERCENT
from .programs import Failed, Server

# Name to what the generator is told.
LENGTHS = {"short": "16", "long": "128", "mixed": "lognormal:8-256"}
IN_FLIGHT = (1, 8, 32)
# In the order of a first round: the server between the two references.
SIDES = ("spinning", "penstock", "no spinning")


def measure(programs, plan, say):
    """What the reference is, and one row for each kind of text and number in flight."""
    threads = machine.threads()
    about = reference.describe(threads)
    say(f"reference: onnxruntime {about['version']}, {about['nodes']} nodes, {about['nodes_optimised']} optimised "
        f"({about['fused']}), lowest cosine {about['lowest_cosine_together']:.7f}")
    encoders = {"spinning": reference.Encoder(threads, True), "no spinning": reference.Encoder(threads, False)}
    rows = []
    with Server(programs, "minilm") as server:
        about["server_lowest_cosine"] = _check(server)
        for number, (name, tokens) in enumerate(LENGTHS.items()):
            say(f"texts: {name}")
            rounds = [texts.recorded(programs, tokens, seed) for seed in range(1, plan.embedding_rounds + 1)]
            for in_flight in IN_FLIGHT:
                left = len(LENGTHS) * len(IN_FLIGHT) - len(rows)
                row = Cell(programs, server, encoders, tokens, in_flight, plan).run(rounds, plan.share_s(left))
                rows.append({"texts": name, "tokens": tokens} | row)
                say(f"minilm {name}, {in_flight} in flight: {row['penstock_rps']:.1f} requests/s, "
                    f"in process {row['in_process_rps']}, ratio {row['ratio']['median']:.3f} ({row['ratio_to']})")
        _check(server)
    return about, rows


def _check(server):
    wanted = [golden["text"] for golden in reference.goldens()]
    body = {"model": "minilm", "input": wanted}
    vectors = [entry["embedding"] for entry in server.post("/v1/embeddings", body)["data"]]
    return reference.check("the server", wanted, vectors)


class Cell:
    """One kind of text and one number in flight."""

    def __init__(self, programs, server, encoders, tokens, in_flight, plan):
        self.programs, self.server, self.encoders = programs, server, encoders
        self.tokens, self.in_flight, self.seconds = tokens, in_flight, plan.embedding_slice_s
        self.generator_percent = 0.0

    def run(self, rounds, limit_s):
        """Rounds of one slice each, every second one in reverse; the first always, another while it would be in time."""
        until = time.monotonic() + limit_s
        self._serve(1, self.seconds / 4)
        for encoder in self.encoders.values():
            encoder.slice(rounds[0], self.in_flight, self.seconds / 8)
            encoder.tokens = encoder.padded_tokens = 0
        before, rates, latencies = self._counted(), [], []
        for seed, recorded in enumerate(rounds, 1):
            began, round_rates = time.monotonic(), {}
            for name in SIDES[:: 1 if seed % 2 else -1]:
                if name == "penstock":
                    round_rates[name], latency = self._serve(seed, self.seconds)
                    latencies.append(latency)
                else:
                    round_rates[name] = self.encoders[name].slice(recorded, self.in_flight, self.seconds)
            rates.append(round_rates)
            if 2 * time.monotonic() - began > until:
                break
        tokens, padded = (after - start for after, start in zip(self._counted(), before))
        return self._figures(rates, latencies, tokens, padded)

    def _counted(self):
        return [self.server.counter(f"penstock_{name}_total", "minilm") for name in ("tokens", "padded_tokens")]

    def _serve(self, seed, seconds):
        found, records = self.programs.generate(
            "run", "--target", f"embeddings://{self.server.http}", "--tokens", self.tokens, "--seed", seed,
            "--closed", self.in_flight, "--warmup", 0, "--seconds", seconds, "--drain", 30, timeout_s=60 + seconds)
        step = found["steps"][0]
        ends = [(int(row["sent_us"]), int(row["done_us"]), row["class"]) for row in csv.DictReader(io.StringIO(records))]
        if not ends or any(kind != "Ok" for _, _, kind in ends):
            raise Failed(f"minilm, {self.tokens} tokens, {self.in_flight} in flight: {step['outcomes']}")
        self.generator_percent = max(self.generator_percent, step["generator_cpu_percent"])
        span_us = max(done for _, done, _ in ends) - min(sent for sent, _, _ in ends)
        return 1e6 * len(ends) / span_us, step["service"]

    def _figures(self, rates, latencies, tokens, padded):
        median = {name: statistics.median(rate[name] for rate in rates) for name in rates[0]}
        references = {name: rate for name, rate in median.items() if name != "penstock"}
        # The harder of the two is what the server is held to.
        faster = max(references, key=references.get)
        ratios = {name: [rate["penstock"] / rate[name] for rate in rates] for name in references}
        waste = {name: 1 - encoder.tokens / encoder.padded_tokens for name, encoder in self.encoders.items()}
        return {
            "in_flight": self.in_flight,
            "rounds": len(rates),
            "penstock_rps": median["penstock"],
            "in_process_rps": {name: round(rate, 1) for name, rate in references.items()},
            "ratio_to": faster,
            "ratio": _spread(ratios[faster]),
            "ratios": {name: _spread(values) for name, values in ratios.items()},
            "p50_ms": statistics.median(latency["p50"] for latency in latencies),
            "p99_ms": statistics.median(latency["p99"] for latency in latencies),
            "padding_waste": {"penstock": 1 - tokens / padded if padded else None, "in_process": waste[faster]},
            "generator_core_percent": self.generator_percent,
            "generator_busy": self.generator_percent > BUSY_PERCENT,
        }


def _spread(values):
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
