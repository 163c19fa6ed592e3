"""The programs that are measured: started on free loopback ports, ended by their process id whatever happens.

Called by every room that measures. `Failed` is a wrong answer or a server that does not come up, never a slow one.
"""

import contextlib
import http.client
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("PENSTOCK_CACHE_DIR") or pathlib.Path.home() / ".cache/penstock").absolute()
READY_TIMEOUT_S = 120
READY = re.compile(r"penstock ready http=(\S+) grpc=(\S+) metrics=(\S+)")


class Failed(Exception):
    """A wrong result or an error response: what makes the bench fail."""


class Programs:
    """Where the binaries are."""

    def __init__(self, folder):
        self.penstock, self.loadtest = folder / "penstock", folder / "penstock-loadtest"
        for path in (self.penstock, self.loadtest):
            if not path.exists():
                raise Failed(f"{path} is not built: make bench builds it")

    def generate(self, *arguments, timeout_s):
        """Runs the load generator; returns what it wrote with --json, and with --records (or None)."""
        with tempfile.TemporaryDirectory() as folder:
            report, records = pathlib.Path(folder, "report.json"), pathlib.Path(folder, "records.csv")
            command = [self.loadtest, *arguments, "--json", report]
            if arguments[0] == "run":
                command += ["--records", records]
            child = Child(command, stdout=subprocess.DEVNULL)
            with child:
                try:
                    code = child.process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    raise Failed(f"the generator did not end within {timeout_s:.0f} s: {command}") from None
            if code != 0:
                raise Failed(f"the generator failed: {' '.join(map(str, command))}\n{child.errors()}")
            return json.loads(report.read_text()), records.read_text() if records.exists() else None


class Child(contextlib.AbstractContextManager):
    """A process in a session of its own, so that Ctrl-C reaches only the bench, which then ends it."""

    def __init__(self, command, grace_s=10, **keywords):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
        # What is deployed on this machine is not part of what is measured.
        self.data = tempfile.TemporaryDirectory()
        environment |= {"PENSTOCK_CACHE_DIR": str(CACHE), "PENSTOCK_LOG_FORMAT": "json", "PENSTOCK_DATA_DIR": self.data.name}
        self.grace_s, self.log = grace_s, []
        self.began = time.perf_counter()
        self.process = subprocess.Popen([str(part) for part in command], env=environment, text=True,
                                        stderr=subprocess.PIPE, start_new_session=True, **keywords)
        self.pid = self.process.pid
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def lines(self):
        """Its standard output as it comes, as a queue."""
        lines = queue.Queue()
        threading.Thread(target=lambda: [lines.put(line) for line in self.process.stdout], daemon=True).start()
        return lines

    def errors(self):
        self.reader.join(1)
        return "".join(self.log[-30:])

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(self.grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(10)
        self.data.cleanup()


class Server(Child):
    """A running `penstock serve` of the demo models, or of those named. `ready_s`: from exec to its ready line."""

    def __init__(self, programs, *functions):
        command = [programs.penstock, "serve"]
        for door in ("http", "grpc", "metrics"):
            command += ["--set", f"listen.{door}=127.0.0.1:0"]
        if functions:
            command += ["--model-control-mode", "explicit"]
            command += [part for name in functions for part in ("--load-model", name)]
        super().__init__(command, grace_s=35, stdout=subprocess.PIPE)
        try:
            found = READY.search(self.lines().get(timeout=READY_TIMEOUT_S))
        except queue.Empty:
            found = None
        except BaseException:
            self.__exit__()
            raise
        self.ready_s = time.perf_counter() - self.began
        if found is None:
            self.__exit__()
            raise Failed("the server did not get ready:\n" + self.errors())
        self.http, self.grpc, self.metrics = found.groups()

    def environments(self):
        """Function to process id of its execution environment, as the log tells them."""
        found, until = {}, time.monotonic() + 5
        while not found and time.monotonic() < until:
            entries = [json.loads(line) for line in self.log if line.startswith("{")]
            found = {entry["function"].split(":")[0]: entry["pid"] for entry in entries
                     if entry.get("message") == "environment ready"}
            time.sleep(0.05)
        return found

    def counter(self, name, function):
        """The sum of a counter's samples of one function."""
        pattern = re.compile(rf'^{name}\{{[^}}]*function="{function}"[^}}]*\}} (\S+)$', re.MULTILINE)
        return sum(float(value) for value in pattern.findall(self._ask("GET", self.metrics, "/metrics").decode()))

    def post(self, path, body):
        """A JSON request over HTTP on a connection of its own; its answer."""
        return json.loads(self._ask("POST", self.http, path, json.dumps(body)))

    @staticmethod
    def _ask(method, authority, path, body=None):
        connection = http.client.HTTPConnection(authority, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise Failed(f"{method} {path} answered {response.status}: {text[:300]!r}")
        return text


class Echo(Child):
    """The generator's bare tonic echo."""

    def __init__(self, programs, threads):
        command = [programs.loadtest, "echo", "--listen", "127.0.0.1:0", "--threads", threads]
        super().__init__(command, stdout=subprocess.PIPE)
        try:
            self.grpc = self.lines().get(timeout=10).split()[-1]
        except queue.Empty:
            self.__exit__()
            raise Failed("the echo did not get ready:\n" + self.errors()) from None
        except BaseException:
            self.__exit__()
            raise
