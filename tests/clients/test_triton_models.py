"""tritonclient, unpatched, in all its kinds: what it can ask about the demo models, and every tensor there and back."""

import asyncio
import concurrent.futures
import threading

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from conftest import identity_repository

KINDS = {
    "grpc": tritonclient.grpc,
    "http": tritonclient.http,
    "grpc.aio": tritonclient.grpc.aio,
    "http.aio": tritonclient.http.aio,
}
CALL_TIMEOUT_S = 30


class Triton:
    """One kind of client, its methods as plain calls, its answers as plain dictionaries."""

    def __init__(self, kind, server):
        self.kind, self.module = kind, KINDS[kind]
        self.is_grpc, self.is_async = kind.startswith("grpc"), kind.endswith("aio")
        self.address = server.grpc if self.is_grpc else server.http
        self.client = None if self.is_async else self.module.InferenceServerClient(self.address)

    def __call__(self, method, *arguments, **keywords):
        if not self.is_async:
            return getattr(self.client, method)(*arguments, **keywords)

        async def once():
            async with self.module.InferenceServerClient(self.address) as client:
                return await getattr(client, method)(*arguments, **keywords)

        return asyncio.run(once())

    def ask(self, method, *arguments):
        return self(method, *arguments, **({"as_json": True} if self.is_grpc else {}))

    def input(self, name, array, datatype=None, **keywords):
        tensor = self.module.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
        return tensor.set_data_from_numpy(array, **keywords)

    def output(self, name, **keywords):
        return self.module.InferRequestedOutput(name, **keywords)

    def close(self):
        if self.client is not None:
            self.client.close()


@pytest.fixture(params=KINDS)
def triton(request, server):
    client = Triton(request.param, server)
    yield client
    client.close()


FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
MODELS = ("minilm", "magika", "identity")


def test_server_and_models_are_live_and_ready(triton):
    assert triton("is_server_live") and triton("is_server_ready")
    for model in MODELS:
        assert triton("is_model_ready", model) and triton("is_model_ready", model, "1")
    assert not triton("is_model_ready", "nothing")
    assert not triton("is_model_ready", "magika", "7")


def test_server_metadata(triton):
    metadata = triton.ask("get_server_metadata")
    assert metadata["name"] == "penstock" and metadata["version"]
    wanted = {"classification", "model_repository", "model_configuration", "binary_tensor_data", "parameters"}
    assert wanted | {"statistics"} <= set(metadata["extensions"])


def test_both_protocols_tell_the_same_extensions(server):
    extensions = [set(Triton(kind, server).ask("get_server_metadata")["extensions"]) for kind in ("grpc", "http")]
    assert extensions[0] == extensions[1]


def tensors(metadata):
    return {t["name"]: (t["datatype"], [int(size) for size in t["shape"]]) for t in metadata}


@pytest.mark.parametrize("version", ["", "1"])
def test_model_metadata(triton, version):
    minilm = triton.ask("get_model_metadata", "minilm", version)
    assert minilm["name"] == "minilm" and minilm["versions"] == ["1"] and minilm["platform"]
    inputs = tensors(minilm["inputs"])
    assert inputs["text"] == ("BYTES", [-1, 1])
    assert inputs["input_ids"] == inputs["attention_mask"] == ("INT64", [-1, -1])
    assert tensors(minilm["outputs"]) == {"embedding": ("FP32", [-1, 384])}
    magika = triton.ask("get_model_metadata", "magika", version)
    assert magika["platform"] == "onnxruntime_onnx"
    assert tensors(magika["inputs"]) == {"bytes": ("INT32", [-1, 2048])}
    assert tensors(magika["outputs"]) == {"target_label": ("FP32", [-1, 214])}
    identity = triton.ask("get_model_metadata", "identity", version)
    assert tensors(identity["inputs"]) == {"INPUT0": ("FP32", [-1, -1])}
    assert tensors(identity["outputs"]) == {"OUTPUT0": ("FP32", [-1, -1])}


