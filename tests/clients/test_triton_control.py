"""The model repository as tritonclient steers it: load, unload, overrides, polling, and models that are bad."""

import concurrent.futures
import json
import pathlib
import pickle
import queue
import re
import shutil
import time
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from conftest import CACHE, identity_repository

KINDS = {"grpc": tritonclient.grpc, "http": tritonclient.http}
DEADLINE_S = 30
EXPLICIT = ("--model-control-mode", "explicit")


class Client:
    def __init__(self, server, kind):
        self.kind, self.module = kind, KINDS[kind]
        self.api = self.module.InferenceServerClient(getattr(server, kind))

    def index(self):
        """Name and version to state and reason."""
        models = self.api.get_model_repository_index()
        if self.kind == "grpc":
            return {(m.name, m.version): (m.state, m.reason) for m in models.models}
        return {(m["name"], m["version"]): (m["state"], m.get("reason", "")) for m in models}

    def config(self, model):
        if self.kind == "grpc":
            return self.api.get_model_config(model, as_json=True)["config"]
        return self.api.get_model_config(model)

    def echo(self, model="identity", rows=1, version=""):
        array = np.full((rows, 3), 7, np.float32)
        sent = self.module.InferInput("INPUT0", list(array.shape), "FP32").set_data_from_numpy(array)
        result = self.api.infer(model, [sent], model_version=version)
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)

    def fails(self, method, *arguments, **keywords):
        with pytest.raises(InferenceServerException) as failed:
            getattr(self.api, method)(*arguments, **keywords)
        return failed.value.status(), failed.value.message()


def code(kind, grpc_code, http_code):
    return f"StatusCode.{grpc_code}" if kind == "grpc" else str(http_code)


