"""MiniLM over HTTP against onnxruntime in process: the same texts, weights, tokenizer and threads, in alternating slices.

Called by bench.py. A slice lasts until the last of its texts is done, on both sides, so that no batch is cut by its end.
Its rate is counted in tokens and told in texts of the mean length: of mixed texts the slower side does fewer in the same
time, and these may happen to be long.
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
            rounds = [Texts(texts.recorded(programs, tokens, seed), encoders["spinning"].lengths)
                      for seed in range(1, plan.embedding_rounds + 1)]
            for in_flight in plan.embedding_in_flight:
                left = len(LENGTHS) * len(plan.embedding_in_flight) - len(rows)
                seconds = plan.embedding_slice_s * (2 if name == "mixed" else 1)
                cell = Cell(programs, server, encoders, tokens, in_flight, seconds)
                row = cell.run(rounds, plan.share_s(left))
                rows.append({"texts": name, "tokens": tokens} | row)
                say(f"minilm {name}, {in_flight} in flight: {row['penstock_rps']:.1f} requests/s, "
                    f"in process {row['in_process_rps']}, ratio {row['ratio']['median']:.3f} ({row['ratio_to']})")
        _check(server)
    return about, rows


def _check(server):
    # An empty string is refused, as it is by the API that this door follows.
    wanted = [golden["text"] for golden in reference.goldens() if golden["text"]]
    body = {"model": "minilm", "input": wanted}
    vectors = [entry["embedding"] for entry in server.post("/v1/embeddings", body)["data"]]
    return reference.check("the server", wanted, vectors)


class Texts:
    """The texts of a round, and how many of the mean length the first so many of them amount to."""

    def __init__(self, recorded, lengths):
        self.texts, self.lengths = recorded, lengths(recorded)

    def of_mean_length(self, count):
        turns, rest = divmod(count, len(self.texts))
        return len(self.texts) * (turns + sum(self.lengths[:rest]) / sum(self.lengths))


class Cell:
    """One kind of text and one number in flight."""

    def __init__(self, programs, server, encoders, tokens, in_flight, seconds):
        self.programs, self.server, self.encoders = programs, server, encoders
        self.tokens, self.in_flight, self.seconds = tokens, in_flight, seconds
        self.generator_percent = 0.0

    def run(self, rounds, limit_s):
        """Rounds of one slice each, every second one in reverse; the first always, another while it would be in time."""
        until = time.monotonic() + limit_s
        self._serve(1, self.seconds / 4)
        for encoder in self.encoders.values():
            encoder.slice(rounds[0].texts, self.in_flight, self.seconds / 8)
            encoder.tokens = encoder.padded_tokens = 0
        before, rates, latencies = self._counted(), [], []
        for seed, recorded in enumerate(rounds, 1):
            began, round_rates = time.monotonic(), {}
            for name in SIDES[:: 1 if seed % 2 else -1]:
                if name == "penstock":
                    done, seconds, latency = self._serve(seed, self.seconds)
                    latencies.append(latency)
                else:
                    done, seconds = self.encoders[name].slice(recorded.texts, self.in_flight, self.seconds)
                round_rates[name] = recorded.of_mean_length(done) / seconds
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
        return len(ends), span_us / 1e6, step["service"]

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