def test_model_config(triton):
    for model, backend in (("minilm", "bert"), ("magika", "onnxruntime"), ("identity", "identity")):
        config = triton.ask("get_model_config", model)
        config = config["config"] if triton.is_grpc else config
        assert (config["name"], config["backend"], config["max_batch_size"]) == (model, backend, 64)
    assert [(i["name"], i["data_type"], [int(d) for d in i["dims"]]) for i in config["input"]] == [
        ("INPUT0", "TYPE_FP32", [-1])
    ]


def test_repository_index(triton):
    index = triton.ask("get_model_repository_index")
    models = index["models"] if triton.is_grpc else index
    assert {(m["name"], m["version"], m["state"]) for m in models} >= {(name, "1", "READY") for name in MODELS}


def counts(triton, model):
    (stats,) = triton.ask("get_inference_statistics", model, "1")["model_stats"]
    success = stats.get("inference_stats", {}).get("success", {})
    return int(stats.get("inference_count", 0)), int(success.get("count", 0)), int(success.get("ns", 0))


def test_statistics_count_rows_and_requests(triton):
    before = counts(triton, "identity")
    triton("infer", "identity", [triton.input("INPUT0", FLOATS)])
    after = counts(triton, "identity")
    assert after[0] - before[0] == 2 and after[1] - before[1] == 1 and after[2] > before[2]
    everything = triton.ask("get_inference_statistics")["model_stats"]
    assert {stats["name"] for stats in everything} >= set(MODELS)


def test_failures_are_counted_as_such(triton):
    def failures():
        (stats,) = triton.ask("get_inference_statistics", "magika", "1")["model_stats"]
        return int(stats.get("inference_stats", {}).get("fail", {}).get("count", 0))

    before = failures()
    with pytest.raises(InferenceServerException):
        triton("infer", "magika", [triton.input("bytes", np.zeros((1, 3), np.int32))])
    assert failures() == before + 1


EDGES = {
    "BOOL": np.array([[True, False, True]]),
    **{f"{'U' * (kind == 'u')}INT{bits}": None for kind in "iu" for bits in (8, 16, 32, 64)},
    "FP16": np.array([[0.0, -1.5, 65504.0, np.inf]], np.float16),
    "FP32": np.array([[0.0, -0.0, 1e-45, 3.4e38]], np.float32),
    "FP64": np.array([[0.0, -1e-300, 1.7e308]], np.float64),
    "BF16": np.array([[0.0, -1.5, 256.0, 2.0**100]], ml_dtypes.bfloat16),
    "BYTES": np.array([[b"", "naïve 東京 🙂".encode(), b"\x00" * 5, b"x" * 300]], np.object_),
}
for datatype in [name for name, value in EDGES.items() if value is None]:
    limits = np.iinfo(np.dtype(datatype.lower()))
    EDGES[datatype] = np.array([[limits.min, 0, 1, limits.max]], limits.dtype)


@pytest.mark.parametrize("datatype", EDGES)
def test_every_datatype_comes_back_as_it_was(triton, datatype):
    result = triton("infer", "identity", [triton.input("INPUT0", EDGES[datatype], datatype)])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), EDGES[datatype])


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("datatype", sorted(set(EDGES) - {"FP16", "BF16"}))
def test_every_datatype_as_json_and_binary(server, datatype, binary_in, binary_out):
    triton = Triton("http", server)
    array = EDGES[datatype]
    if datatype == "BYTES":  # JSON has text only
        array = np.array([["", "naïve 東京 🙂", '"\\\n\t', "x" * 300]], np.object_)
    sent = triton.input("INPUT0", array, datatype, binary_data=binary_in)
    wanted = [triton.output("OUTPUT0", binary_data=binary_out)]
    back = triton("infer", "identity", [sent], outputs=wanted).as_numpy("OUTPUT0")
    if datatype == "BYTES":
        back = np.array([[e.decode() if isinstance(e, bytes) else e for e in back[0]]], np.object_)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kind", ["http", "http.aio"])
