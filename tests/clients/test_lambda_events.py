"""Asynchronous invocations: none that was answered for is lost, whatever happens to the server, and each end is told."""

import json

import pytest
from lambda_client import ask, client_of, create, identity, payload, settled, statistics
from scraped import until

from conftest import Server, identity_repository

EVENTS = 40


@pytest.fixture
def start_on(tmp_path):
    """Starts servers on one data directory."""
    models, running = identity_repository(tmp_path / "models", "own"), []

    def start():
        running.append(Server("--model-repository", models, env={"PENSTOCK_DATA_DIR": str(tmp_path / "state")}))
        return running[-1], client_of(running[-1])

    yield start
    for server in running:
        server.kill()


def told(file):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_events_survive_kill_9_and_their_ends_are_told(start_on, tmp_path):
    server, client = start_on()
    create(client, "f", identity(execute_delay_us=100_000))
    client.publish_version(FunctionName="f")
    settled(client, "f", "1")
    folder = tmp_path / "state/destinations"
    done, failed = folder / "done", folder / "failed"
    destinations = {"OnSuccess": {"Destination": f"file://{done}"}, "OnFailure": {"Destination": f"file://{failed}"}}
    client.put_function_event_invoke_config(
        FunctionName="f", Qualifier="1", MaximumRetryAttempts=0, DestinationConfig=destinations
    )
    for number in range(EVENTS):
        answer = client.invoke(FunctionName="f", Qualifier="1", InvocationType="Event", Payload=payload(number))
        assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    client.invoke(FunctionName="f", Qualifier="1", InvocationType="Event", Payload="{}")
    server.kill()
    assert len(told(done)) < EVENTS, "some were still waiting"

    start_on()
    number = lambda record: record["requestPayload"]["inputs"][0]["data"][0]  # noqa: E731
    until(lambda: {number(record) for record in told(done)} == set(range(EVENTS)), "all are done", 30)
    record = told(done)[0]
    assert record["requestContext"]["condition"] == "Success"
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "1"}
    assert record["responsePayload"]["outputs"][0]["data"] == [number(record)]
    (failure,) = until(lambda: told(failed), "the one that cannot succeed is told", 30)
    assert (failure["requestContext"]["condition"], failure["requestContext"]["approximateInvokeCount"]) == ("RetriesExhausted", 1)
    assert failure["responsePayload"]["errorType"] == "InvalidInput"


def test_what_cannot_be_kept_or_run_is_refused(start_on):
    _, client = start_on()
    create(client, "f")
    errors = client.exceptions
    with pytest.raises(errors.NoPublishedVersionException):
        client.invoke(FunctionName="f", InvocationType="Event")
    with pytest.raises(errors.InvalidRequestContentException):
        client.invoke(FunctionName="own", InvocationType="Event", Payload="no json")
    with pytest.raises(errors.RequestTooLargeException):
        client.invoke(FunctionName="own", InvocationType="Event", Payload=json.dumps("x" * (1 << 20)))
    assert client.invoke(FunctionName="own", InvocationType="Event", Payload=payload())["StatusCode"] == 202


def test_an_end_that_cannot_be_told_is_told_later(start_on, tmp_path):
    """Its destination is a folder until it is taken away; the function runs once."""
    server, client = start_on()
    create(client, "f")
    client.publish_version(FunctionName="f")
    settled(client, "f", "1")
    file = tmp_path / "state/destinations/done"
    file.mkdir(parents=True)
    client.put_function_event_invoke_config(
        FunctionName="f", Qualifier="1", DestinationConfig={"OnSuccess": {"Destination": f"file://{file}"}}
    )
    client.invoke(FunctionName="f", Qualifier="1", InvocationType="Event", Payload=payload())
    until(lambda: statistics(server, "f")[0] == 1, "it has run", 30)
    until(lambda: any("cannot be told" in line for line in server.log), "it could not be told", 30)
    file.rmdir()
    until(lambda: told(file), "it is told", 30)
    assert len(told(file)) == 1 and statistics(server, "f")[0] == 1


def test_an_event_that_is_sent_again_is_kept_once(start_on):
    server, client = start_on()
    create(client, "f", identity(execute_delay_us=500_000))
    client.publish_version(FunctionName="f")
    settled(client, "f", "1")
    path, headers = "/2015-03-31/functions/f/invocations?Qualifier=1", {"x-amz-invocation-type": "Event", "amz-sdk-invocation-id": "once"}
    for _ in range(3):
        assert ask(server, "POST", path, payload().encode(), headers)[0] == 202
    until(lambda: statistics(server, "f")[0] == 1, "it has run", 30)
    client.delete_function(FunctionName="f")
    until(lambda: ask(server, "GET", "/2015-03-31/functions/f")[0] == 404, "the function is gone", 30)
