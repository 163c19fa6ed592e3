"""What the kernel says of a process, and how this one keeps from pausing."""

import contextlib
import gc
import os
import pathlib

MIB = 2**20


def status(pid, field):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def resident_mib(pid):
    return status(pid, "VmRSS") / 1024


def private_mib(pid):
    """Memory that is this process's alone: without the pages of files it shares with others."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return float("nan")
    kib = sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
    return kib / 1024


def threads(pid):
    return status(pid, "Threads")


def descriptors(pid):
    return len(named_descriptors(pid))


def named_descriptors(pid):
    """Number to what it is, such as `pipe:[1234]`."""
    found = {}
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(link.name)] = os.readlink(link)
        except FileNotFoundError:
            pass  # closed since it was listed
    return found


@contextlib.contextmanager
def without_pauses():
    """No garbage is collected meanwhile: with many calls in memory that stops this process for 50 ms and more, and what
    it measures of a server would be its own."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
