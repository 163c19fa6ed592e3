"""The program from outside: its commands, exit codes, logs, start and drain; and what rides on every response."""

import concurrent.futures
import json
import os
import re
import socket
import subprocess
import time
import tomllib
import urllib.error
import urllib.request

import grpc
import pytest
from scraped import Scraped, until
from tritonclient.grpc import service_pb2, service_pb2_grpc

from conftest import CACHE, PROGRAM, identity_repository

INPUT = [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]
TIMING = re.compile(r"(\w+;(dur=\d+\.\d{3}|desc=\"\d+\")(, )?)+")


def penstock(*arguments, env=None, timeout_s=20):
    """Runs a command to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    environment |= {"PENSTOCK_CACHE_DIR": str(CACHE), "PENSTOCK_LOG_FORMAT": "json"} | (env or {})
    command = [str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)


def call(server, path, body=None, headers=None, method=None):
    """Status, headers and body over HTTP."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data=data, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def infer(server, rows=1):
    inputs = [INPUT[0] | {"shape": [rows, 2], "data": [1, 2] * rows}]
    return call(server, "/v2/models/identity/infer", {"inputs": inputs})


def infer_request(model="identity", rows=1):
    request = service_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="INPUT0", datatype="FP32", shape=[rows, 2])
    tensor.contents.fp32_contents.extend([1, 2] * rows)
    return request


def trailers(caller):
    return dict(caller.initial_metadata()) | dict(caller.trailing_metadata())


# --- configuration


