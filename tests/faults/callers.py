"""How these tests call the server and read its books: plain gRPC and HTTP, nothing that retries by itself."""

import collections
import http.client
import json
import re
import threading
import time
import urllib.request

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')


def until(condition, timeout_s=10, what="the condition"):
    """Asks again and again; the first true answer is returned, none within the time is a failure."""
    deadline = time.monotonic() + timeout_s
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.005)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def stub(server):
    """A connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    return service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(server.grpc, options=options))


def request(name, number=1.0, id="", raw=None, **parameters):
    """One row of one FP32 (its bytes, if `raw` is given)."""
    message = pb.ModelInferRequest(model_name=name, id=id)
    data = np.float32(number).tobytes() if raw is None else raw
    message.inputs.add(name="INPUT0", datatype="FP32", shape=[1, len(data) // 4])
    message.raw_input_contents.append(data)
    for key, value in parameters.items():
        message.parameters[key].int64_param = value
    return message


def body(name="", number=1.0, **parameters):
    """The same over HTTP."""
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 1], "data": [number]}
    return json.dumps({"inputs": [tensor], "parameters": parameters}).encode()


def post(server, name, payload, headers=None, timeout_s=30):
    """Status, headers and body of an HTTP inference."""
    host, port = server.http.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    try:
        connection.request("POST", f"/v2/models/{name}/infer", payload, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def samples(server):
    """Everything on /metrics: (name, labels as a frozenset of pairs) to value."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if match := SAMPLE.match(line):
            found[match[1], frozenset(LABEL.findall(match[2] or ""))] = float(match[3])
    return found


def total(server, name, **labels):
    """Sum of a metric over everything that bears these labels."""
    wanted = set(labels.items())
    return sum(value for (metric, given), value in samples(server).items() if metric == name and wanted <= given)


Books = collections.namedtuple("Books", "received in_flight outcomes")


def books(server, function):
    """What the metrics say of a function's requests; outcomes by (outcome, reason), zeros left out."""
    received = in_flight = 0
    outcomes = collections.Counter()
    for (name, given), value in samples(server).items():
        labels = dict(given)
        if labels.get("function") != function:
            continue
        if name == "penstock_requests_received_total":
            received += int(value)
        elif name == "penstock_requests_in_flight":
            in_flight += int(value)
        elif name == "penstock_requests_total" and value:
            outcomes[labels["outcome"], labels.get("reason", "")] += int(value)
    return Books(received, in_flight, outcomes)


def settled_books(server, function):
    """The books once nothing is in flight; they must balance."""
    until(lambda: books(server, function).in_flight == 0, what="nothing in flight")
    found = books(server, function)
    assert found.received == sum(found.outcomes.values()), found
    return found


def until_in_flight(server, function, count):
    """An idle worker takes what arrives at once: after this the first of them runs."""
    until(lambda: books(server, function).in_flight == count, what=f"{count} requests are in flight")


def executions(server, function):
    """Items and batches that ran, whatever became of their requests; the statistics API must agree on the batches."""
    batches = int(total(server, "penstock_batch_items_count", function=function))
    answer = stub(server).ModelStatistics(pb.ModelStatisticsRequest(name=function))
    assert answer.model_stats[0].execution_count == batches
    return int(total(server, "penstock_batch_items_sum", function=function)), batches


def environment_pids(server, function):
    """Living environments of a function, oldest first, as the server's log names them. The log comes by another way
    than what made the test ask, so it is given a moment to name every process that lives."""
    deadline = time.monotonic() + 2
    while True:
        alive = set(server.environments())
        ready = []
        for line in list(server.log):
            if "environment ready" in line:
                fields = json.loads(line)
                fields = fields.get("fields", fields)
                ready.append((str(fields["function"]).split(":")[0], int(fields["pid"])))
        if alive <= {pid for _, pid in ready} or time.monotonic() > deadline:
            return [pid for name, pid in ready if name == function and pid in alive]
        time.sleep(0.005)


def log_count(server, text):
    return sum(text in line for line in list(server.log))


def protobuf_fields(message):
    """Number and value of every field: integers and bytes. Enough for google.rpc's few messages."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        assert tag & 7 in (0, 2), tag
        value = varint()
        if tag & 7 == 2:
            value, at = message[at : at + value], at + value
        yield tag >> 3, value


def details(error):
    """google.rpc details of an error: type name to its fields."""
    encoded = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    found = {}
    for number, value in protobuf_fields(encoded):
        if number == 3:
            inside = dict(protobuf_fields(value))
            found[inside[1].decode().rsplit(".", 1)[-1]] = dict(protobuf_fields(inside.get(2, b"")))
    return found


def reason(error):
    """The stable reason of a refusal or failure."""
    return details(error).get("ErrorInfo", {}).get(1, b"").decode()


class Load:
    """Unary callers and streams that keep calling until told to stop; each call's end is counted once."""

    def __init__(self, server, function, unary=40, streams=5, per_stream=2, **parameters):
        self.codes, self.messages, self.lock = collections.Counter(), collections.Counter(), threading.Lock()
        self.stop = threading.Event()
        self.function, self.parameters = function, parameters
        stubs = [stub(server) for _ in range(4)]
        callers = [(self.call, stubs[index % 4]) for index in range(unary)]
        callers += [(self.stream, stubs[index % 4], per_stream) for index in range(streams)]
        self.threads = [threading.Thread(target=call, args=arguments) for call, *arguments in callers]
        for thread in self.threads:
            thread.start()

    def count(self, code, message=""):
        with self.lock:
            self.codes[code] += 1
            if message:
                self.messages[message] += 1
        if code != "OK":
            self.stop.wait(0.01)  # as a client that was refused would

    def call(self, stub):
        while not self.stop.is_set():
            try:
                stub.ModelInfer(request(self.function, **self.parameters))
                self.count("OK")
            except grpc.RpcError as error:
                self.count(error.code().name, error.details())

    def stream(self, stub, in_flight):
        tickets = threading.Semaphore(in_flight)
        sent = []

        def requests():
            while not self.stop.is_set():
                if tickets.acquire(timeout=0.1):
                    sent.append(1)
                    yield request(self.function, id=str(len(sent)), **self.parameters)

        answered = set()
        for answer in stub.ModelStreamInfer(requests()):
            answered.add(answer.infer_response.id)
            status = answer.infer_response.parameters["grpc-status"].int64_param
            names = {code.value[0]: code.name for code in grpc.StatusCode}
            self.count(names[status], answer.error_message)
            tickets.release()
        with self.lock:
            self.codes["lost on a stream"] += len(sent) - len(answered)

    def end(self, timeout_s=30):
        """Stops calling; codes by number of calls."""
        self.stop.set()
        deadline = time.monotonic() + timeout_s
        for thread in self.threads:
            thread.join(max(0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a call was never answered"
        return +self.codes