def test_compression_over_http(server, kind, request_coding, response_coding, binary):
    triton = Triton(kind, server)
    array = np.tile(np.arange(500, dtype=np.float32), (4, 1))
    result = triton(
        "infer",
        "identity",
        [triton.input("INPUT0", array, binary_data=binary)],
        outputs=[triton.output("OUTPUT0", binary_data=binary)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"])
@pytest.mark.parametrize("coding", ["gzip"])
def test_compression_over_grpc(server, kind, coding):
    triton = Triton(kind, server)
    array = np.tile(np.arange(500, dtype=np.float32), (4, 1))
    sent = [triton.input("INPUT0", array)]
    result = triton("infer", "identity", sent, compression_algorithm=coding)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)


def test_request_ids_come_back(triton):
    sent = [triton.input("INPUT0", FLOATS)]
    with_id = triton("infer", "identity", sent, request_id="order 66 – naïve").get_response()
    without = triton("infer", "identity", sent).get_response()
    if triton.is_grpc:
        assert (with_id.id, without.id) == ("order 66 – naïve", "")
        assert (with_id.model_name, with_id.model_version) == ("identity", "1")
    else:
        assert with_id["id"] == "order 66 – naïve" and "id" not in without
        assert (with_id["model_name"], with_id["model_version"]) == ("identity", "1")


def test_parameters_nobody_knows_are_ignored(triton):
    sent = [triton.input("INPUT0", FLOATS)]
    own = {"colour": "blue", "depth": 3, "wet": True}
    result = triton("infer", "identity", sent, parameters=own, priority=1, timeout=20_000_000)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FLOATS)


def test_only_the_outputs_asked_for(triton):
    both = [triton.input("INPUT0", FLOATS), triton.input("INPUT1", FLOATS + 10)]
    result = triton("infer", "identity", both)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FLOATS)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), FLOATS + 10)
    result = triton("infer", "identity", both, outputs=[triton.output("OUTPUT1")])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), FLOATS + 10)
    assert result.as_numpy("OUTPUT0") is None
    with pytest.raises(InferenceServerException, match="OUTPUT7"):
        triton("infer", "identity", both, outputs=[triton.output("OUTPUT7")])


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_timeout_the_function_cannot_meet(start, tmp_path, kind):
    running = start("--model-repository", identity_repository(tmp_path, execute_delay_us=500_000))
    triton = Triton(kind, running)
    status = "StatusCode.DEADLINE_EXCEEDED" if triton.is_grpc else "504"
    with pytest.raises(InferenceServerException) as failed:
        triton("infer", "identity", [triton.input("INPUT0", FLOATS)], timeout=50_000)
    assert failed.value.status() == status, failed.value


def test_many_at_once_by_async_infer(server):
    arrays = [np.full((1, 5), index, np.float32) for index in range(100)]
    http = tritonclient.http.InferenceServerClient(server.http, concurrency=8)
    handles = [http.async_infer("identity", [Triton("http", server).input("INPUT0", a)]) for a in arrays]
    for array, handle in zip(arrays, handles):
        np.testing.assert_array_equal(handle.get_result(timeout=CALL_TIMEOUT_S).as_numpy("OUTPUT0"), array)
    http.close()

    grpc = Triton("grpc", server)
    answers, all_in = {}, threading.Semaphore(0)

    def answered(index, result, error):
        answers[index] = error or result.as_numpy("OUTPUT0")
        all_in.release()

    for index, array in enumerate(arrays):
        callback = lambda result, error, index=index: answered(index, result, error)
        grpc.client.async_infer("identity", [grpc.input("INPUT0", array)], callback)
    for _ in arrays:
        assert all_in.acquire(timeout=CALL_TIMEOUT_S)
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(answers[index], array)
    grpc.close()


