"""One wheel from the package registry, by pip, with visible progress and a bound on silence.

Called by fetch.py. Which index is asked is pip's own configuration; nothing that pip says is believed: the caller
verifies what arrived.
"""

import os
import re
import subprocess
import sys
import tempfile
import time

from failure import DISK_FULL, HASH, NO_PIP, UNAVAILABLE, Failure
from cache import megabytes

POLL_S = 0.2
LINE_EVERY_S = 5.0  # on a pipe

OUT_OF_REACH = re.compile(r"Retrying|refused|timed? ?out|Timeout|resolution|not known|unreachable|ProxyError|"
                          r"SSLError|HTTP error|HTTPError|Connection", re.IGNORECASE)
NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded|Errno (28|122)\b")
PIP_MISSING = re.compile(r"No module named '?pip'?\s*$", re.MULTILINE)


def pip_command(package, version, wheel_file, folder):
    """pip is told the tags in the wheel's name, so that any Python on any machine gets that same file."""
    python_tag, abi_tag, platform_tags = wheel_file[:-len(".whl")].split("-")[-3:]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:",
               "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--dest", folder]
    for tag in platform_tags.split("."):
        command += ["--platform", tag]
    interpreter = re.match(r"cp3(\d+)$", python_tag)
    if interpreter:
        command += ["--implementation", "cp", "--python-version", "3." + interpreter.group(1), "--abi", abi_tag]
    else:
        command += ["--python-version", "3.11"]  # a py3-none-any wheel still has a Requires-Python to satisfy
    return command + ["%s==%s" % (package, version)]


def download(package, version, wheel, staging, stall_s):
    """Returns the path of the wheel under `staging`, not yet verified."""
    work = tempfile.mkdtemp(dir=staging)
    folder, scratch, said_path = (os.path.join(work, name) for name in ("wheel", "pip", "said"))
    os.makedirs(folder)
    os.makedirs(scratch)
    command = pip_command(package, version, wheel["file"], folder)
    environment = dict(os.environ, TMPDIR=scratch)  # pip's unfinished file: on the right disk, and in our sight
    with open(said_path, "wb") as said:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment)
        progress = Progress("%s %s" % (package, version), wheel["bytes"])
        try:
            stalled = not _watch(child, work, progress, stall_s)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
            progress.end()
    with open(said_path, encoding="utf-8", errors="replace") as stream:
        words = stream.read()
    if stalled or child.returncode != 0:
        raise _explain(package, version, command, words, stalled and stall_s)
    arrived = os.listdir(folder)
    if arrived != [wheel["file"]]:
        raise Failure(HASH, "%s %s: the catalog names the file %s, and pip brought %s. Nothing was kept. Look at the "
                      "index that pip is configured for (`python3 -m pip config list`, PIP_INDEX_URL, PIP_FIND_LINKS)."
                      % (package, version, wheel["file"], ", ".join(arrived) or "nothing"))
    return os.path.join(folder, wheel["file"])


def _watch(child, folder, progress, stall_s):
    """Until pip ends (True), or until nothing has grown for `stall_s` (False)."""
    most, since = 0, time.monotonic()
    while True:
        try:
            child.wait(POLL_S)
            return True
        except subprocess.TimeoutExpired:
            pass
        done = max([most] + list(_file_sizes(folder)))
        if done > most:
            most, since = done, time.monotonic()
        elif time.monotonic() - since > stall_s:
            return False
        progress.show(done)


def _file_sizes(folder):
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.stat(os.path.join(path, name)).st_size
            except OSError:
                pass  # moved away by pip between the listing and the stat


def _explain(package, version, command, words, stalled_s):
    wheel = "%s %s" % (package, version)
    if PIP_MISSING.search(words):
        return Failure(NO_PIP, "%s cannot be downloaded: %s has no pip. Install it (Debian, Ubuntu: `apt-get install "
                       "python3-pip`; elsewhere: `python3 -m ensurepip`) and run this again, or bring the wheels from "
                       "another machine with --wheels DIR." % (wheel, sys.executable))
    if NO_ROOM.search(words):
        return Failure(DISK_FULL, "the disk filled up while pip downloaded %s. Make room, or choose another place with "
                       "PENSTOCK_CACHE_DIR or --cache-dir, and run this again." % wheel)
    if stalled_s:
        what = "%s: no byte came for %g s, so pip was stopped" % (wheel, stalled_s)
    elif OUT_OF_REACH.search(words):
        what = "%s: the package registry is out of reach" % wheel
    else:
        what = "%s: pip found no such wheel: the package registry is out of reach or lacks it" % wheel
    return Failure(UNAVAILABLE, "%s. Tried: `%s`; pip said: %s. It asks the index that pip is configured for "
                   "(`python3 -m pip config list`, PIP_INDEX_URL, a proxy in HTTPS_PROXY). What was fetched before is "
                   "kept: run this again when the registry answers, or bring the wheels from another machine with "
                   "--wheels DIR." % (what, " ".join(_short(command)), _last_words(words)))


def _short(command):
    """The command without the flags that explain nothing to its reader."""
    start = command.index("--platform")
    return ["python3", "-m", "pip", "download", "--no-deps"] + command[start:]


def _last_words(words):
    """Where pip looked and its last complaints; the line of a lost connection tells most."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    where = [line for line in lines if line.startswith("Looking in")]
    complaints = [line for line in lines if line.startswith(("ERROR", "WARNING"))] or lines
    told = where + ([line for line in complaints if OUT_OF_REACH.search(line)][-1:] or complaints[-3:])
    text = "; ".join(line[:250].rstrip(".") for line in told) or "(nothing)"
    return re.sub(r"://[^/@\s]*@", "://****@", text)  # an index address may carry a password


class Progress:
    """One line that changes, on a terminal; a plain line now and then, on a pipe."""

    def __init__(self, label, total_bytes):
        self.label, self.total_bytes = label, total_bytes
        self.started = self.last_line_at = time.monotonic()
        self.live = sys.stderr.isatty()
        if self.live:
            self.show(0)
        else:
            print("%s: downloading %s" % (label, megabytes(total_bytes)), file=sys.stderr, flush=True)

    def show(self, done_bytes):
        now = time.monotonic()
        if not self.live and now - self.last_line_at < LINE_EVERY_S:
            return
        self.last_line_at = now
        line = "%s: %s of %s, %d %%, %d s" % (self.label, megabytes(done_bytes), megabytes(self.total_bytes),
                                              100 * done_bytes // self.total_bytes, now - self.started)
        if self.live:
            sys.stderr.write("\r%-70s" % line)
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def end(self):
        if self.live:
            sys.stderr.write("\r%70s\r" % "")
            sys.stderr.flush()
