"""boto3 invokes functions: payloads, function errors under 200, throttling, attempts of one call, logs, dry runs and event streams."""

import base64
import concurrent.futures
import contextlib
import json
import re
import time
import uuid

import botocore.exceptions
import pytest
from lambda_client import (
    ARN,
    PROVIDER_ARN,
    PUBLISHED,
    ROWS,
    TIMEOUT_S,
    adding,
    ask,
    client,  # noqa: F401
    client_of,
    create,
    created,
    identity,
    invoke,
    magika,
    name,  # noqa: F401
    payload,
    publish,
    refused,
    serving,  # noqa: F401
    settled,
    slow,
    statistics,
)
from scraped import Scraped, until

ENOUGH_MS = 400
"""How long a call is kept running while others come."""


def one_at_a_time(client, name):
    """A function whose only environment takes one call at a time."""
    instances = {"CapacityProviderArn": f"{PROVIDER_ARN}:local", "PerExecutionEnvironmentMaxConcurrency": 1}
    config = {"LambdaManagedInstancesCapacityProviderConfig": instances}
    return created(client, name, slow(ENOUGH_MS), CapacityProviderConfig=config)


@contextlib.contextmanager
def running(call, *arguments, **keywords):
    """The call, begun, on another thread; yields its future."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(call, *arguments, **keywords)
        time.sleep(0.1)
        assert not future.done()
        yield future
        future.result(TIMEOUT_S)


def events_of(answer):
    """Of an event stream: its bytes, and its end."""
    events = list(answer["EventStream"])
    assert all(list(event) in (["PayloadChunk"], ["InvokeComplete"]) for event in events)
    assert [list(event) for event in events[-1:]] == [["InvokeComplete"]], "the end is always told"
    return b"".join(event["PayloadChunk"]["Payload"] for event in events[:-1]), events[-1]["InvokeComplete"]


def raw_invoke(server, name, body, headers=None, qualifier="1"):
    return ask(server, "POST", f"/2015-03-31/functions/{name}/invocations?Qualifier={qualifier}", body, headers)


def test_an_answer(client, name):
    created(client, name)
    answer = client.invoke(FunctionName=name, Qualifier="1", Payload=payload(1, 2))
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert (answer["StatusCode"], answer["ExecutedVersion"], "FunctionError" in answer) == (200, "1", False)
    assert headers["x-amz-executed-version"] == "1" and headers["content-type"] == "application/json"
    assert headers["x-amzn-requestid"] == answer["ResponseMetadata"]["RequestId"]
    assert "LogResult" not in answer
    told = json.loads(answer["Payload"].read())
    output = {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
    assert told == {"model_name": name, "model_version": "1", "outputs": [output]}
    assert invoke(client, f"{ARN}:{name}:1", 3)[1] == [3.0]


def test_a_model_that_was_uploaded(client, name):
    """A real ONNX model in a package answers as it does from a model repository."""
    created(client, name, magika())
    data = list(b"import os\n" + bytes(2038))
    request = {"inputs": [{"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": data}]}
    answer = client.invoke(FunctionName=name, Qualifier="1", Payload=json.dumps(request))
    (output,) = json.loads(answer["Payload"].read())["outputs"]
    assert (output["name"], output["shape"]) == ("target_label", [1, 214])
    assert sum(output["data"]) == pytest.approx(1, abs=1e-3)


def test_texts_in_short(start):
    """`{"inputs": "text"}` is enough for an encoder: rows come back, the same as in OIP's form."""
    client = client_of(start("--model-control-mode", "explicit", "--load-model", "minilm"))

    def rows(inputs):
        answer = client.invoke(FunctionName="minilm", Payload=json.dumps({"inputs": inputs}))
        return json.loads(answer["Payload"].read())

    one, many = rows("a penstock"), rows(["a penstock", "a turbine"])
    assert [len(row) for row in one + many] == [384] * 3
    assert many[0] == pytest.approx(one[0], abs=1e-4) and many[1] != pytest.approx(one[0], abs=1e-2)
    oip = rows([{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a penstock"]}])
    (embedding,) = [output for output in oip["outputs"] if output["name"] == "embedding"]
    assert embedding["data"] == pytest.approx(one[0], abs=1e-4)


@pytest.mark.parametrize("wrong", [b"{", b"nonsense", b'{"inputs": }', b"\xff\xfe", b'{"a": 1} {'])
def test_payloads_that_are_no_json(client, wrong):
    with refused("InvalidRequestContentException", 400, "Could not parse request body into json: Could not parse payload into json: "):
        client.invoke(FunctionName="own", Payload=wrong)


@pytest.mark.parametrize("wrong", [b"", b"{}", b"null", b"[]", b"3", b'"text"', b'{"inputs": 3}', b'{"inputs": "text"}', b'{"inputs": []}'])
def test_payloads_that_the_model_cannot_take(client, wrong):
    """JSON, but no request of this model's: the function's own error, which nobody sends again. Empty is `{}`."""
    answer = client.invoke(FunctionName="own", Payload=wrong)
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    told = json.loads(answer["Payload"].read())
    assert told["errorType"] == "InvalidInput" and told["errorMessage"] and told["requestId"]


def test_an_empty_payload_is_an_empty_object(client):
    told = [client.invoke(FunctionName="own", **payload)["Payload"].read() for payload in ({}, {"Payload": b""}, {"Payload": b"{}"})]
    without_ids = {re.sub(rb'"requestId":"[^"]*"', b"", one) for one in told}
    assert len(without_ids) == 1 and b"inputs" in told[0]


def test_what_invoke_refuses(client):
    with refused("ValidationException", 400, "'invocationType'"):
        client.invoke(FunctionName="own", InvocationType="Sometime", Payload=payload())
    with refused("ResourceNotFoundException", 404, f"Function not found: {ARN}:own:9"):
        client.invoke(FunctionName="own", Qualifier="9", Payload=payload())
    with refused("ResourceNotFoundException", 404, f"Function not found: {ARN}:nobody:1"):
        client.invoke(FunctionName="nobody", Qualifier="1", Payload=payload())


def test_a_dry_run(serving, client, name):
    """204 and nothing else, and nothing runs; where the call would be refused, the same error."""
    create(client, name)
    for call in (client.invoke, client.invoke_with_response_stream):
        with refused("NoPublishedVersionException", 400):
            call(FunctionName=name, InvocationType="DryRun")
    publish(client, name)
    for call in (client.invoke, client.invoke_with_response_stream):
        assert call(FunctionName=name, Qualifier="1", InvocationType="DryRun", Payload=payload())["StatusCode"] == 204
    status, headers, body = raw_invoke(serving, name, payload().encode(), {"X-Amz-Invocation-Type": "DryRun"})
    assert (status, body) == (204, b"") and headers["x-amzn-RequestId"]
    assert headers.get("Content-Length") in (None, "0") and headers.get("Transfer-Encoding") is None
    assert statistics(serving, name) == (0, 0)


def test_logs(client, name):
    created(client, name)
    answer = client.invoke(FunctionName=name, Qualifier="1", Payload=payload(), LogType="Tail")
    log = base64.b64decode(answer["LogResult"]).decode()
    (request_id,) = set(re.findall(r"RequestId: (\S+)", log))
    assert log.startswith(f"START RequestId: {request_id} Version: 1\n") and len(log) <= 4096
    assert f"END RequestId: {request_id}\n" in log
    assert re.search(rf"REPORT RequestId: {request_id}\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms", log)
    for kind in ({}, {"LogType": "None"}):
        assert "LogResult" not in client.invoke(FunctionName=name, Qualifier="1", Payload=payload(), **kind)


def test_one_call_has_one_id(client):
    for payload_of in (payload(), b"{}"):
        answer = client.invoke(FunctionName="own", Payload=payload_of, LogType="Tail")
        assert f"START RequestId: {answer['ResponseMetadata']['RequestId']} " in base64.b64decode(answer["LogResult"]).decode()
    assert json.loads(answer["Payload"].read())["requestId"] == answer["ResponseMetadata"]["RequestId"]


def test_a_timeout(client, name):
    """Timeout is the function's: 200, Sandbox.Timedout, in the second that was said; and its slot is free again."""
    created(client, name, slow(3000), Timeout=1)
    began = time.monotonic()
    answer = client.invoke(FunctionName=name, Qualifier="1", Payload=payload(rows=ROWS))
    assert 0.9 < time.monotonic() - began < 2
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    told = json.loads(answer["Payload"].read())
    assert told["errorType"] == "Sandbox.Timedout"
    request_id = told["requestId"]
    assert re.fullmatch(rf"RequestId: {request_id} Error: Task timed out after 1\.\d\d seconds", told["errorMessage"])
    streamed, end = events_of(client.invoke_with_response_stream(FunctionName=name, Qualifier="1", Payload=payload(rows=ROWS)))
    assert (streamed, end["ErrorCode"]) == (b"", "Sandbox.Timedout")
    assert "timed out" in json.loads(end["ErrorDetails"])["errorMessage"]


def test_an_error_names_the_version_that_ran(client, name):
    created(client, name, slow(3000), Timeout=1)
    assert client.invoke(FunctionName=name, Qualifier="1", Payload=payload(rows=ROWS))["ExecutedVersion"] == "1"


def test_a_crash(client, name):
    """The environment's process ends: the function's error, and the next call is served again."""
    created(client, name, identity(crash_on_first_byte=1))
    crashing = {"inputs": [{"name": "INPUT0", "datatype": "UINT8", "shape": [1, 1], "data": [1]}]}
    answer = client.invoke(FunctionName=name, Qualifier="1", Payload=json.dumps(crashing))
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    told = json.loads(answer["Payload"].read())
    assert told["errorType"] == "Runtime.ExitError"
    request_id = told["requestId"]
    assert told["errorMessage"] == f"RequestId: {request_id} Error: Runtime exited without providing a reason"

    def served():
        try:
            return invoke(client, name, Qualifier="1")
        except client.exceptions.ResourceNotReadyException:
            return None

    assert until(served, "its environment comes back") == ("1", [1.5, 2.5])
    assert client.get_function_configuration(FunctionName=name, Qualifier="1")["State"] == "Active"


def throttled(answer, reason):
    """Checks what a throttled call tells, and how long to wait: in whole seconds, and in milliseconds."""
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert (answer["Reason"], answer["Type"]) == (reason, "User")
    assert int(answer["retryAfterSeconds"]) == int(headers["retry-after"]) >= 1
    assert int(headers["x-amz-retry-after"]) >= 1 and headers["x-penstock-shed-reason"]


def test_reserved_concurrency_of_nothing(client, name):
    created(client, name)
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    for call in (client.invoke, client.invoke_with_response_stream):
        with refused("TooManyRequestsException", 429, "Rate Exceeded.") as answer:
            call(FunctionName=name, Qualifier="1", Payload=payload())
        throttled(answer, "ReservedFunctionConcurrentInvocationLimitExceeded")
    client.delete_function_concurrency(FunctionName=name)
    assert invoke(client, name, Qualifier="1")[0] == "1"


def test_reserved_concurrency_that_is_used_up(client, name):
    created(client, name, slow(ENOUGH_MS))
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    with running(invoke, client, name, rows=ROWS, Qualifier="1"):
        with refused("TooManyRequestsException", 429, "Rate Exceeded.") as answer:
            client.invoke(FunctionName=name, Qualifier="1", Payload=payload())
        throttled(answer, "ReservedFunctionConcurrentInvocationLimitExceeded")
    assert invoke(client, name, Qualifier="1")[0] == "1"


def test_slots_that_are_full(serving, client, name):
    one_at_a_time(client, name)
    with running(invoke, client, name, rows=ROWS, Qualifier="1"):
        with refused("TooManyRequestsException", 429, "Rate Exceeded.") as answer:
            client.invoke(FunctionName=name, Qualifier="1", Payload=payload())
        throttled(answer, "ConcurrentInvocationLimitExceeded")
        status, headers, body = raw_invoke(serving, name, payload().encode())
        told = json.loads(body)
        assert status == 429 and headers["x-amzn-ErrorType"] == "TooManyRequestsException"
        assert (told["Reason"], told["Type"]) == ("ConcurrentInvocationLimitExceeded", "User")
        assert told["message"] == told["Message"]
    assert statistics(serving, name)[1] == 1


def test_a_throttled_call_is_sent_again_and_served(serving, client, name):
    """boto3 waits and asks again with the same invocation id; that attempt must be tried, not answered from memory."""
    one_at_a_time(client, name)
    body, headers = payload().encode(), {"amz-sdk-invocation-id": str(uuid.uuid4())}
    with running(invoke, client, name, rows=ROWS, Qualifier="1"):
        assert raw_invoke(serving, name, body, headers)[0] == 429
    assert raw_invoke(serving, name, body, headers)[0] == 200


def test_attempts_of_one_call_run_once(serving, client, name):
    """A client that gives up after a second and asks again, twice, of a function that takes two: it is answered, and the
    function ran once."""
    created(client, name, slow(2000), Timeout=10)
    impatient = client_of(serving, attempts=3, read_timeout=1)
    answer = impatient.invoke(FunctionName=name, Qualifier="1", Payload=payload(rows=ROWS))
    assert answer["ResponseMetadata"]["RetryAttempts"] >= 1
    assert json.loads(answer["Payload"].read())["outputs"][0]["data"] == [1.5, 2.5] * ROWS
    assert statistics(serving, name) == (ROWS, 1)
    # Another call is another execution, though its payload is the same.
    assert invoke(client, name, Qualifier="1")[0] == "1"
    assert statistics(serving, name) == (ROWS + 1, 2)


def test_attempts_at_the_same_time_run_once(serving, client, name):
    created(client, name, slow(ENOUGH_MS))
    headers = {"amz-sdk-invocation-id": str(uuid.uuid4())}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(raw_invoke, serving, name, payload(rows=ROWS).encode(), headers) for _ in range(4)]
        answers = [call.result(TIMEOUT_S) for call in calls]
    assert {(status, body) for status, _, body in answers} == {(200, answers[0][2])}
    assert statistics(serving, name) == (ROWS, 1)


def test_who_leaves_and_does_not_come_back_is_cancelled(serving, client, name):
    created(client, name, slow(8000), Timeout=30)
    impatient = client_of(serving, read_timeout=1)
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        impatient.invoke(FunctionName=name, Qualifier="1", Payload=payload(rows=ROWS))
    ended = until(lambda: Scraped(serving).ended(name), "the call ends")
    assert {outcome for outcome, _ in ended} == {"cancelled"}, ended


def test_an_event_stream(client, name):
    created(client, name)
    answer = client.invoke_with_response_stream(FunctionName=name, Qualifier="1", Payload=payload(1, 2), LogType="Tail")
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "1")
    assert answer["ResponseStreamContentType"] == "application/vnd.amazon.eventstream"
    streamed, end = events_of(answer)
    assert json.loads(streamed)["outputs"][0]["data"] == [1.0, 2.0]
    assert "ErrorCode" not in end
    assert base64.b64decode(end["LogResult"]).startswith(b"START RequestId: ")
    _, end = events_of(client.invoke_with_response_stream(FunctionName=name, Qualifier="1", Payload=payload()))
    assert end == {}
    _, end = events_of(client.invoke_with_response_stream(FunctionName=name, Qualifier="1", Payload=b"{}"))
    assert end["ErrorCode"] == "InvalidInput" and "inputs" in end["ErrorDetails"]


def test_what_an_event_stream_refuses(client, name):
    """Errors before the stream are ordinary errors."""
    created(client, name)
    for qualifier, code, status in (("$LATEST", "InvalidParameterValueException", 400), ("9", "ResourceNotFoundException", 404)):
        with refused(code, status):
            client.invoke_with_response_stream(FunctionName=name, Qualifier=qualifier, Payload=payload())
    with refused("NoPublishedVersionException", 400):
        client.invoke_with_response_stream(FunctionName=name, Payload=payload())
    with refused("InvalidRequestContentException", 400):
        client.invoke_with_response_stream(FunctionName=name, Qualifier="1", Payload=b"{")
    with refused("InvalidParameterValueException", 400):
        client.invoke_with_response_stream(FunctionName=name, Qualifier="1", InvocationType="Event", Payload=payload())


def test_a_large_payload_comes_back_whole(client, name):
    """A tensor that is printed as some megabytes, over both operations."""
    created(client, name, adding(0))
    values = [float(n) for n in range(500_000)]
    assert invoke(client, name, *values, Qualifier="1") == ("1", values)
    streamed, _ = events_of(client.invoke_with_response_stream(FunctionName=name, Qualifier="1", Payload=payload(*values)))
    assert json.loads(streamed)["outputs"][0]["data"] == values


def test_headers_that_do_not_matter(client, name):
    created(client, name)
    context = base64.b64encode(json.dumps({"custom": {"a": "b"}}).encode()).decode()
    assert invoke(client, name, Qualifier="1", ClientContext=context)[0] == "1"
    client.publish_version(FunctionName=name, PublishTo="LATEST_PUBLISHED")
    settled(client, name, PUBLISHED)
    assert invoke(client, name, InvocationType="RequestResponse", LogType="None")[0] == PUBLISHED