def until(what, why):
    """Asks again and again, at most the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            if what():
                return
            failed = None
        except (AssertionError, InferenceServerException, pytest.fail.Exception) as error:
            failed = error
        assert time.monotonic() < deadline, f"{why}: {failed}"
        time.sleep(0.05)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_load_and_unload(start, tmp_path, kind):
    running = start("--model-repository", identity_repository(tmp_path), *EXPLICIT)
    client = Client(running, kind)
    assert running.environments() == []
    assert client.api.is_server_ready() and not client.api.is_model_ready("identity")
    for _ in range(3):
        client.api.load_model("identity")
        assert client.api.is_model_ready("identity") and client.index()[("identity", "1")][0] == "READY"
        (pid,) = running.environments()
        client.echo()
        client.api.load_model("identity")  # again: nothing changed, nothing moves
        assert running.environments() == [pid]
        client.api.unload_model("identity")
        assert running.environments() == [] and not pathlib.Path(f"/proc/{pid}").exists()
        assert not client.api.is_model_ready("identity")
        ((state, reason),) = client.index().values()
        assert (state, reason) == ("UNAVAILABLE", "unloaded")
        with pytest.raises(InferenceServerException, match="no available versions"):
            client.echo()
    client.api.unload_model("identity")  # what is not loaded is fine
    client.api.unload_model("nothing")
    status, message = client.fails("load_model", "nothing")
    assert status == code(kind, "NOT_FOUND", 404) and "nothing" in message


def test_unloading_answers_what_is_in_flight(start, tmp_path):
    repository = identity_repository(tmp_path, execute_delay_us=1_500_000)
    running = start("--model-repository", repository, *EXPLICIT, "--load-model", "identity")
    client = Client(running, "grpc")
    ends = queue.Queue()
    array = np.ones((1, 3), np.float32)
    sent = tritonclient.grpc.InferInput("INPUT0", [1, 3], "FP32").set_data_from_numpy(array)
    client.api.async_infer("identity", [sent], lambda result, error: ends.put((result, error)))
    in_flight = re.compile(r'^penstock_requests_in_flight{[^}]*function="identity"[^}]*} 1$', re.MULTILINE)

    def taken_in():
        with urllib.request.urlopen(f"http://{running.metrics}/metrics", timeout=DEADLINE_S) as metrics:
            return in_flight.search(metrics.read().decode())

    until(taken_in, "the request is in flight")
    client.api.unload_model("identity")
    result, error = ends.get(timeout=DEADLINE_S)
    assert error is None, error
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)


def test_load_with_a_configuration(start, tmp_path, kind):
    running = start("--model-repository", identity_repository(tmp_path), *EXPLICIT)
    client = Client(running, kind)
    client.api.load_model("identity")
    assert client.config("identity")["max_batch_size"] == 8
    (before,) = running.environments()
    changed = {
        "name": "identity",
        "backend": "identity",
        "max_batch_size": 2,
        "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
        "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
    }
    client.api.load_model("identity", config=json.dumps(changed))
    assert client.config("identity")["max_batch_size"] == 2
    client.echo(rows=2)
    with pytest.raises(InferenceServerException, match="<= 2"):
        client.echo(rows=3)
    until(lambda: len(running.environments()) == 1, "the old environment ends")
    assert running.environments() != [before]
    for wrong, word in (("{", "config"), ("[]", "config"), (json.dumps(changed | {"max_batch_size": -1}), "max_batch_size")):
        _, message = client.fails("load_model", "identity", config=wrong)
        assert word in message
    client.echo(rows=2)  # as it was
    client.api.load_model("identity")  # the file's again
    assert client.config("identity")["max_batch_size"] == 8
    client.echo(rows=3)


def test_files_in_a_load_request_are_not_offered(start, tmp_path, kind):
    running = start("--model-repository", identity_repository(tmp_path), *EXPLICIT)
    client = Client(running, kind)
    config = '{"backend": "identity"}'
    status, message = client.fails("load_model", "identity", config=config, files={"file:1/model.onnx": b"abc"})
    assert status == code(kind, "UNIMPLEMENTED", 501) and "file:1/model.onnx" in message


def test_loads_at_the_same_time_do_not_undo_one_another(start, tmp_path):
    names = [f"identity{index}" for index in range(6)]
    for name in names:
        identity_repository(tmp_path, name)
    running = start("--model-repository", tmp_path, *EXPLICIT)
    clients = [Client(running, "grpc") for _ in names]
    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(len(names)) as threads:
            list(threads.map(lambda client, name: client.api.load_model(name), clients, names))
            list(threads.map(lambda client, name: client.echo(name), clients, names))
            assert len(running.environments()) == len(names)
            list(threads.map(lambda client, name: client.api.unload_model(name), clients, names))
        assert running.environments() == []


def test_some_are_loaded_at_the_start(start, tmp_path):
    for name in ("one", "two"):
        identity_repository(tmp_path, name)
    client = Client(start("--model-repository", tmp_path, *EXPLICIT, "--load-model", "two"), "http")
    assert client.api.is_model_ready("two") and not client.api.is_model_ready("one")
    everything = Client(start("--model-repository", tmp_path, *EXPLICIT, "--load-model", "*"), "http")
    assert everything.api.is_model_ready("two") and everything.api.is_model_ready("one")


def test_the_index_tells_what_could_be_loaded(start, tmp_path, kind):
    client = Client(start("--model-repository", identity_repository(tmp_path), *EXPLICIT), kind)
    assert [name for name, _ in client.index()] == ["identity"]


def test_mode_none_refuses_load_and_unload(server, kind):
    client = Client(server, kind)
    for method in ("load_model", "unload_model"):
        status, message = client.fails(method, "identity")
        assert status == code(kind, "UNAVAILABLE", 503) and "model-control-mode" in message
    client.echo()


def test_polling_follows_the_files(start, tmp_path):
    running = start(
        "--model-repository", identity_repository(tmp_path), "--model-control-mode", "poll", "--set", "models.poll_secs=1"
    )  # fmt: skip
    client = Client(running, "http")
    client.echo()
    assert "polling" in client.fails("load_model", "identity")[1]
    # A model that comes.
    identity_repository(tmp_path, "second")
    until(lambda: client.api.is_model_ready("second"), "a new model is found")
    client.echo("second")
    # A configuration that changes: the old answers until the new one does.
    identity_repository(tmp_path, max_batch_size=2)

    def changed():
        client.echo(rows=1)
        with pytest.raises(InferenceServerException, match="<= 2"):
            client.echo(rows=3)
        return client.config("identity")["max_batch_size"] == 2

    until(changed, "a new configuration is found")
    # One that becomes wrong: what is served goes on, with what it had.
    (tmp_path / "identity/config.pbtxt").write_text("max_batch_size: many")
    # A version that comes, and is now the latest.
    (tmp_path / "second/2").mkdir()
    until(lambda: client.api.is_model_ready("second", "2"), "a new version is found")
    client.echo("second", version="2")
    client.echo(rows=2)
    # A model that goes.
    shutil.rmtree(tmp_path / "second")
    until(lambda: not client.api.is_model_ready("second"), "a model that is gone is unloaded")
    until(lambda: len(running.environments()) == 1, "its processes end")
    client.echo(rows=2)


def bad_repository(folder):
    """A good model among bad ones, each with words that its reason must have."""
    identity_repository(folder)
    magika = CACHE / "models/magika/1/model.onnx"

    def model(name, file, content, config=None):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / file).write_bytes(content)
        if config:
            (folder / name / "config.pbtxt").write_text(config)

    onnx = 'platform: "onnxruntime_onnx"\n'
    model("truncated", "model.onnx", magika.read_bytes()[:1000])
    model("empty", "model.onnx", b"")
    model("noise", "model.onnx", bytes(range(256)) * 40)
    model("pickled", "model.pt", pickle.dumps({"weights": [1, 2, 3]}))
    model("unknown_operator", "model.onnx", unknown_operator())
    model("garbage", "model.onnx", magika.read_bytes(), "}{ this is: not [ a configuration")
    model("unknown_field", "model.onnx", magika.read_bytes(), onnx + "maximum_batch_size: 8\n")
    model("another_name", "model.onnx", magika.read_bytes(), onnx + 'name: "other"\n')
    wrong_dims = 'input [ { name: "bytes" data_type: TYPE_INT32 dims: [ 7 ] } ]\n'
    model("wrong_dims", "model.onnx", magika.read_bytes(), onnx + "max_batch_size: 8\n" + wrong_dims)
    wrong_type = 'input [ { name: "bytes" data_type: TYPE_FP32 dims: [ 2048 ] } ]\n'
    model("wrong_type", "model.onnx", magika.read_bytes(), onnx + "max_batch_size: 8\n" + wrong_type)
    model("unknown_backend", "model.bin", b"x", 'backend: "tensorflow9"\n')
    (folder / "no_version").mkdir()
    (folder / "no_version/config.pbtxt").write_text(onnx)
    (folder / "no_file/1").mkdir(parents=True)
    (folder / "no_file/config.pbtxt").write_text(onnx)
    return folder, {
        "truncated": ["model.onnx"],
        "empty": ["model.onnx"],
        "noise": ["model.onnx"],
        "pickled": ["pickle"],
        "unknown_operator": ["Penstockless"],
        "garbage": ["config.pbtxt"],
        "unknown_field": ["maximum_batch_size"],
        "another_name": ["other", "another_name"],
        "wrong_dims": ["bytes", "7", "2048"],
        "wrong_type": ["bytes", "FP32", "INT32"],
        "unknown_backend": ["tensorflow9"],
        "no_version": ["version"],
        "no_file": ["model.onnx"],
    }


def unknown_operator():
    """An ONNX model `y = Penstockless(x)`, written as protobuf by hand."""

    def field(number, value):
        if isinstance(value, int):
            return bytes([number << 3, value])
        value = value.encode() if isinstance(value, str) else value
        return bytes([number << 3 | 2, len(value)]) + value

    shape = field(2, field(1, field(1, 1)))  # TensorShapeProto: one dimension of 1
    tensor = field(2, field(1, field(1, 1) + shape))  # TypeProto: FLOAT
    node = field(1, "x") + field(2, "y") + field(4, "Penstockless")
    graph = field(1, node) + field(2, "g") + field(11, field(1, "x") + tensor) + field(12, field(1, "y") + tensor)
    return field(1, 8) + field(7, graph) + field(8, field(2, 17))


def test_bad_models_are_named_and_hurt_nothing_else(start, tmp_path):
    repository, bad = bad_repository(tmp_path)
    running = start("--model-repository", repository)
    for kind in KINDS:
        client = Client(running, kind)
        index = client.index()
        assert index.pop(("identity", "1")) == ("READY", "")
        told = {}
        for (name, _), (state, reason) in index.items():
            assert state == "UNAVAILABLE", (name, state, reason)
            told[name] = told.get(name, "") + reason
        assert set(told) == set(bad)
        for name, words in bad.items():
            assert all(word.lower() in told[name].lower() for word in words), (name, told[name])
            assert not client.api.is_model_ready(name)
            with pytest.raises(InferenceServerException):
                client.echo(name)
        assert client.api.is_server_ready()
        client.echo()
    assert len(running.environments()) == 1


def test_loading_a_bad_model_says_why_each_time(start, tmp_path, kind):
    repository, bad = bad_repository(tmp_path)
    running = start("--model-repository", repository, *EXPLICIT, "--load-model", "identity")
    client = Client(running, kind)
    for name, words in bad.items():
        for _ in range(2):
            try:
                client.api.load_model(name)
                message = "loaded"
            except InferenceServerException as error:
                message = error.message()
            assert all(word.lower() in message.lower() for word in words), (name, message)
        client.echo()
    # Mended, it loads.
    shutil.copy(CACHE / "models/magika/1/model.onnx", tmp_path / "truncated/1/model.onnx")
    client.api.load_model("truncated")
    assert client.api.is_model_ready("truncated")
    # Bad again: each load says so, and what was good goes on.
    environments = running.environments()
    (tmp_path / "truncated/1/model.onnx").write_bytes(b"not a model")
    for _ in range(2):
        _, message = client.fails("load_model", "truncated")
        assert "model.onnx" in message
        assert client.api.is_model_ready("truncated")
    until(lambda: running.environments() == environments, "the environments are as they were")
