"""Ends of asynchronous invocations are told to queues and HTTP endpoints: at least once, whatever happens to either side, and only where it is allowed."""

import json

import pytest
from lambda_client import client_of, create, identity, payload, refused, settled, statistics
from remote_services import NO_KEYS, endpoint, moto
from scraped import until

from conftest import Server, identity_repository

EVENTS = 20
WAIT_S = 60


@pytest.fixture(scope="module")
def services():
    with moto() as running:
        yield running


@pytest.fixture
def start_on(tmp_path):
    """Starts servers on one data directory, with a function that is served."""
    models, running = identity_repository(tmp_path / "models", "own"), []

    def start(*settings, **environment):
        known = {"PENSTOCK_DATA_DIR": str(tmp_path / "state")}
        running.append(Server("--model-repository", models, *settings, env=known | environment))
        return running[-1], client_of(running[-1])

    yield start
    for server in running:
        server.kill()


def served(client, name="f", **parameters):
    create(client, name, identity(**parameters))
    client.publish_version(FunctionName=name)
    settled(client, name, "1")


def destinations(client, success=None, failure=None, name="f", retries=0):
    config = {key: {"Destination": to} for key, to in (("OnSuccess", success), ("OnFailure", failure)) if to}
    return client.put_function_event_invoke_config(
        FunctionName=name, Qualifier="1", MaximumRetryAttempts=retries, DestinationConfig=config
    )


def send(client, content, name="f"):
    answer = client.invoke(FunctionName=name, Qualifier="1", InvocationType="Event", Payload=content)
    assert answer["StatusCode"] == 202
    return answer["ResponseMetadata"]["RequestId"]


