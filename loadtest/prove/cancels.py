"""How long a cancel takes to reach an environment: one worker is busy, 64 requests wait, and another that waits is dropped by its
caller. Measured at the front end's end of the link, in Rust, until a call sent right behind the cancel has been refused by the
environment, which reads in order; the way back of that refusal is in it."""

import os
import re
import subprocess

from built import built

TITLE = "Cancels"
AIM_US = 1000


def run(report, start, folder):
    tool = built(report, "examples/cancel", "-p penstock-environment --example cancel")
    if tool is None:
        return
    done = subprocess.run([tool, os.environ["PENSTOCK_PROGRAM"]], capture_output=True, text=True, timeout=120)
    found = re.fullmatch(r"(\d+) cancels: p50 (\d+) p99 (\d+) p99\.9 (\d+) worst (\d+)", done.stdout.strip())
    if not found:
        return report.invariant(False, f"it measures ({done.stderr.strip()[-300:]})")
    count, *times = (int(number) for number in found.groups())
    shown = " / ".join(f"{time / 1000:.2f}" for time in times)
    report.figure(f"{count} cancels: p50 / p99 / p99.9 / worst {shown} ms (aim: p99 of {AIM_US / 1000:.0f} ms)")
