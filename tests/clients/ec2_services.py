"""EC2 on this machine: moto with the real catalogue of types, and before it a proxy that refuses, throttles and loses answers as a test says."""

import contextlib
import http.server
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import boto3

from conftest import ROOT

REGION = "us-east-1"
KEYS = {"aws_access_key_id": "AKIATESTTESTTESTTEST", "aws_secret_access_key": "SECRETsecretSECRETsecret"}
DRIVER = ROOT / "target/debug/examples/ec2_provider"
START_S = 60
ANSWER_S = 90


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def asked(url, method="GET", body=None):
    request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def wait_for(url, process):
    deadline = time.monotonic() + START_S
    while True:
        try:
            return asked(url)
        except OSError:
            assert process.poll() is None, f"it has ended before it answered at {url}"
            assert time.monotonic() < deadline, f"no answer at {url} in {START_S} s"
            time.sleep(0.1)


class Cloud:
    """`direct` is moto itself, `url` the way through the proxy."""

    def __init__(self):
        # The catalogue is large: it is asked for once.
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-ec2-")
        self.types_file = f"{self._folder.name}/types.json"
        moto, proxy = free_port(), free_port()
        self.direct, self.url = f"http://127.0.0.1:{moto}", f"http://127.0.0.1:{proxy}"
        environment = os.environ | {"MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(moto)]
        self._moto = subprocess.Popen(command, env=environment, **quiet)
        command = [sys.executable, "-m", "microburst", "--host", "127.0.0.1", "--port", str(proxy), "--upstream", self.direct]
        self._proxy = subprocess.Popen(command, **quiet)
        wait_for(f"{self.direct}/moto-api/data.json", self._moto)
        wait_for(f"{self.url}/_microburst/health", self._proxy)
        self.ec2 = boto3.client("ec2", endpoint_url=self.direct, region_name=REGION, **KEYS)

    def reset(self):
        asked(f"{self.direct}/moto-api/reset", "POST")
        asked(f"{self.url}/_microburst/rules", "POST", [])
        asked(f"{self.url}/_microburst/fired", "DELETE")

    def rule(self, **rule):
        """A fault from now on, as microburst's documentation has it."""
        asked(f"{self.url}/_microburst/rules", "PATCH", [{"service": "ec2"} | rule])

    def fired(self):
        """The actions that were disturbed so far."""
        told = json.loads(asked(f"{self.url}/_microburst/fired"))
        return [one["operation"] for one in (told["fired"] if isinstance(told, dict) else told)]

    def subnets(self):
        """By zone, one subnet of each of the first three."""
        all_ = sorted(self.ec2.describe_subnets()["Subnets"], key=lambda one: one["AvailabilityZone"])
        return {one["AvailabilityZone"]: one["SubnetId"] for one in all_[:3]}

    def instances(self, *states):
        """Instances in these states, or all."""
        found = [one for page in self.ec2.get_paginator("describe_instances").paginate() for each in page["Reservations"] for one in each["Instances"]]
        return [one for one in found if not states or one["State"]["Name"] in states]

    def alive(self):
        return {one["InstanceId"]: one for one in self.instances("pending", "running", "stopping", "stopped")}

    def stop(self):
        for process in (self._proxy, self._moto):
            process.kill()
            process.wait()
        self._folder.cleanup()


class Recorder:
    """A proxy that keeps the bodies that go through it."""

    def __init__(self, upstream):
        bodies = self.bodies = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                bodies.append(body.decode())
                headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "content-length")}
                request = urllib.request.Request(upstream + self.path, data=body, method="POST", headers=headers)
                with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                    status, content = answer.status, answer.read()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def cloud():
    running = Cloud()
    try:
        yield running
    finally:
        running.stop()


class Provider:
    """The provider itself, driven line by line. `ended` are the names that it has told so far."""

    def __init__(self, cloud, fleet="tests", **options):
        assert DRIVER.exists(), "cargo build -p penstock-ec2 --example ec2_provider"
        self.process = subprocess.Popen([DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answers, self.ended = queue.Queue(), []
        threading.Thread(target=self._listen, daemon=True).start()
        group = cloud.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        image = cloud.ec2.describe_images()["Images"][0]["ImageId"]
        given = {
            "endpoint": cloud.url,
            "region": REGION,
            "access_key_id": KEYS["aws_access_key_id"],
            "secret_access_key": KEYS["aws_secret_access_key"],
            "role": "arn:aws:iam::123456789012:role/penstock-operator",
            "fleet": fleet,
            "subnets": list(cloud.subnets().values()),
            "security_groups": [group],
            "types_file": cloud.types_file,
            # moto has parameters of Amazon Linux, and none of the image with the driver.
            "images": {"gpu_x86": image, "gpu_arm": image},
        }
        self.opened = self._say(given | options)

    def _listen(self):
        for line in self.process.stdout:
            told = json.loads(line)
            self.ended.append(told["ended"]) if "ended" in told else self._answers.put(told)

    def _say(self, line):
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return self._answers.get(timeout=ANSWER_S)

    def launch(self, token, count, *offers, **told):
        ids = [f"{token}-{number}" for number in range(count)]
        return self._say({"do": "launch", "token": token, "ids": ids, "offers": offers, "told": told})

    def terminate(self, name):
        self._say({"do": "terminate", "name": name})

    def offered(self, prices, *allowed):
        return self._say({"do": "offered", "prices": prices, "allowed": allowed})

    def close(self):
        self._say({"do": "close"})

    def kill(self):
        self.process.kill()
        self.process.wait()