def queue(services, name):
    """Its ARN, and what reads all that is in it."""
    client = services.client("sqs")
    url = client.create_queue(QueueName=name)["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    seen = {}

    def told():
        for message in client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            seen[message["MessageId"]] = json.loads(message["Body"])
            client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return list(seen.values())

    return arn, told


def number(record):
    return record["requestPayload"]["inputs"][0]["data"][0]


def test_queues_are_told_of_success_and_failure(start_on, services):
    server, client = start_on(**services.environment)
    served(client)
    (done, told_done), (failed, told_failed) = queue(services, "done"), queue(services, "failed")
    told = destinations(client, done, failed)
    assert told["DestinationConfig"] == {"OnSuccess": {"Destination": done}, "OnFailure": {"Destination": failed}}
    request, wrong = send(client, payload(1.5)), send(client, "{}")
    (record,) = until(told_done, "the end is told", WAIT_S)
    assert record["requestContext"]["requestId"] == request
    assert record["requestContext"]["condition"] == "Success"
    assert record["requestContext"]["functionArn"].endswith(":function:f:1")
    assert record["responsePayload"]["outputs"][0]["data"] == [1.5]
    (record,) = until(told_failed, "the failure is told", WAIT_S)
    assert (record["requestContext"]["requestId"], record["requestContext"]["condition"]) == (wrong, "RetriesExhausted")
    assert record["responsePayload"]["errorType"] == "InvalidInput"


def test_an_endpoint_is_told(start_on):
    with endpoint() as there:
        server, client = start_on("--set", f"lambda.http_destinations={there.url}/ends")
        served(client)
        destinations(client, f"{there.url}/ends/done?of=f")
        request = send(client, payload(2.5))
        (asked,) = until(lambda: there.asked, "the end is told", WAIT_S)
        method, path, headers, body = asked
        assert (method, path, headers["content-type"]) == ("POST", "/ends/done?of=f", "application/json")
        record = json.loads(body)
        assert record["requestContext"]["requestId"] == request
        assert record["responsePayload"]["outputs"][0]["data"] == [2.5]


def test_what_is_not_allowed_is_refused(start_on):
    server, client = start_on("--set", "lambda.http_destinations=https://good.example/ends", **NO_KEYS)
    served(client)
    for to, words in [
        ("https://good.example/other", "lambda.http_destinations"),
        ("https://good.example.evil.example/ends", "one that lambda.http_destinations allows"),
        ("https://me@good.example/ends", "without a name"),
        ("http://169.254.169.254/latest/meta-data", "lambda.http_destinations"),
        ("arn:aws:sqs:us-east-1:123456789012:q", "aws.credentials_file"),
        ("arn:aws:sqs:us-east-1:123456789012:q.fifo", "standard queue"),
        ("arn:aws:sns:us-east-1:123456789012:t", "arn:aws:sqs:"),
        ("ftp://good.example/ends", "file://"),
    ]:
        with refused("ValidationException", 400, words):
            destinations(client, to)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function_event_invoke_config(FunctionName="f", Qualifier="1")
    destinations(client, "https://good.example/ends/of-f")

    _, plain = start_on(PENSTOCK_DATA_DIR=str(server.data.name))
    served(plain)
    with refused("ValidationException", 400, "none is allowed"):
        destinations(plain, "https://good.example/ends")


def test_a_destination_that_is_down_is_told_later_and_disturbs_nobody(start_on):
    """It says 500 at first, then nothing at all; the function runs once for each event, and another's ends are told meanwhile."""
    said, taken = {"down": (500, {}, b"")}, set()

    def answer(_, path, body):
        if path != "/down":
            return 204, {}, b""
        if said["down"] and said["down"][0] == 200:
            taken.add(number(json.loads(body)))
        return said["down"]

    with endpoint(answer) as there:
        server, client = start_on("--set", f"lambda.http_destinations={there.url}")
        served(client)
        served(client, "g")
        destinations(client, f"{there.url}/down")
        destinations(client, f"{there.url}/up", name="g")
        for one in range(EVENTS):
            send(client, payload(one))
        until(lambda: any("it answered 500" in line for line in server.log), "it could not be told", WAIT_S)
        said["down"] = None
        send(client, payload(1), "g")
        until(lambda: any(path == "/up" for _, path, _, _ in there.asked), "the other is told", 5)
        said["down"] = (200, {}, b"")
        until(lambda: taken == set(range(EVENTS)), "all are told", WAIT_S)
        assert statistics(server, "f")[0] == EVENTS


def test_ends_that_hang_keep_no_function_from_running(start_on):
    """More ends wait for a destination that never answers than may be told at once; what comes after runs."""
    with endpoint(lambda *_: None) as there:
        server, client = start_on("--set", f"lambda.http_destinations={there.url}")
        served(client)
        destinations(client, f"{there.url}/ends")
        for one in range(EVENTS):
            send(client, payload(one))
        until(lambda: statistics(server, "f")[0] == EVENTS, "all have run", 8)
        assert len(there.asked) <= 4, "no more are told at once"


def test_a_record_that_is_refused_for_good_is_given_up(start_on):
    with endpoint(lambda *_: (413, {}, b"")) as there:
        server, client = start_on("--set", f"lambda.http_destinations={there.url}")
        served(client)
        destinations(client, f"{there.url}/ends")
        for one in range(EVENTS):
            send(client, payload(one))
        until(lambda: sum("it answered 413" in line for line in server.log) == EVENTS, "each is told once", 20)
        assert (len(there.asked), statistics(server, "f")[0]) == (EVENTS, EVENTS)


def test_an_end_survives_kill_9_while_it_is_told(start_on):
    """The server is killed while the destination has not answered: told again by the next one, and not run again."""
    said = {"now": None}
    with endpoint(lambda *_: said["now"]) as there:
        settings = ("--set", f"lambda.http_destinations={there.url}")
        server, client = start_on(*settings)
        served(client)
        destinations(client, f"{there.url}/ends")
        send(client, payload(7))
        until(lambda: there.asked, "it is being told", WAIT_S)
        server.kill()
        said["now"] = (200, {}, b"")
        at = len(there.asked)
        server, _ = start_on(*settings)
        until(lambda: len(there.asked) > at, "it is told again", WAIT_S)
        assert number(json.loads(there.asked[at][3])) == 7
        assert statistics(server, "f")[0] == 0, "its end was known"


@pytest.mark.parametrize("way", ["told", "told later", "killed"])
def test_an_end_too_large_to_be_kept_does_not_run_its_function_again(start_on, way):
    """Its record is more than the store takes of one event: it is in memory alone, tried again, and its function has run once, whatever happens."""
    said = {"now": (200 if way == "told" else 500, {}, b"")}
    with endpoint(lambda *_: said["now"]) as there:
        allowed = ("--set", f"lambda.http_destinations={there.url}")
        server, client = start_on(*allowed)
        served(client)
        destinations(client, f"{there.url}/ends")
        # Written out they are longer.
        send(client, payload(*[1.25] * 150_000).replace("1.25", "1e9"))
        until(lambda: there.asked, "it is told", WAIT_S)
        assert statistics(server, "f", "1")[1] == 1
        assert not any("/ends" in line for line in server.log), "a URL may be a secret"
        if way == "killed":
            server.kill()
            server, _ = start_on(*allowed)
            until(lambda: any("memory alone, before a restart" in line for line in server.log), "it says so", WAIT_S)
            assert statistics(server, "f", "1")[1] == 0
            return
        said["now"] = (200, {}, b"")
        tries = 1 if way == "told" else 2
        until(lambda: len(there.asked) >= tries, "it is told again", WAIT_S)
        assert len(json.loads(there.asked[-1][3])["responsePayload"]["outputs"][0]["data"]) == 150_000
        assert statistics(server, "f", "1")[1] == 1
