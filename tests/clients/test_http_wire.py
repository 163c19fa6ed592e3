"""The HTTP door, asked by bare sockets and the standard library: wrong requests, sizes, codings, slow clients."""

import gzip
import http.client
import json
import socket
import time
import zlib

import numpy as np
import pytest

from conftest import identity_repository

TIMEOUT_S = 30
MIB = 1 << 20
HEADER_LENGTH = "Inference-Header-Content-Length"


def ask(server, method, path, body=None, headers=None):
    """Status, headers and body; the whole body is sent before the answer is read, as simple clients do."""
    host, port = server.http.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def infer(server, body, model="identity", headers=None, version=None):
    path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
    body = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return ask(server, "POST", path, body.encode() if isinstance(body, str) else body, headers)


def tensor(name="INPUT0", datatype="FP32", shape=(1, 2), data=(1.5, 2.5), **fields):
    made = {"name": name, "datatype": datatype, "shape": list(shape), **fields}
    return made | ({} if data is None else {"data": data})


def request(*inputs, **fields):
    return {"inputs": list(inputs or [tensor()]), **fields}


def binary(raw, shape=None, size=None, header=None, datatype="FP32", **fields):
    """A request with one binary tensor, and the headers it needs."""
    shape = shape or (1, len(raw) // 4)
    parameters = {"binary_data_size": len(raw) if size is None else size}
    head = json.dumps(request(tensor(datatype=datatype, shape=shape, data=None, parameters=parameters), **fields))
    return head.encode() + raw, {HEADER_LENGTH: str(len(head) if header is None else header)}


ALL_BINARY = {"parameters": {"binary_data_output": True}}


def error_of(body):
    answer = json.loads(body)
    assert list(answer) == ["error"], answer
    return answer["error"]


def test_an_answer_in_json(server):
    status, headers, body = infer(server, request(id="one", outputs=[{"name": "OUTPUT0"}]))
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {
        "id": "one", "model_name": "identity", "model_version": "1",
        "outputs": [{"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5]}],
    }  # fmt: skip
    assert "total;dur=" in headers["Server-Timing"]


def test_nested_data_is_flattened(server):
    nested = tensor(shape=(2, 2), data=[[1, 2], [3, 4]])
    assert json.loads(infer(server, request(nested))[2])["outputs"][0]["data"] == [1, 2, 3, 4]


def test_an_answer_in_binary(server):
    raw = np.array([1.5, -2.5], np.float32).tobytes()
    body, headers = binary(raw, **ALL_BINARY)
    status, headers, body = infer(server, body, headers=headers)
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
    length = int(headers[HEADER_LENGTH])
    output = json.loads(body[:length])["outputs"][0]
    assert output["parameters"] == {"binary_data_size": 8} and "data" not in output
    assert body[length:] == raw


def test_a_raw_request(server):
    """Header length 0: the body is the one tensor, and all outputs are binary."""
    row = np.full(2048, 7, "<i4").tobytes()
    status, headers, body = infer(server, row, "magika", {HEADER_LENGTH: "0"})
    assert status == 200, body
    length = int(headers[HEADER_LENGTH])
    assert json.loads(body[:length])["outputs"][0]["shape"] == [1, 214]
    assert len(body) - length == 214 * 4


@pytest.mark.parametrize("accept, coding", [
    ("gzip", "gzip"), ("deflate", "deflate"), ("gzip;q=0.5, deflate", "deflate"), ("gzip;q=0", None), ("br", None),
])  # fmt: skip
def test_answers_are_compressed_as_accepted(server, accept, coding):
    raw = bytes(64 << 10)
    body, headers = binary(raw, **ALL_BINARY)
    status, headers, body = infer(server, body, headers=headers | {"Accept-Encoding": accept})
    assert (status, headers["Content-Encoding"]) == (200, coding)
    if coding:
        assert len(body) < 1024
        body = gzip.decompress(body) if coding == "gzip" else zlib.decompress(body)
    assert body[int(headers[HEADER_LENGTH]) :] == raw


def test_requests_are_inflated_as_they_say(server):
    body, headers = binary(bytes(64 << 10), **ALL_BINARY)
    bare = zlib.compressobj(wbits=-15)
    for coding, packed in (
        ("gzip", gzip.compress(body)),
        ("deflate", zlib.compress(body)),
        ("deflate", bare.compress(body) + bare.flush()),
        ("identity", body),
    ):
        status, _, answer = infer(server, packed, headers=headers | {"Content-Encoding": coding})
        assert status == 200, (coding, answer)


LONG_TEXT = "word " * 400


def text(*rows):
    return tensor("text", "BYTES", (len(rows), 1), list(rows))


def magika(shape=(1, 2048), datatype="INT32", name="bytes", count=None):
    count = int(np.prod(shape)) if count is None else count
    return tensor(name, datatype, shape, [0] * count)


def raw(*arguments, **keywords):
    body, headers = binary(*arguments, **keywords)
    return {"body": body, "headers": headers}


WRONG = {
    "unknown model": ({"model": "nothing", "body": request()}, 404, ["nothing"]),
    "unknown version": ({"version": "7", "body": request()}, 404, ["identity", "7"]),
    "version abc": ({"version": "abc", "body": request()}, 400, ["version", "abc"]),
    "no body": ({"body": b""}, 400, ["JSON"]),
    "malformed JSON": ({"body": b'{"inputs": ['}, 400, ["column 13", "input tensor"]),
    "half a string": ({"body": b'{"inputs": [{"name": "INP'}, 400, []),
    "JSON and more": ({"body": json.dumps(request()) + "}"}, 400, []),
    "not UTF-8": ({"body": b'{"id": "\xff"}'}, 400, ["UTF-8"]),
    "deep JSON": ({"body": b"[" * 100_000}, 400, []),
    "deep data": ({"body": json.dumps(request(tensor(data=None)))[:-3] + ', "data": ' + "[" * 100_000}, 400, []),
    "a list": ({"body": []}, 400, ["object"]),
    "no inputs": ({"body": {}}, 400, ["inputs"]),
    "empty inputs": ({"body": {"inputs": []}}, 400, ["input"]),
    "empty inputs at magika": ({"model": "magika", "body": {"inputs": []}}, 400, ["bytes"]),
    "inputs an object": ({"body": {"inputs": {}}}, 400, ["inputs"]),
    "id a number": ({"body": request(id=7)}, 400, ["id"]),
    "parameters a list": ({"body": request(parameters=[])}, 400, ["parameters"]),
    "no name": ({"body": {"inputs": [{"datatype": "FP32", "shape": [1], "data": [1]}]}}, 400, ["name"]),
    "no datatype": ({"body": {"inputs": [{"name": "INPUT0", "shape": [1], "data": [1]}]}}, 400, ["INPUT0", "datatype"]),
    "no shape": ({"body": {"inputs": [{"name": "INPUT0", "datatype": "FP32", "data": [1]}]}}, 400, ["INPUT0", "shape"]),
    "no data": ({"body": request(tensor(data=None))}, 400, ["INPUT0", "data"]),
    "unknown type": ({"body": request(tensor(datatype="FLOAT"))}, 400, ["FLOAT", "FP32"]),
    "shape a string": ({"body": request(tensor(shape="ab"))}, 400, ["shape"]),
    "negative shape": ({"body": request(tensor(shape=(1, -2)))}, 400, ["shape"]),
    "endless shape": ({"body": request(tensor(shape=(1 << 62, 1 << 62)))}, 400, ["INPUT0"]),
    "too few elements": ({"body": request(tensor(data=[1]))}, 400, ["INPUT0", "2", "1"]),
    "too many elements": ({"body": request(tensor(data=[1, 2, 3]))}, 400, ["INPUT0", "2"]),
    "a string for a number": ({"body": request(tensor(data=["1", "2"]))}, 400, ["INPUT0", "FP32"]),
    "a number for a string": ({"body": request(tensor(datatype="BYTES", data=[1, 2]))}, 400, ["INPUT0"]),
    "a fraction for an integer": ({"body": request(tensor(datatype="INT32", data=[1.5, 2]))}, 400, ["INPUT0", "1.5"]),
    "out of range": ({"body": request(tensor(datatype="INT8", data=[1, 200]))}, 400, ["INPUT0", "200"]),
    "too large a number": ({"body": request(tensor(data=[1, 1e39]))}, 400, ["INPUT0"]),
    "null for a number": ({"body": request(tensor(data=[1, None]))}, 400, ["INPUT0"]),
    "wrong name": ({"model": "magika", "body": request(magika(name="byte"))}, 400, ["'byte'"]),
    "extra input": ({"model": "magika", "body": request(magika(), magika(name="surplus"))}, 400, ["surplus"]),
    "the same input twice": ({"body": request(tensor(), tensor())}, 400, ["INPUT0"]),
    "wrong type": ({"model": "magika", "body": request(magika(datatype="INT64"))}, 400, ["bytes", "INT64", "INT32"]),
    "wrong shape": ({"model": "magika", "body": request(magika((1, 7)))}, 400, ["bytes", "7", "2048"]),
    "wrong rank": ({"model": "magika", "body": request(magika((2048,)))}, 400, ["bytes", "2048"]),
    "empty batch": ({"body": request(tensor(shape=(0, 2), data=[]))}, 400, ["INPUT0", "batch"]),
    "empty batch at minilm": ({"model": "minilm", "body": request(text())}, 400, ["text"]),
    "too large a batch": ({"body": request(tensor(shape=(65, 1), data=[0] * 65))}, 400, ["64", "65"]),
    "invalid UTF-8": (
        {"model": "minilm", "body": (lambda head: head + b"\x03\0\0\0a\xffb")(json.dumps(request(
            tensor("text", "BYTES", (1, 1), None, parameters={"binary_data_size": 7}))).encode()),
         "headers": {HEADER_LENGTH: str(len(json.dumps(request(
            tensor("text", "BYTES", (1, 1), None, parameters={"binary_data_size": 7})))))}},
        400, ["text", "UTF-8"],
    ),
    "too many tokens": (
        {"model": "minilm", "body": request(text(LONG_TEXT), parameters={"truncate": False})},
        400, ["text", "402", "256", "truncate"],
    ),
    "unknown output": ({"body": request(outputs=[{"name": "OUTPUT9"}])}, 400, ["OUTPUT9"]),
    "output without a name": ({"body": request(outputs=[{}])}, 400, ["name"]),
    "binary_data a number": (
        {"body": request(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": 1}}])}, 400, ["binary_data"],
    ),
    "shared memory": (
        {"body": request(outputs=[{"name": "OUTPUT0", "parameters": {"shared_memory_region": "r"}}])},
        501, ["shared memory"],
    ),
    "reserved parameter": ({"body": request(parameters={"triton_mine": 1})}, 400, ["triton_mine"]),
    "timeout not a number": ({"body": request(parameters={"timeout": "x"})}, 400, ["timeout"]),
    "header length a word": (raw(bytes(8)) | {"headers": {HEADER_LENGTH: "x"}}, 400, [HEADER_LENGTH, "x"]),
    "header length negative": (raw(bytes(8)) | {"headers": {HEADER_LENGTH: "-1"}}, 400, [HEADER_LENGTH, "-1"]),
    "header length out of range": (raw(bytes(8), header=10_000), 400, ["header size", "10000"]),
    "header length too short": (raw(bytes(8), header=5), 400, []),
    "header length missing": (raw(bytes(8)) | {"headers": {}}, 400, []),
    "fewer bytes than said": (raw(bytes(8), size=12, shape=(1, 3)), 400, ["INPUT0", "12", "8"]),
    "more bytes than said": (raw(bytes(12), size=8, shape=(1, 2)), 400, ["4", "binary_data_size"]),
    "bytes and shape": (raw(bytes(8), shape=(1, 3)), 400, ["INPUT0", "12", "8"]),
    "raw request of a wrong size": ({"model": "magika", "body": bytes(7), "headers": {HEADER_LENGTH: "0"}}, 400, ["bytes", "7"]),
    "unknown coding": ({"body": request(), "headers": {"Content-Encoding": "br"}}, 415, ["br", "gzip"]),
    "two codings": ({"body": request(), "headers": {"Content-Encoding": "gzip, deflate"}}, 415, ["gzip, deflate"]),
    "not gzip": ({"body": request(), "headers": {"Content-Encoding": "gzip"}}, 400, ["gzip"]),
    "half a gzip": (
        {"body": gzip.compress(json.dumps(request()).encode())[:-10], "headers": {"Content-Encoding": "gzip"}},
        400, ["gzip"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_requests_are_told_what_is_wrong(server, wrong):
    made, right, words = WRONG[wrong]
    status, headers, body = infer(server, **made)
    assert status == right, body
    assert headers["Content-Type"] == "application/json"
    for word in words:
        assert word.lower() in error_of(body).lower(), body
    assert len(body) < 1000


@pytest.mark.parametrize("method, path, status, word", [
    ("GET", "/v2/models/identity/infer", 405, "GET"),
    ("POST", "/v2/health/live", 405, "POST"),
    ("GET", "/v2/nowhere", 404, "/v2/nowhere"),
    ("GET", "/v2/models/nothing", 404, "nothing"),
    ("GET", "/v2/models/nothing/config", 404, "nothing"),
    ("GET", "/v2/models/nothing/stats", 404, "nothing"),
    ("GET", "/v2/models/identity/versions/7", 404, "7"),
    ("GET", "/v2/models/identity/versions/abc", 400, "abc"),
])  # fmt: skip
def test_wrong_routes(server, method, path, status, word):
    found, _, body = ask(server, method, path, b"" if method == "POST" else None)
    assert found == status and word in error_of(body)


def test_health_bodies(server):
    assert json.loads(ask(server, "GET", "/v2/health/live")[2]) == {"live": True}
    assert json.loads(ask(server, "GET", "/v2/health/ready")[2]) == {"ready": True}
    assert ask(server, "GET", "/v2/models/identity/ready")[0] == 200


def test_too_many_tokens_are_cut_and_told(server):
    answers = [json.loads(infer(server, request(text(row)), "minilm")[2]) for row in (LONG_TEXT, "word " * 254)]
    assert [answer["parameters"]["truncated_inputs"] for answer in answers] == [1, 0]
    np.testing.assert_allclose(*(answer["outputs"][0]["data"] for answer in answers), atol=1e-5)


def test_64_mib_pass(server):
    sent = np.arange(16 * MIB, dtype=np.uint32).tobytes()
    body, headers = binary(sent, **ALL_BINARY)
    status, headers, body = infer(server, body, headers=headers)
    assert status == 200, body[:200]
    assert body[int(headers[HEADER_LENGTH]) :] == sent


def test_80_mib_are_refused_by_limit_and_size(server):
    body, headers = binary(bytes(80 * MIB))
    status, _, answer = infer(server, body, headers=headers)
    limit = 65 * MIB
    assert status == 413 and str(len(body)) in error_of(answer) and str(limit) in error_of(answer)
    pieces = (bytes(MIB) for _ in range(80))
    status, _, answer = ask(server, "POST", "/v2/models/identity/infer", pieces)
    assert status == 413 and str(limit) in error_of(answer)


def peak_memory_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_refused_early(start, tmp_path, coding):
    """256 MiB of zeros in 256 KiB."""
    running = start("--model-repository", identity_repository(tmp_path))
    packer = zlib.compressobj(6, wbits=31 if coding == "gzip" else 15)
    bomb = b"".join([packer.compress(bytes(16 * MIB)) for _ in range(16)] + [packer.flush()])
    assert infer(running, request())[0] == 200
    before = peak_memory_mib(running.process.pid)
    began = time.monotonic()
    status, _, answer = infer(running, bomb, headers={"Content-Encoding": coding})
    took = time.monotonic() - began
    assert status == 413 and str(65 * MIB) in error_of(answer) and str(len(bomb)) in error_of(answer)
    # The limit, its buffer as it grows (twice the limit at most), and the body itself.
    assert peak_memory_mib(running.process.pid) - before < 200
    assert took < 10


def test_a_slow_reader_blocks_nobody(server):
    """Eight clients ask for 32 MiB each and read nothing; another is answered at once, and the eight too, later."""
    sent = bytes(32 * MIB)
    body, headers = binary(sent, **ALL_BINARY)
    host, port = server.http.rsplit(":", 1)
    slow = []
    for _ in range(8):
        connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
        connection.request("POST", "/v2/models/identity/infer", body, headers)
        slow.append(connection)
    for _ in range(50):
        began = time.monotonic()
        assert infer(server, request())[0] == 200
        assert time.monotonic() - began < 2
    for connection in slow:
        response = connection.getresponse()
        answer = response.read()
        assert (response.status, len(answer)) == (200, 32 * MIB + int(response.headers[HEADER_LENGTH]))
        connection.close()


def slow_writer(server, head):
    """Sends half a body and waits: what comes back until the end, and after how long."""
    host, port = server.http.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        connection.sendall(b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\n" + head)
        began, answer = time.monotonic(), b""
        while piece := connection.recv(1 << 16):
            answer += piece
        return answer, time.monotonic() - began


def test_a_slow_writer_is_answered_and_closed(start, tmp_path):
    running = start("--model-repository", identity_repository(tmp_path), "--set", "limits.body_stall_s=1")
    for head in (
        b"Content-Length: 1000\r\n\r\n" + b"{" * 500,
        b"Transfer-Encoding: chunked\r\n\r\n1f4\r\n" + b"{" * 500 + b"\r\n",
    ):
        answer, took = slow_writer(running, head)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"500 bytes" in answer, answer
        assert 0.9 < took < 10
    # One that trickles: each piece in time, the whole too slow.
    host, port = running.http.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=0.1) as connection:
        connection.sendall(b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        began, answer = time.monotonic(), b""
        while not answer:
            assert time.monotonic() - began < 10
            connection.sendall(b"{")
            try:
                answer = connection.recv(1 << 16)
            except TimeoutError:
                pass
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert infer(running, request())[0] == 200
