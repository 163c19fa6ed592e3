"""The program under test, started as a user starts it: its own process, free ports, real models."""

import os
import pathlib
import queue
import re
import signal
import subprocess
import tempfile
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("PENSTOCK_CACHE_DIR") or pathlib.Path.home() / ".cache/penstock")
PROGRAM = pathlib.Path(os.environ.get("PENSTOCK_PROGRAM") or ROOT / "target/debug/penstock")
READY = re.compile(r"penstock ready http=(\S+) grpc=(\S+) metrics=(\S+)")


def descendants(pid):
    """Process ids of the children of a process."""
    pids = set()
    try:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            pids |= {int(child) for child in (task / "children").read_text().split()}
    except FileNotFoundError:
        pass  # it has just ended
    return sorted(pids)


def role(pid):
    """The first argument of a process."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1].decode()
    except (FileNotFoundError, IndexError):
        return ""


class Server:
    """A running `penstock serve`. `http`, `grpc`, `metrics` are host:port."""

    def __init__(self, *arguments, env=None, ready_timeout_s=60):
        command = [str(PROGRAM), "serve"]
        for door in ("http", "grpc", "metrics"):
            command += ["--set", f"listen.{door}=127.0.0.1:0"]
        command += [str(argument) for argument in arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
        self.data = tempfile.TemporaryDirectory(prefix="penstock-data-")
        environment |= {"PENSTOCK_CACHE_DIR": str(CACHE), "PENSTOCK_LOG_FORMAT": "json", "PENSTOCK_DATA_DIR": self.data.name}
        if instances := os.environ.get("PENSTOCK_TEST_INSTANCES"):
            environment["PENSTOCK_INSTANCES"] = instances
        environment |= env or {}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.log = []
        lines = queue.Queue()
        # One that ends without a word is not waited for.
        said = (line for lines_of in (self.process.stdout, [""]) for line in lines_of)
        threading.Thread(target=lambda: [lines.put(line) for line in said], daemon=True).start()
        errors = threading.Thread(target=lambda: [self.log.append(line) for line in self.process.stderr], daemon=True)
        errors.start()
        try:
            found = READY.search(lines.get(timeout=ready_timeout_s))
        except queue.Empty:
            found = None
        if found is None:
            self.kill()
            errors.join(5)
            raise AssertionError("the server did not get ready:\n" + "".join(self.log))
        self.http, self.grpc, self.metrics = found.groups()
        self.url = f"http://{self.http}"

    def environments(self):
        """Process ids of its execution environments: its children, or those of its instances."""
        children = descendants(self.process.pid)
        instances = [pid for pid in children if role(pid) == "instance"]
        return sorted(set(children) - set(instances) | {pid for instance in instances for pid in descendants(instance)})

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def stop(self, timeout_s=40):
        """Ctrl-C, and wait; returns the exit code."""
        if self.process.poll() is None:
            self.interrupt()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@pytest.fixture(scope="session")
def server():
    """The demo models, as `make run` serves them. Shared: tests leave it as they found it."""
    running = Server()
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


@pytest.fixture
def start():
    """Starts servers of a test's own: `start(*arguments, env=None)`; all are ended with the test."""
    running = []

    def start_server(*arguments, **keywords):
        running.append(Server(*arguments, **keywords))
        return running[-1]

    yield start_server
    for one in running:
        one.kill()


def identity_repository(folder, name="identity", **parameters):
    """A model repository in `folder` with an identity function; parameters as in its config.pbtxt."""
    options = dict({"max_batch_size": 8, "count": 1, "extra": "", "group": "kind: KIND_CPU"}, **parameters)
    top = pathlib.Path(folder) / name
    (top / "1").mkdir(parents=True, exist_ok=True)
    delays = {k: v for k, v in options.items() if k.startswith(("execute_", "delay_", "device_", "penstock."))}
    text = f'name: "{name}"\nbackend: "identity"\nmax_batch_size: {options["max_batch_size"]}\n'
    text += 'input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]\n'
    text += 'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]\n'
    text += f'instance_group [ {{ {options["group"]} count: {options["count"]} }} ]\ndynamic_batching {{ }}\n{options["extra"]}\n'
    for key, value in delays.items():
        text += f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
    (top / "config.pbtxt").write_text(text)
    return pathlib.Path(folder)
