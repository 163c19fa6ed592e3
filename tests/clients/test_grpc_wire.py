"""The gRPC door, asked by bare stubs: typed contents, wrong requests, sizes, compression, health and reflection."""

import queue
import select
import socket
import threading

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2, descriptor_pb2, duration_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from scraped import Scraped, until
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from conftest import identity_repository

TIMEOUT_S = 30
MIB = 1 << 20
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
Input = pb.ModelInferRequest.InferInputTensor
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc, UNLIMITED) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request(model="identity", name="INPUT0", datatype="FP32", shape=(1, 2), raw=b"\0" * 8, **fields):
    """A request that is right unless told otherwise."""
    made = pb.ModelInferRequest(model_name=model, inputs=[Input(name=name, datatype=datatype, shape=shape)], **fields)
    made.raw_input_contents.extend([raw] if isinstance(raw, bytes) else raw)
    return made


TYPED = {
    "BOOL": ("bool_contents", [True, False, True], "?"),
    "INT8": ("int_contents", [-128, 0, 127], "i1"),
    "INT16": ("int_contents", [-32768, 0, 32767], "<i2"),
    "INT32": ("int_contents", [-(2**31), 0, 2**31 - 1], "<i4"),
    "INT64": ("int64_contents", [-(2**63), 0, 2**63 - 1], "<i8"),
    "UINT8": ("uint_contents", [0, 1, 255], "u1"),
    "UINT16": ("uint_contents", [0, 1, 65535], "<u2"),
    "UINT32": ("uint_contents", [0, 1, 2**32 - 1], "<u4"),
    "UINT64": ("uint64_contents", [0, 1, 2**64 - 1], "<u8"),
    "FP32": ("fp32_contents", [0.0, -1.5, 3e38], "<f4"),
    "FP64": ("fp64_contents", [0.0, -1.5, 1e308], "<f8"),
}


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_come_back_raw(stub, datatype):
    field, values, dtype = TYPED[datatype]
    sent = Input(name="INPUT0", datatype=datatype, shape=[1, 3])
    getattr(sent.contents, field).extend(values)
    answer = stub.ModelInfer(pb.ModelInferRequest(model_name="identity", inputs=[sent]), timeout=TIMEOUT_S)
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("OUTPUT0", datatype, [1, 3])
    assert not output.HasField("contents")
    assert list(answer.raw_output_contents) == [np.array(values, dtype).tobytes()]


def test_typed_bytes_come_back_raw(stub):
    values = [b"", "naïve 東京".encode(), b"\xff\x00"]
    sent = Input(name="INPUT0", datatype="BYTES", shape=[3, 1])
    sent.contents.bytes_contents.extend(values)
    answer = stub.ModelInfer(pb.ModelInferRequest(model_name="identity", inputs=[sent]), timeout=TIMEOUT_S)
    assert answer.raw_output_contents[0] == b"".join(len(v).to_bytes(4, "little") + v for v in values)


def test_an_answer_carries_its_stage_times(stub):
    _, call = stub.ModelInfer.with_call(request(), timeout=TIMEOUT_S)
    trailers = dict(call.trailing_metadata())
    assert "total;dur=" in trailers["penstock-timing"], trailers


MINILM_INVALID = (3).to_bytes(4, "little") + b"a\xffb"


def typed_and_raw():
    made = request()
    made.inputs[0].contents.fp32_contents.extend([1, 2])
    return made


def two_inputs(*raw, model="identity", names=("INPUT0", "INPUT1")):
    made = request(model, names[0], raw=raw)
    made.inputs.append(Input(name=names[1], datatype="FP32", shape=[1, 2]))
    return made


def two_magika_inputs(second):
    made = request("magika", "bytes", "INT32", (1, 2048), [bytes(8192), bytes(8192)])
    made.inputs.append(Input(name=second, datatype="INT32", shape=[1, 2048]))
    return made


def typed(field, values, datatype="FP32", shape=(1, 2)):
    sent = Input(name="INPUT0", datatype=datatype, shape=shape)
    getattr(sent.contents, field).extend(values)
    return pb.ModelInferRequest(model_name="identity", inputs=[sent])


