"""The programs that a part needs beside the server: where they are, or that the part cannot run."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def built(report, name, build, cores=1):
    """Where a release program is. None, and a line in the report, if it is not built (an invariant that does not hold) or there
    are fewer cores than the part needs."""
    program = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release" / name
    if not program.exists():
        report.invariant(False, f"{name} is built (cargo build --release {build})")
        return None
    if len(os.sched_getaffinity(0)) < cores:
        report.figure(f"left out: it needs {cores} cores")
        return None
    return program


def generator(report, cores=1):
    """The load generator, by the same rules."""
    return built(report, "penstock-loadtest", "--bin penstock-loadtest", cores)