@pytest.mark.parametrize("kind", ["grpc.aio", "http.aio"])
def test_many_at_once_by_asyncio(server, kind):
    triton = Triton(kind, server)
    arrays = [np.full((1, 5), index, np.float32) for index in range(100)]

    async def all_of_them():
        async with triton.module.InferenceServerClient(triton.address) as client:
            calls = [client.infer("identity", [triton.input("INPUT0", array)]) for array in arrays]
            return await asyncio.wait_for(asyncio.gather(*calls), CALL_TIMEOUT_S)

    for array, result in zip(arrays, asyncio.run(all_of_them())):
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)


def test_a_stream_of_many_with_bad_ones_between(server):
    triton = Triton("grpc", server)
    answers, all_in = [], threading.Semaphore(0)

    def answered(result, error):
        answers.append((result, error))
        all_in.release()

    triton.client.start_stream(answered)
    for index in range(300):
        if index % 100 == 50:
            bad = triton.input("bytes", np.zeros((1, 3), np.int32))
            triton.client.async_stream_infer("magika", [bad], request_id=f"bad {index}")
        else:
            sent = triton.input("INPUT0", np.full((1, 5), index, np.float32))
            triton.client.async_stream_infer("identity", [sent], request_id=str(index))
    for _ in range(300):
        assert all_in.acquire(timeout=CALL_TIMEOUT_S)
    # After the bad ones, the same stream goes on.
    triton.client.async_stream_infer("identity", [triton.input("INPUT0", FLOATS)], request_id="last")
    assert all_in.acquire(timeout=CALL_TIMEOUT_S)
    triton.client.stop_stream()
    good = {r.get_response().id: r.as_numpy("OUTPUT0") for r, error in answers if error is None}
    bad = [error for _, error in answers if error is not None]
    np.testing.assert_array_equal(good.pop("last"), FLOATS)
    assert len(good) == 297 and len(bad) == 3
    assert all((array == float(name)).all() for name, array in good.items())
    assert all("bytes" in error.message() for error in bad), bad
    triton.close()


def test_a_stream_by_asyncio(server):
    triton = Triton("grpc.aio", server)

    async def requests():
        for index in range(100):
            name = "identity" if index != 50 else "nothing"
            sent = triton.input("INPUT0", np.full((1, 5), index, np.float32))
            yield {"model_name": name, "inputs": [sent], "request_id": str(index)}

    async def all_of_them():
        async with triton.module.InferenceServerClient(triton.address) as client:
            return [answer async for answer in client.stream_infer(requests())]

    answers = asyncio.run(all_of_them())
    good = {r.get_response().id: r.as_numpy("OUTPUT0") for r, error in answers if error is None}
    assert set(good) == {str(index) for index in range(100)} - {"50"}
    assert all((array == float(name)).all() for name, array in good.items())
    assert ["nothing" in error.message() for _, error in answers if error is not None] == [True]


def test_a_stream_tells_which_response_is_the_last(server):
    triton = Triton("grpc", server)
    answers, one_in = [], threading.Semaphore(0)
    triton.client.start_stream(lambda result, error: (answers.append((result, error)), one_in.release()))
    sent = [triton.input("INPUT0", FLOATS)]
    triton.client.async_stream_infer("identity", sent, request_id="1", enable_empty_final_response=True)
    assert one_in.acquire(timeout=CALL_TIMEOUT_S)
    triton.client.stop_stream()
    ((result, error),) = answers
    assert error is None and result.get_response().parameters["triton_final_response"].bool_param


def test_one_client_from_many_threads(server):
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    make = Triton("grpc", server)

    def one(index):
        array = np.full((1, 3), index, np.float32)
        return (client.infer("identity", [make.input("INPUT0", array)]).as_numpy("OUTPUT0") == index).all()

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        assert all(threads.map(one, range(200)))
    client.close()
