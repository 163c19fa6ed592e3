"""What this machine is, how busy it is, and what its processes use: the only file that reads /proc.

Called by every room. Never starts or ends anything.
"""

import os
import pathlib
import platform
import time

TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
# Somebody else used more than this share of the machine: figures are doubtful.
IDLE_PERCENT = 5.0


def threads():
    return len(os.sched_getaffinity(0))


def describe():
    """Everything a reader needs to judge the figures. Takes two seconds: it looks whether the machine is idle."""
    model = next(
        (line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )
    busy_percent, _ = Busy().since(wait_s=2.0)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": model,
        "cores": threads(),
        "kernel": platform.release(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "busy_percent_at_start": round(busy_percent, 1),
    }


class Busy:
    """The share of the machine's processor time that was used, and that the hypervisor kept, since it was made."""

    def __init__(self):
        self.before = self._read()

    @staticmethod
    def _read():
        user, nice, system, idle, iowait, irq, softirq, steal = map(
            int, pathlib.Path("/proc/stat").read_text().split(None, 9)[1:9])
        return user + nice + system + irq + softirq, steal, idle + iowait

    def since(self, wait_s=0.0):
        """(busy, stolen) in percent of all cores."""
        time.sleep(wait_s)
        used, stolen, idle = (after - before for after, before in zip(self._read(), self.before))
        total = max(used + stolen + idle, 1)
        return 100 * used / total, 100 * stolen / total


def cpu_us(pid):
    """User and system time of a process in microseconds, at the kernel's tick (10 ms). Its children are not in it."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_US


def memory_mib(pid):
    """Resident memory; the share of it that is this process's own when shared pages are divided among their users."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    return {"rss": kib["Rss"] / 1024, "pss": kib["Pss"] / 1024,
            "private": (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024}
