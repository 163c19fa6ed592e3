"""Memory and disk that run out: one clear outcome, a state that people can see, and recovery by itself."""

import json
import os
import signal
import socket
import subprocess
import urllib.request

import grpc

from callers import body, environment_pids, post, reason, request, settled_books, until
from conftest import CACHE, PROGRAM, identity_repository
from tritonclient.grpc import service_pb2_grpc

MEBIBYTE = 1 << 20


def index(server):
    asked = urllib.request.Request(f"{server.url}/v2/repository/index", b"{}", method="POST")
    with urllib.request.urlopen(asked, timeout=5) as answer:
        return {entry["name"]: entry for entry in json.load(answer)}


def test_what_does_not_fit_into_an_environments_memory_is_refused_and_costs_nobody_else(start, tmp_path):
    identity_repository(tmp_path, "small", **{"penstock.memory_limit_bytes": 64 * MEBIBYTE})
    server = start("--model-repository", tmp_path)
    [pid] = environment_pids(server, "small")
    channel = grpc.insecure_channel(server.grpc, options=[("grpc.max_receive_message_length", -1)])
    caller = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    for _ in range(3):
        error = caller.ModelInfer.future(request("small", raw=bytes(62 * MEBIBYTE))).exception(timeout=30)
        assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "out_of_host_memory"), error
        assert "memory that the environment may have" in error.details()
        caller.ModelInfer(request("small"), timeout=5)
    assert environment_pids(server, "small") == [pid]
    assert settled_books(server, "small").outcomes == {("done", ""): 3, ("failed", "exhausted"): 3}


def test_an_environment_that_ends_again_and_again_says_so(start, tmp_path):
    identity_repository(tmp_path, "dying")
    server = start("--model-repository", tmp_path)
    killed = set()
    for _ in range(6):
        [pid] = until(lambda: [pid for pid in environment_pids(server, "dying") if pid not in killed])
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
    entry = until(lambda: (entry := index(server)["dying"]) and "SIGKILL" in entry.get("reason", "") and entry)
    assert entry["state"] == "LOADING" and "the next starts in" in entry["reason"], entry
    status, headers, text = post(server, "dying", body())
    assert (status, headers["x-penstock-shed-reason"]) == (503, "no_capacity")
    assert "SIGKILL" in json.loads(text)["error"]
    until(lambda: index(server)["dying"]["state"] == "READY", what="it comes back")
    assert post(server, "dying", body())[0] == 200


def test_a_full_disk_under_the_logs_costs_the_logs(tmp_path):
    """Nothing that is written to standard output or to the log gets anywhere."""
    identity_repository(tmp_path / "models", "fine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PROGRAM, "serve", "--model-repository", tmp_path / "models", "--set", f"listen.http=127.0.0.1:{port}"]
    command += ["--set", "listen.grpc=127.0.0.1:0", "--set", "listen.metrics=127.0.0.1:0"]
    environment = {"PENSTOCK_CACHE_DIR": str(CACHE), "PENSTOCK_LOG": "debug", "PATH": os.environ["PATH"]}
    with open("/dev/full", "w") as full:
        process = subprocess.Popen([str(word) for word in command], env=environment, stdout=full, stderr=full)
    try:
        url = f"http://127.0.0.1:{port}/v2"

        def ready():
            try:
                return urllib.request.urlopen(f"{url}/health/ready", timeout=1).status == 200
            except OSError:
                return False

        until(ready, 30)
        for _ in range(3):
            asked = urllib.request.Request(f"{url}/models/fine/infer", body("fine"), method="POST")
            assert urllib.request.urlopen(asked, timeout=5).status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
