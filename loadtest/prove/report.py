"""The report: chapters of figures and invariants, printed as they come and written as Markdown."""

import datetime
import os
import pathlib
import platform
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def machine():
    """Cores, processor, memory and kernel, in words."""
    cpu = memory = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory = f"{int(line.split()[1]) / 2**20:.1f} GiB"
    return f"{len(os.sched_getaffinity(0))} cores ({cpu}), {memory}, Linux {platform.release()}"


def load_average():
    return pathlib.Path("/proc/loadavg").read_text().split()[0]


def program():
    path = pathlib.Path(os.environ["PENSTOCK_PROGRAM"]).resolve()
    profile = next((part for part in ("release", "debug") if part in path.parts), "as given by PENSTOCK_PROGRAM")
    version = subprocess.run([str(path), "--version"], capture_output=True, text=True).stdout.strip() or "penstock"
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    built = datetime.datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    return f"{version}, build: {profile}, built {built}; the checkout was at {revision.stdout.strip() or 'unknown'}"


class Report:
    """What was found, in the order it was found."""

    def __init__(self):
        self.lines, self.broken = [], []
        self.began = time.monotonic()
        self.load_before = load_average()

    def chapter(self, title, meaning):
        print(f"\n== {title}", flush=True)
        self.lines += ["", f"## {title}", "", " ".join((meaning or "").split()), ""]

    def progress(self, text):
        print(f"   {time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def figure(self, text):
        self.progress(text)
        self.lines.append(f"- {text}")

    def table(self, head, rows):
        self.lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        self.lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows] + [""]

    def invariant(self, holds, text):
        self.progress(("holds: " if holds else "BROKEN: ") + text)
        self.lines.append(f"- {'holds' if holds else '**BROKEN**'}: {text}")
        if not holds:
            self.broken.append(text)

    def write(self, path, chosen, all_parts):
        command = " ".join(["loadtest/prove.py", *([] if chosen == all_parts else chosen)])
        head = [
            "# What `make prove` found",
            "",
            f"- Date: {datetime.date.today()}; command: `{command}`; took {time.monotonic() - self.began:.0f} s",
            f"- Machine: {machine()}; load average before {self.load_before}, after {load_average()}",
            f"- Program: {program()}",
            f"- Invariants broken: {len(self.broken)}",
            "",
            "Invariants fail the run; figures are what this machine did that day, beside whatever else ran on it.",
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(head + self.lines) + "\n")