def with_output(name, **parameters):
    made = request()
    made.outputs.append(pb.ModelInferRequest.InferRequestedOutputTensor(name=name))
    for key, value in parameters.items():
        made.outputs[0].parameters[key].CopyFrom(value)
    return made


def with_parameter(made, key, **choice):
    made.parameters[key].CopyFrom(pb.InferParameter(**choice))
    return made


LONG_TEXT = b"word " * 400
WRONG = {
    "no model": (request(""), Code.INVALID_ARGUMENT, ["model_name"]),
    "unknown model": (request("nothing"), Code.NOT_FOUND, ["nothing"]),
    "unknown version": (request(model_version="7"), Code.NOT_FOUND, ["identity", "7"]),
    "version abc": (request(model_version="abc"), Code.INVALID_ARGUMENT, ["model_version", "abc"]),
    "version -1": (request(model_version="-1"), Code.INVALID_ARGUMENT, ["model_version", "-1"]),
    "no input": (pb.ModelInferRequest(model_name="magika"), Code.INVALID_ARGUMENT, ["bytes"]),
    "no input at identity": (pb.ModelInferRequest(model_name="identity"), Code.INVALID_ARGUMENT, ["input"]),
    "no input at minilm": (pb.ModelInferRequest(model_name="minilm"), Code.INVALID_ARGUMENT, ["text", "input_ids"]),
    "wrong name": (request("magika", "byte", "INT32", (1, 2048), bytes(8192)), Code.INVALID_ARGUMENT, ["'byte'"]),
    "extra input": (two_magika_inputs("surplus"), Code.INVALID_ARGUMENT, ["surplus"]),
    "the same input twice": (
        two_inputs(bytes(8), bytes(8), names=("INPUT0", "INPUT0")), Code.INVALID_ARGUMENT, ["INPUT0"],
    ),
    "the same input twice at magika": (two_magika_inputs("bytes"), Code.INVALID_ARGUMENT, ["bytes"]),
    "wrong type": (
        request("magika", "bytes", "INT64", (1, 2048), bytes(16384)), Code.INVALID_ARGUMENT, ["bytes", "INT64", "INT32"],
    ),
    "unknown type": (request(datatype="FLOAT"), Code.INVALID_ARGUMENT, ["INPUT0", "FLOAT", "FP32"]),
    "wrong shape": (
        request("magika", "bytes", "INT32", (1, 7), bytes(28)), Code.INVALID_ARGUMENT, ["bytes", "7", "2048"],
    ),
    "wrong rank": (request("magika", "bytes", "INT32", (2048,), bytes(8192)), Code.INVALID_ARGUMENT, ["bytes", "2048"]),
    "negative shape": (request(shape=(1, -1)), Code.INVALID_ARGUMENT, ["INPUT0", "-1"]),
    "endless shape": (request(shape=(1 << 62, 1 << 62)), Code.INVALID_ARGUMENT, ["INPUT0"]),
    "too few bytes": (request(raw=bytes(7)), Code.INVALID_ARGUMENT, ["INPUT0", "8", "7"]),
    "too many bytes": (request(raw=bytes(12)), Code.INVALID_ARGUMENT, ["INPUT0", "8", "12"]),
    "no bytes at all": (request(raw=[]), Code.INVALID_ARGUMENT, ["INPUT0", "8"]),
    "cut BYTES": (
        request(datatype="BYTES", shape=(1, 1), raw=b"\x09\0\0\0abc"), Code.INVALID_ARGUMENT, ["INPUT0"],
    ),
    "typed and raw": (typed_and_raw(), Code.INVALID_ARGUMENT, ["INPUT0", "contents", "raw_input_contents"]),
    "surplus raw": (request(raw=[bytes(8), bytes(8)]), Code.INVALID_ARGUMENT, ["raw_input_contents", "2", "1"]),
    "missing raw": (two_inputs(bytes(8)), Code.INVALID_ARGUMENT, ["raw_input_contents", "1", "2"]),
    "typed count": (typed("fp32_contents", [1.0]), Code.INVALID_ARGUMENT, ["INPUT0", "2", "1"]),
    "typed field": (typed("int_contents", [1, 2]), Code.INVALID_ARGUMENT, ["INPUT0", "int_contents", "fp32_contents"]),
    "typed range": (typed("int_contents", [1, 200], "INT8"), Code.INVALID_ARGUMENT, ["INPUT0", "200", "INT8"]),
    "typed FP16": (typed("fp32_contents", [1, 2], "FP16"), Code.INVALID_ARGUMENT, ["INPUT0", "FP16"]),
    "invalid UTF-8": (request("minilm", "text", "BYTES", (1, 1), MINILM_INVALID), Code.INVALID_ARGUMENT, ["text", "UTF-8"]),
    "too many tokens": (
        with_parameter(
            request("minilm", "text", "BYTES", (1, 1), len(LONG_TEXT).to_bytes(4, "little") + LONG_TEXT),
            "truncate", bool_param=False,
        ),
        Code.INVALID_ARGUMENT, ["text", "402", "256", "truncate"],
    ),
    "truncate not a bool": (
        with_parameter(request("minilm", "text", "BYTES", (1, 1), b"\x01\0\0\0a"), "truncate", string_param="no"),
        Code.INVALID_ARGUMENT, ["truncate"],
    ),
    "ids out of range": (
        request("minilm", "input_ids", "INT64", (1, 1), (99999).to_bytes(8, "little")),
        Code.INVALID_ARGUMENT, ["input_ids", "99999"],
    ),
    "empty batch": (request(shape=(0, 2), raw=[b""]), Code.INVALID_ARGUMENT, ["INPUT0", "batch"]),
    "empty batch at magika": (request("magika", "bytes", "INT32", (0, 2048), [b""]), Code.INVALID_ARGUMENT, ["bytes"]),
    "empty batch at minilm": (request("minilm", "text", "BYTES", (0, 1), [b""]), Code.INVALID_ARGUMENT, ["text"]),
    "too large a batch": (request(shape=(65, 2), raw=bytes(65 * 8)), Code.INVALID_ARGUMENT, ["batch", "64", "65"]),
    "too large a batch at magika": (
        request("magika", "bytes", "INT32", (65, 2048), bytes(65 * 8192)), Code.INVALID_ARGUMENT, ["64", "65"],
    ),
    "too large a batch at minilm": (
        request("minilm", "text", "BYTES", (65, 1), b"\x01\0\0\0a" * 65), Code.INVALID_ARGUMENT, ["64", "65"],
    ),
    "unknown output": (with_output("OUTPUT9"), Code.INVALID_ARGUMENT, ["OUTPUT9"]),
    "shared memory": (
        with_output("OUTPUT0", shared_memory_region=pb.InferParameter(string_param="r")),
        Code.UNIMPLEMENTED, ["OUTPUT0", "shared memory"],
    ),
    "classification of 0": (
        with_output("OUTPUT0", classification=pb.InferParameter(int64_param=0)),
        Code.INVALID_ARGUMENT, ["OUTPUT0", "classification"],
    ),
    "timeout not a number": (with_parameter(request(), "timeout", string_param="x"), Code.INVALID_ARGUMENT, ["timeout"]),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_requests_are_told_what_is_wrong(stub, wrong):
    made, code, words = WRONG[wrong]
    with pytest.raises(grpc.RpcError) as failed:
        stub.ModelInfer(made, timeout=TIMEOUT_S)
    assert failed.value.code() == code, failed.value.details()
    for word in words:
        assert word.lower() in failed.value.details().lower(), failed.value.details()


def test_wrong_requests_on_a_stream_end_nothing(stub):
    wrong = [made for made, *_ in WRONG.values()]
    requests = []
    for index, made in enumerate(wrong):
        bad, good = pb.ModelInferRequest(), request(id=f"good {index}")
        bad.CopyFrom(made)
        bad.id = f"bad {index}"
        requests += [bad, good]
    answers = list(stub.ModelStreamInfer(iter(requests), timeout=TIMEOUT_S))
    failed = {a.infer_response.id: a for a in answers if a.error_message}
    assert set(failed) == {f"bad {index}" for index in range(len(wrong))}
    assert {a.infer_response.id for a in answers} - set(failed) == {f"good {index}" for index in range(len(wrong))}
    for index, (_, code, words) in enumerate(WRONG.values()):
        answer = failed[f"bad {index}"]
        assert answer.infer_response.parameters["grpc-status"].int64_param == code.value[0]
        assert all(word.lower() in answer.error_message.lower() for word in words), answer.error_message


@pytest.mark.parametrize("kind", ["metadata", "config", "statistics"])
def test_questions_about_nothing(stub, kind):
    ask, message = {
        "metadata": (stub.ModelMetadata, pb.ModelMetadataRequest),
        "config": (stub.ModelConfig, pb.ModelConfigRequest),
        "statistics": (stub.ModelStatistics, pb.ModelStatisticsRequest),
    }[kind]
    for fields, code in (
        ({"name": "nothing"}, Code.NOT_FOUND),
        ({"name": "identity", "version": "7"}, Code.NOT_FOUND),
        ({"name": "identity", "version": "abc"}, Code.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.RpcError) as failed:
            ask(message(**fields), timeout=TIMEOUT_S)
        assert failed.value.code() == code and fields.get("version", "nothing") in failed.value.details()


def test_too_many_tokens_are_cut_and_told(stub):
    def embed(text, **parameters):
        made = request("minilm", "text", "BYTES", (1, 1), len(text).to_bytes(4, "little") + text)
        return stub.ModelInfer(made, timeout=TIMEOUT_S)

    cut, short = embed(LONG_TEXT), embed(b"word")
    assert cut.parameters["truncated_inputs"].int64_param == 1
    assert short.parameters["truncated_inputs"].int64_param == 0
    exactly = embed(b"word " * 254)
    assert exactly.parameters["truncated_inputs"].int64_param == 0
    a, b = (np.frombuffer(r.raw_output_contents[0], np.float32) for r in (cut, exactly))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_message_that_is_none(channel):
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as failed:
        call(b"\xff" * 64, timeout=TIMEOUT_S)
    assert failed.value.code() in (Code.INVALID_ARGUMENT, Code.INTERNAL), failed.value
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/inference.GRPCInferenceService/ModelDream")(b"", timeout=TIMEOUT_S)
    assert failed.value.code() == Code.UNIMPLEMENTED


def test_64_mib_pass(stub):
    tensor = np.arange(16 * MIB, dtype=np.uint32).view(np.float32).tobytes()
    assert len(tensor) == 64 * MIB
    answer = stub.ModelInfer(request(shape=(1, 16 * MIB), raw=tensor), timeout=TIMEOUT_S)
    assert answer.raw_output_contents[0] == tensor
    (streamed,) = stub.ModelStreamInfer(iter([request(shape=(1, 16 * MIB), raw=tensor)]), timeout=TIMEOUT_S)
    assert streamed.infer_response.raw_output_contents[0] == tensor


def test_80_mib_are_refused_by_limit_and_size(stub):
    made = request(shape=(1, 20 * MIB), raw=bytes(80 * MIB))
    for call in (lambda: stub.ModelInfer(made, timeout=TIMEOUT_S),
                 lambda: list(stub.ModelStreamInfer(iter([made]), timeout=TIMEOUT_S))):  # fmt: skip
        with pytest.raises(grpc.RpcError) as failed:
            call()
        assert failed.value.code() == Code.RESOURCE_EXHAUSTED, failed.value
        assert str(made.ByteSize()) in failed.value.details() and "limit" in failed.value.details()
    assert len(stub.ModelInfer(request(), timeout=TIMEOUT_S).outputs) == 1


def test_a_gzip_bomb_is_refused(stub, server):
    """80 MiB of zeros in 80 KiB: over the limit once inflated."""
    before = peak_memory_mib(server.process.pid)
    with pytest.raises(grpc.RpcError) as failed:
        made = request(shape=(1, 20 * MIB), raw=bytes(80 * MIB))
        stub.ModelInfer(made, timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
    assert failed.value.code() == Code.RESOURCE_EXHAUSTED, failed.value
    assert "limit" in failed.value.details(), failed.value.details()
    assert peak_memory_mib(server.process.pid) - before < 200


def peak_memory_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


class Relay:
    """Passes one connection's bytes on and counts them."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.target, self.counts = (host, int(port)), [0, 0]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        client, _ = self.listener.accept()
        server = socket.create_connection(self.target)
        while True:
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(1 << 16)
                if not data:
                    return client.close(), server.close()
                up = source is client
                self.counts[0 if up else 1] += len(data)
                (server if up else client).sendall(data)


def test_gzip_both_ways(server):
    made = request(shape=(1, MIB // 4), raw=bytes(MIB))
    for compression, small in ((grpc.Compression.NoCompression, False), (grpc.Compression.Gzip, True)):
        relay = Relay(server.grpc)
        with grpc.insecure_channel(relay.address, UNLIMITED) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = stub.ModelInfer(made, timeout=TIMEOUT_S, compression=compression)
        assert answer.raw_output_contents[0] == bytes(MIB)
        sent, received = relay.counts
        assert (sent < MIB / 8) == small, (compression, sent)
        if small:
            assert received < MIB / 8, (compression, received)


def test_a_deadline_that_cannot_be_met(start, tmp_path):
    running = start("--model-repository", identity_repository(tmp_path, execute_delay_us=500_000))
    with grpc.insecure_channel(running.grpc) as channel:
        # By the parameter, so that it is the server that answers and not the client's own timer.
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", pb.ModelInferRequest.SerializeToString
        )
        made = with_parameter(request(), "timeout", int64_param=50_000)
        with pytest.raises(grpc.RpcError) as failed:
            call(made, timeout=TIMEOUT_S)
        assert failed.value.code() == Code.DEADLINE_EXCEEDED and "deadline" in failed.value.details()


def google_rpc():
    """The parts of google.rpc's messages that are read here; their package is not among the requirements."""
    file = descriptor_pb2.FileDescriptorProto(name="google_rpc.proto", package="google.rpc", syntax="proto3")
    file.dependency.extend([any_pb2.DESCRIPTOR.name, duration_pb2.DESCRIPTOR.name])
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in {
        "Status": [("code", 1, kinds.TYPE_INT32, ""), ("details", 3, kinds.TYPE_MESSAGE, ".google.protobuf.Any")],
        "ErrorInfo": [("reason", 1, kinds.TYPE_STRING, "")],
        "RetryInfo": [("retry_delay", 1, kinds.TYPE_MESSAGE, ".google.protobuf.Duration")],
    }.items():
        described = file.message_type.add(name=message)
        for name, number, kind, type_name in fields:
            label = kinds.LABEL_REPEATED if name == "details" else kinds.LABEL_OPTIONAL
            described.field.add(name=name, number=number, type=kind, type_name=type_name or None, label=label)
    pool = DescriptorPool()
    for dependency in (any_pb2, duration_pb2):
        pool.AddSerializedFile(dependency.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{name}"))
        for name in ("Status", "ErrorInfo", "RetryInfo")
    }


def test_full_says_so_and_when_to_come_back(start, tmp_path):
    repository = identity_repository(tmp_path, execute_delay_us=400_000, max_batch_size=1)
    running = start("--model-repository", repository, "--set", "environments.concurrency=2")
    with grpc.insecure_channel(running.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer.future(request(), timeout=TIMEOUT_S) for _ in range(6)]
        refused = [call for call in calls if call.exception() is not None]
        assert len(refused) == 4
        for call in refused:
            assert call.code() == Code.RESOURCE_EXHAUSTED
            trailers = dict(call.trailing_metadata())
            assert trailers["x-penstock-shed-reason"] and int(trailers["grpc-retry-pushback-ms"]) >= 1
            messages = google_rpc()
            status = messages["Status"].FromString(trailers["grpc-status-details-bin"])
            assert status.code == Code.RESOURCE_EXHAUSTED.value[0]
            info, retry = messages["ErrorInfo"](), messages["RetryInfo"]()
            assert any(detail.Unpack(info) for detail in status.details)
            assert any(detail.Unpack(retry) for detail in status.details)
            assert info.reason == trailers["x-penstock-shed-reason"]
            assert retry.retry_delay.ToMilliseconds() >= 1


class Watch:
    """Statuses as they come."""

    def __init__(self, channel, service):
        self.call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
        self.statuses = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for response in self.call:
                self.statuses.put(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
        except grpc.RpcError as error:
            self.statuses.put(error.code())

    def until(self, *wanted):
        """Reads until one of the statuses wanted comes; all that came."""
        came = []
        while not came or came[-1] not in wanted:
            came.append(self.statuses.get(timeout=TIMEOUT_S))
        return came


def test_health_checks(channel):
    check = health_pb2_grpc.HealthStub(channel).Check
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", "inference.GRPCInferenceService", "minilm", "magika", "identity"):
        answer = check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        assert answer.status == serving, service
    with pytest.raises(grpc.RpcError) as failed:
        check(health_pb2.HealthCheckRequest(service="nothing"), timeout=TIMEOUT_S)
    assert failed.value.code() == Code.NOT_FOUND and "nothing" in failed.value.details()


def test_a_watch_of_the_unknown_stays_open(channel, stub):
    watch = Watch(channel, "nothing")
    assert watch.statuses.get(timeout=TIMEOUT_S) == "SERVICE_UNKNOWN"
    stub.ModelInfer(request(), timeout=TIMEOUT_S)  # a round trip later
    assert watch.call.is_active() and watch.statuses.empty()
    watch.call.cancel()


def test_a_watch_follows_load_and_unload(start, tmp_path):
    running = start("--model-repository", identity_repository(tmp_path), "--model-control-mode", "explicit")
    with grpc.insecure_channel(running.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        watch = Watch(channel, "identity")
        whole = Watch(channel, "")
        assert watch.until("SERVICE_UNKNOWN", "NOT_SERVING")
        assert whole.until("SERVING")
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="identity"), timeout=TIMEOUT_S)
        assert "SERVING" in watch.until("SERVING")
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="identity"), timeout=TIMEOUT_S)
        watch.until("NOT_SERVING", "SERVICE_UNKNOWN")
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="identity"), timeout=TIMEOUT_S)
        watch.until("SERVING")
        assert whole.statuses.empty()


