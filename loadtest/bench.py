"""Measures the promises of README.md, each beside its ceiling from the same run. `make bench` calls it.

    loadtest/bench.py             everything, at most 8 minutes; writes loadtest/reports/bench.{md,json}, README's table
    loadtest/bench.py --quick     a smoke run of 90 seconds; writes loadtest/out/bench.{md,json}, leaves README alone

Times never make it fail; a wrong number, an error response or a server that does not start does (exit code 1).
Give it the machine for itself: what else runs is measured with it, and the report says so.
"""

import argparse
import dataclasses
import os
import pathlib
import signal
import sys
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # before tokenizers is imported: it would warn of forks

from bench import embeddings, identity, lifetime, machine, report
from bench.programs import ROOT, Failed, Programs


@dataclasses.dataclass
class Plan:
    """How much is measured. Embeddings come last and take what is left of `budget_s`."""

    budget_s: float
    starts: int
    identity_in_flight: tuple
    identity_rounds: int  # twice as many at saturation
    identity_slice_s: float
    embedding_in_flight: tuple
    embedding_rounds: int
    embedding_slice_s: float  # twice as long for mixed texts
    began: float = dataclasses.field(default_factory=time.monotonic)

    def share_s(self, cells):
        """Seconds for the next of so many cells that are left."""
        return max(self.began + self.budget_s - time.monotonic(), 0) / cells


def full():
    return Plan(budget_s=450, starts=3, identity_in_flight=(1, 8, 64), identity_rounds=5, identity_slice_s=1.0,
                embedding_in_flight=(1, 8, 32), embedding_rounds=4, embedding_slice_s=2.0)


def quick():
    return Plan(budget_s=70, starts=1, identity_in_flight=(1, 64), identity_rounds=2, identity_slice_s=0.4,
                embedding_in_flight=(1, 8), embedding_rounds=2, embedding_slice_s=0.5)


def measure(programs, plan):
    where, during = machine.describe(), machine.Busy()
    say(f"{where['cpu']}, {where['cores']} cores, load average {where['load_average']}, "
        f"{where['busy_percent_at_start']} % busy")
    start_up, memory = lifetime.measure(programs, plan, say)
    echoes = identity.measure(programs, plan, say)
    reference, encoded = embeddings.measure(programs, plan, say)
    where["stolen_percent"] = round(during.since()[1], 1)
    where["busy_percent_at_end"] = round(machine.Busy().since(wait_s=2.0)[0], 1)
    where["seconds"] = time.monotonic() - plan.began
    found = {"machine": where, "identity": echoes, "reference": reference, "embeddings": encoded,
             "start_up": start_up, "memory": memory}
    return found | {"marks": marks(where, echoes, encoded)}


def marks(where, echoes, encoded):
    """What makes the figures doubtful, in words."""
    found = []
    busiest = max(where["busy_percent_at_start"], where["busy_percent_at_end"])
    if busiest > machine.IDLE_PERCENT or where["stolen_percent"] > machine.IDLE_PERCENT:
        found.append(f"Other work ran on this machine ({busiest} % busy before or after, {where['stolen_percent']} % "
                     "stolen): the figures are doubtful.")
    for row in echoes + encoded:
        if row["generator_busy"]:
            name = f"identity {row['message']}" if "message" in row else f"MiniLM {row['texts']}"
            found.append(f"{name}, {row['in_flight']} in flight: the generator used over {identity.BUSY_PERCENT:.0f} % "
                         "of a core and may itself be the limit.")
    return found


def say(text):
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


BEGAN = time.monotonic()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="90 seconds: to see that it works, not for figures")
    parser.add_argument("--no-readme", action="store_true", help="leave README.md alone")
    parser.add_argument("--bins", type=pathlib.Path, metavar="DIR",
                        default=ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release",
                        help="where the programs are (default: target/release)")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="where to write the reports")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    found = measure(Programs(options.bins), quick() if options.quick else full())
    out = options.out or ROOT / ("loadtest/out" if options.quick else "loadtest/reports")
    report.write(out, found)
    if not (options.quick or options.no_readme):
        report.into_readme(ROOT / "README.md", found)
    print("\n" + report.promises(found))
    print(f"wrote {out / 'bench.md'} and bench.json")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit("bench: stopped")
