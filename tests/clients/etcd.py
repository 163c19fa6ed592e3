"""An etcd of a test's own, unpacked by tests/tools.sh: a member that is alone, and can be stopped, killed and started again."""

import base64
import contextlib
import json
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request

from scraped import until

from conftest import CACHE

PROGRAM = CACHE / "bin/etcd"


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Etcd:
    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-etcd-")
        self.url, self._peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.start()

    def start(self):
        command = [str(PROGRAM), "--name", "one", "--data-dir", f"{self._folder.name}/data", "--max-request-bytes", "10485760"]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", self._peers, "--initial-advertise-peer-urls", self._peers]
        command += ["--initial-cluster", f"one={self._peers}"]
        with open(f"{self._folder.name}/log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

        def answers():
            assert self.process.poll() is None, open(f"{self._folder.name}/log").read()[-2000:]
            with contextlib.suppress(urllib.error.URLError, TimeoutError):
                return self.get("any") is None

        until(answers, "etcd answers", 30)

    def stand_still(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def ask(self, path, body):
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.loads(answer.read())

    def get(self, key):
        """The value of a key; None if there is none."""
        found = self.ask("kv/range", {"key": base64.b64encode(key.encode()).decode()}).get("kvs", [])
        return base64.b64decode(found[0]["value"]).decode() if found else None

    def compact(self):
        """Forgets all history."""
        revision = self.ask("kv/range", {"key": base64.b64encode(b"any").decode()})["header"]["revision"]
        self.ask("kv/compaction", {"revision": revision, "physical": True})


@contextlib.contextmanager
def etcd():
    assert PROGRAM.is_file(), f"{PROGRAM} is not there: run tests/tools.sh etcd"
    running = Etcd()
    yield running
    running.go_on()
    running.kill()
