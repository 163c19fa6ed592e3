"""The gRPC port, asked by a client that speaks HTTP/2 frame by frame: what one that reads or writes too slowly may hold."""

import socket
import struct
import time

import grpc
import h2.connection
import h2.events
import h2.settings
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from conftest import identity_repository

TIMEOUT_S = 30
SERVICE = "/inference.GRPCInferenceService/"
KIB = 1 << 10
# Set as soon as it is told, so that tests do not wait for half a minute.
STALL_S = 1
IMPATIENT = ("--set", f"limits.answer_stall_s={STALL_S}", "--set", f"limits.body_stall_s={STALL_S}")


def message(id="", floats=2):
    """A request of `floats` FP32, as it goes over the wire."""
    made = pb.ModelInferRequest(model_name="identity", id=id, raw_input_contents=[bytes(4 * floats)])
    made.inputs.add(name="INPUT0", datatype="FP32", shape=[1, floats])
    made = made.SerializeToString()
    return struct.pack(">BI", 0, len(made)) + made


class Client:
    """One HTTP/2 connection. `window` is what each answer may send before it is given more."""

    def __init__(self, address, window=1 << 20):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        self.connection = h2.connection.H2Connection()
        self.connection.initiate_connection()
        self.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        self.socket.sendall(self.connection.data_to_send())

    def open(self, method):
        stream = self.connection.get_next_available_stream_id()
        head = {":method": "POST", ":scheme": "http", ":authority": "localhost", ":path": SERVICE + method}
        self.connection.send_headers(stream, list((head | {"content-type": "application/grpc", "te": "trailers"}).items()))
        self.flush()
        return stream

    def send(self, stream, data, end=False):
        self.connection.send_data(stream, data, end_stream=end)
        self.flush()

    def until(self, kind, stream):
        """Reads until an event of this kind comes for the stream; all of the stream's events."""
        came = []
        while not any(isinstance(event, kind) for event in came):
            data = self.socket.recv(1 << 16)
            assert data, f"the connection ended; of the stream came {came}"
            came += [event for event in self.connection.receive_data(data) if getattr(event, "stream_id", None) == stream]
            self.flush()
        return came


@pytest.fixture
def full(start, tmp_path):
    """A server whose environment takes four requests at once."""
    return start("--model-repository", identity_repository(tmp_path), "--set", "environments.concurrency=4", *IMPATIENT)


def infer(running):
    with grpc.insecure_channel(running.grpc) as channel:
        made = pb.ModelInferRequest.FromString(message()[5:])
        return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(made, timeout=TIMEOUT_S)


def test_a_stream_that_is_not_read_holds_no_slot_and_is_given_up(full):
    with Client(full.grpc, window=0) as client:
        stream = client.open("ModelStreamInfer")
        for number in range(4):
            client.send(stream, message(id=str(number)))
        client.until(h2.events.ResponseReceived, stream)
        opened = time.monotonic()
        # All four slots would be taken if the answers had to be read first; the first of these may still meet them.
        for _ in range(8):
            try:
                infer(full)
                break
            except grpc.RpcError as refused:
                assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        else:
            raise AssertionError("answers that nobody reads hold their slots")
        client.until(h2.events.StreamReset, stream)
        assert time.monotonic() - opened < 10 * STALL_S


def test_an_answer_that_is_not_read_is_dropped_and_its_connection_goes_on(full):
    with Client(full.grpc, window=KIB) as client:
        unread = client.open("ModelInfer")
        client.send(unread, message(floats=3 * KIB), end=True)
        came = client.until(h2.events.StreamReset, unread)
        assert sum(len(event.data) for event in came if isinstance(event, h2.events.DataReceived)) == KIB
        small = client.open("ModelInfer")
        client.send(small, message(), end=True)
        came = client.until(h2.events.TrailersReceived, small)
        (trailers,) = (dict(event.headers) for event in came if isinstance(event, h2.events.TrailersReceived))
        assert trailers[b"grpc-status"] == b"0"


def test_an_upload_that_trickles_is_given_up(full):
    with Client(full.grpc) as client:
        stream = client.open("ModelInfer")
        slow, began = message(floats=16 * KIB), time.monotonic()
        for place in range(0, len(slow), 100):
            client.send(stream, slow[place : place + 100])
            client.socket.settimeout(STALL_S / 4)
            try:
                (head,) = (e for e in client.until(h2.events.ResponseReceived, stream) if hasattr(e, "headers"))
                break
            except TimeoutError:
                continue
        assert dict(head.headers)[b"grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0]).encode()
        assert b"too slowly" in dict(head.headers)[b"grpc-message"].replace(b"%20", b" ")
        assert time.monotonic() - began < 10 * STALL_S
    infer(full)


def test_what_a_message_becomes_is_weighed(full):
    """8 MiB of empty tensors would be gigabytes once decoded."""
    bomb = b"\x2a\x00" * (4 << 20)
    # An unknown group before it, which decoders pass over.
    hidden = b"\xa3\x06\xa4\x06" + bomb
    with grpc.insecure_channel(full.grpc) as channel:
        for call in (channel.unary_unary(SERVICE + "ModelInfer"), channel.unary_unary(SERVICE + "ModelStreamInfer")):
            with pytest.raises(grpc.RpcError) as failed:
                call(bomb, timeout=TIMEOUT_S)
            assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, failed.value
            assert "in memory" in failed.value.details()
            with pytest.raises(grpc.RpcError) as failed:
                call(hidden, timeout=TIMEOUT_S)
            assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT, failed.value
    with open(f"/proc/{full.process.pid}/status") as status:
        peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak_kib < 256 * KIB
    infer(full)