def flat(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_config_prints_every_field_with_its_meaning_and_can_be_read_again(tmp_path):
    printed = penstock("config")
    assert (printed.returncode, printed.stderr) == (0, "")
    fields = dict(flat(tomllib.loads(printed.stdout)))
    assert len(fields) > 20
    blocks = printed.stdout.strip().split("\n\n")
    assert len(blocks) == len(fields), "one block a field"
    for block in blocks:
        meaning, origin, value = block.splitlines()
        assert re.fullmatch(r"# .{20,}[.`]", meaning)
        assert re.fullmatch(r"# [\w:]+; PENSTOCK_[A-Z0-9_]+; from (default|PENSTOCK_\w+)", origin)
        assert value.split(" = ")[0] in fields
    # Everything set to something else, printed, and read from that.
    others = {
        "listen.http": "127.0.0.1:9100",
        "overload_codes": "triton",
        "models.repository": ["/a b", '/c"d', "/e,f"],
        "models.load": ["one", "two"],
        "drain_timeout_s": 7,
        "log.filter": 'info,penstock_dispatch=debug "quoted"',
        "limits.memory_budget_bytes": 2**40,
    }
    options = []
    for key, value in others.items():
        for one in value if isinstance(value, list) else [value]:
            options += ["--set", f"{key}={one}"]
    file = tmp_path / "penstock.toml"
    file.write_text(penstock("config", *options).stdout)
    again = penstock("config", env={"PENSTOCK_CONFIG": str(file)})
    assert again.returncode == 0, again.stderr
    assert dict(flat(tomllib.loads(again.stdout))) == dict(flat(tomllib.loads(file.read_text())))
    assert others.items() <= dict(flat(tomllib.loads(again.stdout))).items()
    assert f"from {file}" in again.stdout
    assert penstock("config", "--config", file).stdout.count(f"from {file}") > 20


@pytest.mark.parametrize(
    ("arguments", "env", "file", "words"),
    [
        (["--set", "overload_codes=tritn"], {}, None, ["overload_codes", "'tritn'", "lambda, triton"]),
        (["--set", "listen.http=here"], {}, None, ["listen.http", "'here'", "host:port"]),
        (["--set", "listen.htp=127.0.0.1:0"], {}, None, ["listen.htp", "no setting", "penstock config"]),
        (["--set", "http=127.0.0.1:0"], {}, None, ["'http'", "did you mean 'listen.http'"]),
        (["--set", "drain_timeout_s"], {}, None, ["KEY=VALUE", "'drain_timeout_s'"]),
        ([], {"PENSTOCK_GRPC": "127.0.0.1:70000"}, None, ["listen.grpc", "PENSTOCK_GRPC", "'127.0.0.1:70000'"]),
        ([], {"PENSTOCK_DRAIN_TIMEOUT_S": "soon"}, None, ["drain_timeout_s", "'soon'", "whole number of seconds"]),
        ([], {"PENSTOCK_CONFIG": "/no/such.toml"}, None, ["/no/such.toml", "No such file"]),
        ([], {}, "[limits]\nmessage_bytes = 1", ["limits.message_bytes", "wrong.toml", "'1'"]),
        ([], {}, "[limits]\nmemory_budget_bytes = 1048576", ["limits.memory_budget_bytes", "less than"]),
        ([], {}, '[callers]\nheader = "X Key"', ["callers.header", "'X Key'", "lower case"]),
        ([], {}, "[environments]\nconcurrency = 0", ["environments.concurrency", "'0'", "from 1"]),
        ([], {}, "[models]\nrepositry = []", ["models.repositry", "no setting"]),
        ([], {}, "listen = 3", ["listen", "no setting"]),
        ([], {}, "[listen\nhttp = 1", ["wrong.toml", "line 1"]),
        (["--model-control-mode", "sometimes"], {}, None, ["models.control_mode", "'sometimes'", "explicit"]),
        (["--no-such-option"], {}, None, ["--no-such-option"]),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_wrong_configuration_is_told_before_a_port_opens(tmp_path, arguments, env, file, words):
    if file is not None:
        (tmp_path / "wrong.toml").write_text(file)
        env = env | {"PENSTOCK_CONFIG": str(tmp_path / "wrong.toml")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # A port that is in use: were it tried first, this would be exit code 1.
        env = {"PENSTOCK_METRICS": f"127.0.0.1:{taken.getsockname()[1]}"} | env
        ended = penstock("serve", *arguments, env=env)
    assert ended.returncode == 64, ended.stderr
    assert ended.stdout == ""
    for word in words:
        assert word in ended.stderr


@pytest.mark.parametrize("door", ["http", "grpc", "metrics"])
def test_a_port_in_use_is_named(tmp_path, door):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        doors = {"http": "127.0.0.1:0", "grpc": "127.0.0.1:0", "metrics": "127.0.0.1:0"} | {door: address}
        options = [word for key, value in doors.items() for word in ("--set", f"listen.{key}={value}")]
        ended = penstock("serve", *options, "--model-repository", identity_repository(tmp_path))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert f"listen.{door}: cannot listen on {address}" in ended.stderr
    assert "in use" in ended.stderr


def test_devices_lists_devices_and_isolation():
    ended = penstock("devices")
    assert ended.returncode == 0, ended.stderr
    for word in ("seccomp", "process group", "cpu"):
        assert word in ended.stdout.lower()


def test_help_and_version_are_no_mistakes():
    for option in ("--help", "--version"):
        ended = penstock(option)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "penstock" in ended.stdout.lower()
    assert penstock().returncode == 64


# --- start and logs


def test_a_warm_start_is_quick_and_logs_json(start):
    """The demo models, everything fetched: the promise is 3 s on a quiet machine; a busy one gets more here."""
    began = time.monotonic()
    server = start()
    seconds = time.monotonic() - began
    print(f"ready after {seconds:.2f} s")
    assert seconds < 10
    assert call(server, "/v2/models/minilm/infer", {"inputs": []})[0] == 400
    assert server.stop() == 0
    lines = [line for line in server.log if not line.startswith("penstock: ")]
    assert len(lines) >= 3
    for line in lines:
        entry = json.loads(line)
        assert {"timestamp", "level", "message", "target"} <= entry.keys()
    ready = [entry for entry in map(json.loads, lines) if entry["message"] == "environment ready"]
    assert {entry["function"] for entry in ready} == {"identity:1", "magika:1", "minilm:1"}


def test_a_request_is_found_in_the_log_by_its_id(start, tmp_path):
    repository = identity_repository(tmp_path)
    server = start("--model-repository", repository, env={"PENSTOCK_LOG": "debug"})
    assert call(server, "/v2/models/nothing/infer", {"inputs": INPUT}, headers={"x-request-id": "find-me"})[0] == 404
    lines = until(lambda: [line for line in list(server.log) if "find-me" in line], "the request is in the log")
    assert json.loads(lines[0])["request_id"] == "find-me"
    assert json.loads(lines[0])["level"] == "DEBUG"


# --- drain


def test_ctrl_c_drains(start, tmp_path):
    repository = identity_repository(tmp_path, execute_delay_us_per_item=20_000, max_batch_size=100, count=4)
    server = start("--model-repository", repository)
    pids = server.environments()
    assert len(pids) == 1
    with (
        grpc.insecure_channel(server.grpc) as channel,
        concurrent.futures.ThreadPoolExecutor(4) as threads,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready
        # Two seconds each, side by side.
        over_http = [threads.submit(infer, server, 100) for _ in range(2)]
        over_grpc = [stub.ModelInfer.future(infer_request(rows=100)) for _ in range(2)]
        until(lambda: Scraped(server).sum("penstock_requests_in_flight") == 4, "four requests are in flight")
        server.interrupt()
        until(lambda: not stub.ServerReady(service_pb2.ServerReadyRequest()).ready, "no longer ready")

        status, headers, body = infer(server)
        assert (status, headers["x-penstock-shed-reason"]) == (503, "draining")
        assert int(headers["retry-after"]) >= 1
        assert "shutting down" in json.loads(body)["error"]
        assert call(server, "/v2/health/ready")[0] == 503
        assert call(server, "/v2/health/live")[0] == 200
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(infer_request())
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert dict(caught.value.trailing_metadata())["x-penstock-shed-reason"] == "draining"
        assert not any(one.done() for one in over_http + over_grpc), "refused while others are still served"
        seen = Scraped(server)
        assert seen.ended("identity") == {("shed", "draining"): 2}

        for one in over_http:
            status, _, body = one.result(timeout=10)
            assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [1, 2] * 100)
        for one in over_grpc:
            assert list(one.result(timeout=10).outputs[0].shape) == [100, 2]
        assert server.process.wait(20) == 0
    assert "draining 4 requests" in "".join(server.log)
    for pid in pids:
        assert not os.path.exists(f"/proc/{pid}"), "no process is left behind"
    with pytest.raises(OSError):
        socket.create_connection(server.http.split(":"), timeout=2).close()


def test_a_second_ctrl_c_does_not_wait(start, tmp_path):
    repository = identity_repository(tmp_path, execute_delay_us_per_item=300_000, max_batch_size=100)
    server = start("--model-repository", repository)
    pids = server.environments()
    with grpc.insecure_channel(server.grpc) as channel:
        caller = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(infer_request(rows=100))
        until(lambda: Scraped(server).sum("penstock_requests_in_flight") == 1, "the request is in flight")
        server.interrupt()
        until(lambda: any("draining 1 request" in line for line in list(server.log)), "the drain was told")
        server.interrupt()
        server.process.wait(10)
        with pytest.raises(grpc.RpcError):
            caller.result(timeout=10)
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "no process is left behind")


# --- what rides on every response


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/v2", {}, 200),
        ("/v2/health/live", {}, 200),
        ("/v2/models/identity/infer", {"body": {"inputs": INPUT}}, 200),
        ("/v2/models/identity/infer", {"body": {"inputs": []}}, 400),
        ("/v2/models/nothing/infer", {"body": {"inputs": INPUT}}, 404),
        ("/v2/models/identity/infer", {}, 405),
        ("/v2/repository/index", {"body": {}}, 200),
        ("/v1/models", {}, 200),
        ("/nothing", {}, 404),
        ("/v1/embeddings", {"body": {"model": "nothing", "input": "a"}}, 404),
        ("/v1/embeddings", {"body": {"model": "minilm", "input": "a"}}, 200),
    ],
)
def test_every_http_response_tells_its_times_and_id(server, path, options, status):
    found, headers, _ = call(server, path, **options)
    assert found == status
    assert TIMING.fullmatch(headers["server-timing"])
    assert "total;dur=" in headers["server-timing"]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{12}", headers["x-request-id"])
    _, headers, _ = call(server, path, headers={"x-request-id": "mine-17"}, **options)
    assert headers["x-request-id"] == "mine-17"
    _, headers, _ = call(server, path, headers={"x-request-id": "no such id"}, **options)
    assert headers["x-request-id"] != "no such id"


def test_the_stages_of_a_request_add_up(server):
    _, headers, _ = infer(server)
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", headers["server-timing"]))
    total = float(stages.pop("total"))
    assert set(stages) == {"queue", "prepare", "compute_input", "compute", "compute_output"}
    assert 0 < sum(map(float, stages.values())) <= total + 0.005
    assert 'batch;desc="1"' in headers["server-timing"]


@pytest.mark.parametrize(
    ("method", "request_message", "code"),
    [
        ("ServerLive", service_pb2.ServerLiveRequest(), grpc.StatusCode.OK),
        ("ModelInfer", infer_request(), grpc.StatusCode.OK),
        ("ModelInfer", infer_request("nothing"), grpc.StatusCode.NOT_FOUND),
        ("ModelInfer", service_pb2.ModelInferRequest(model_name="identity"), grpc.StatusCode.INVALID_ARGUMENT),
        ("ModelMetadata", service_pb2.ModelMetadataRequest(name="nothing"), grpc.StatusCode.NOT_FOUND),
        ("RepositoryIndex", service_pb2.RepositoryIndexRequest(), grpc.StatusCode.OK),
    ],
)
def test_every_grpc_response_tells_its_times_and_id(server, method, request_message, code):
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for metadata, wanted in [([], r"[0-9a-f]{8}-[0-9a-f]{12}"), ([("x-request-id", "mine-17")], "mine-17")]:
            caller = getattr(stub, method).future(request_message, metadata=metadata)
            assert caller.code() == code
            told = trailers(caller)
            assert TIMING.fullmatch(told["penstock-timing"])
            assert re.fullmatch(wanted, told["x-request-id"])


# --- overload codes


@pytest.mark.parametrize(
    ("codes", "status", "code"),
    [("lambda", 429, grpc.StatusCode.RESOURCE_EXHAUSTED), ("triton", 503, grpc.StatusCode.UNAVAILABLE)],
)
def test_overload_codes_change_the_code_and_nothing_else(start, tmp_path, codes, status, code):
    repository = identity_repository(tmp_path, execute_delay_us_per_item=50_000, max_batch_size=100)
    options = ("--set", f"overload_codes={codes}", "--set", "environments.concurrency=1")
    server = start("--model-repository", repository, *options)
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        occupying = stub.ModelInfer.future(infer_request(rows=100))
        until(lambda: Scraped(server).sum("penstock_requests_in_flight") == 1, "the only slot is taken")
        found, headers, body = infer(server)
        assert found == status
        assert headers["x-penstock-shed-reason"] == "environment_concurrency"
        assert int(headers["retry-after"]) >= 1
        assert int(headers["x-amz-retry-after"]) >= 1
        assert "slots" in json.loads(body)["error"]
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(infer_request())
        assert caught.value.code() == code
        told = dict(caught.value.trailing_metadata())
        assert told["x-penstock-shed-reason"] == "environment_concurrency"
        assert int(told["grpc-retry-pushback-ms"]) >= 1
        assert b"environment_concurrency" in told["grpc-status-details-bin"]
        assert not occupying.done()
        occupying.cancel()
        # The slot comes back with the caller's leaving, not with the batch's end.
        seen = until(lambda: (now := Scraped(server)).sum("penstock_requests_in_flight") == 0 and now, "nothing in flight")
    assert seen.ended("identity") == {("shed", "environment_concurrency"): 2, ("cancelled", ""): 1}


@pytest.mark.parametrize("layout", ["files", "folder"])
def test_a_model_of_links_into_a_cache_as_downloads_leave_it(start, tmp_path, layout):
    """Hugging Face's cache: a snapshot's files are links to blobs whose names are hashes; or the folder itself is a link."""
    blobs, repository = tmp_path / "blobs", tmp_path / "models"
    blobs.mkdir()
    repository.mkdir()
    snapshot = tmp_path / "snapshot" if layout == "folder" else repository / "linked"
    for number, file in enumerate(sorted(path for path in (CACHE / "models/minilm/1").rglob("*") if path.is_file())):
        (blob := blobs / f"{number:040x}").symlink_to(file.resolve()) if number % 2 else None
        target = blob if number % 2 else file.resolve()
        link = snapshot / file.relative_to(CACHE / "models/minilm/1")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    if layout == "folder":
        (repository / "linked").symlink_to(snapshot)
    server = start("--model-repository", repository)
    asked = json.dumps({"model": "linked", "input": "hello"}).encode()
    request = urllib.request.Request(f"{server.url}/v1/embeddings", asked, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert len(json.load(answer)["data"][0]["embedding"]) == 384


def test_a_relative_repository_is_one_from_here(start):
    """Environments run elsewhere, and read their model all the same."""
    server = start("--model-repository", os.path.relpath(CACHE / "models"), "--model-control-mode", "explicit",
                   "--load-model", "magika")
    assert call(server, "/v2/models/magika/ready")[0] == 200
