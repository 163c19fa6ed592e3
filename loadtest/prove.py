"""What takes longer to prove than a test may take: `make prove`, or `prove.py PART...` for some of it.

Each part starts servers of its own, prints as it goes, and adds a chapter to reports/prove.md. An invariant that does
not hold makes the exit code 1; figures (times, memory, rates) are reported and never fail.

    prove.py [cycles] [kills] [memory] [refusals] [advice] [cancels] [deadlines] [overload] [neighbours]

PENSTOCK_PROGRAM names another program.
"""

import argparse
import os
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
os.environ.setdefault("PENSTOCK_PROGRAM", str(ROOT / "target/release/penstock"))
sys.path[:0] = [str(HERE / "prove"), str(ROOT / "tests"), str(ROOT / "tests/faults")]

import advice  # noqa: E402
import cancels  # noqa: E402
import cycles  # noqa: E402
import deadlines  # noqa: E402
import kills  # noqa: E402
import memory  # noqa: E402
import neighbours  # noqa: E402
import overload  # noqa: E402
import refusals  # noqa: E402
from report import Report  # noqa: E402

from conftest import Server  # noqa: E402

PARTS = {"cycles": cycles, "kills": kills, "memory": memory, "refusals": refusals, "advice": advice,
         "cancels": cancels, "deadlines": deadlines, "overload": overload, "neighbours": neighbours}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--report", type=pathlib.Path, default=HERE / "reports/prove.md")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    chosen = options.parts or list(PARTS)
    report = Report()
    for name in chosen:
        running = []

        def start(*arguments):
            running.append(Server(*arguments))
            return running[-1]

        with tempfile.TemporaryDirectory() as folder:
            report.chapter(PARTS[name].TITLE, PARTS[name].__doc__)
            try:
                PARTS[name].run(report, start, pathlib.Path(folder))
            except Exception as error:
                report.invariant(False, f"the part ran to its end ({type(error).__name__}: {error})")
            finally:
                for server in running:
                    server.kill()
    report.write(options.report, chosen, list(PARTS))
    print(f"\nwrote {options.report}" + (f"\n{len(report.broken)} invariants broken" if report.broken else ""))
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