def test_a_watch_tells_that_the_server_goes(start, tmp_path):
    running = start("--model-repository", identity_repository(tmp_path, execute_delay_us=500_000))
    with grpc.insecure_channel(running.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        watches = [Watch(channel, service) for service in ("", "identity")]
        for watch in watches:
            watch.until("SERVING")
        call = stub.ModelInfer.future(request(), timeout=TIMEOUT_S)
        stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT_S)  # behind it on the same connection
        running.interrupt()
        for watch in watches:
            watch.until("NOT_SERVING")
        assert call.result().model_name == "identity"
    assert running.stop() == 0


SERVICES = {"inference.GRPCInferenceService", "grpc.health.v1.Health"}


def test_reflection_v1alpha(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICES <= set(database.get_services())
    service = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
    infer = service.methods_by_name["ModelInfer"]
    assert infer.input_type.full_name == "inference.ModelInferRequest"
    numbers = {field.name: field.number for field in infer.input_type.fields}
    assert numbers["model_name"] == 1 and numbers["raw_input_contents"] == 7
    assert {"ModelStreamInfer", "RepositoryModelLoad", "ModelStatistics"} <= set(service.methods_by_name)


def reflect_v1(channel, *asked):
    """The messages are those of v1alpha; only the service's name differs."""
    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = (reflection_pb2.ServerReflectionRequest(**one) for one in asked)
    return call(requests, timeout=TIMEOUT_S)


def test_reflection_v1(channel):
    symbol = "inference.GRPCInferenceService.ModelInfer"
    services, found = reflect_v1(channel, {"list_services": ""}, {"file_containing_symbol": symbol})
    names = {service.name for service in services.list_services_response.service}
    assert SERVICES <= names and "grpc.reflection.v1.ServerReflection" in names
    assert not any(name.startswith("penstock.") for name in names)
    assert any(b"ModelInferRequest" in file for file in found.file_descriptor_response.file_descriptor_proto)


@pytest.mark.xfail(strict=True, reason="tonic-reflection ends the stream with NOT_FOUND instead of an error_response")
def test_reflection_answers_the_unknown_and_goes_on(channel):
    unknown = {"file_containing_symbol": "inference.Nothing"}
    missing, services = reflect_v1(channel, unknown, {"list_services": ""})
    assert missing.error_response.error_code == Code.NOT_FOUND.value[0]
    assert services.list_services_response.service
    with pytest.raises(KeyError):
        DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName("inference.Nothing")
