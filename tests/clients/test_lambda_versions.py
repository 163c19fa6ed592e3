"""boto3 publishes versions and leads aliases: guards, replacement while serving, versions that do not come up, weights on every door."""

import collections
import concurrent.futures
import contextlib
import json
import socket
import threading
import time

import pytest
from lambda_client import (
    ARN,
    PUBLISHED,
    ROWS,
    TIMEOUT_S,
    adding,
    ask,
    client,  # noqa: F401
    client_of,
    create,
    created,
    gone,
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
)
from scraped import until

from conftest import Server, identity_repository

STALE = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id"


def infer(server, model, version=None, values=()):
    """OIP's door: (status, version that ran, values)."""
    path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
    status, _, body = ask(server, "POST", path, payload(*values).encode())
    told = json.loads(body)
    return status, told.get("model_version"), [output["data"] for output in told.get("outputs", [])]


@pytest.fixture
def two(client, name):
    """A function with versions 1 and 2 that serve: one adds 10, the other 20."""
    created(client, name, adding(10))
    client.update_function_code(FunctionName=name, ZipFile=adding(20))
    assert publish(client, name) == "2"
    return name


def test_a_version_is_published(client, name):
    latest = create(client, name)
    told = client.publish_version(FunctionName=name, Description="the first")
    assert told["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert (told["Version"], told["FunctionArn"]) == ("1", f"{ARN}:{name}:1")
    assert (told["State"], told["StateReasonCode"]) == ("Pending", "Creating")
    assert told["CodeSha256"] == latest["CodeSha256"] and told["RevisionId"] != latest["RevisionId"]
    client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="1", WaiterConfig={"Delay": 1})
    client.get_waiter("function_active").wait(FunctionName=f"{name}:1", WaiterConfig={"Delay": 1})
    found = client.get_function_configuration(FunctionName=name, Qualifier="1")
    assert (found["State"], found["LastUpdateStatus"], found["Description"]) == ("Active", "Successful", "the first")
    assert "StateReason" not in found
    assert client.get_function_configuration(FunctionName=name)["Description"] == ""


def test_what_did_not_change_is_not_published_again(client, two):
    again = client.publish_version(FunctionName=two)
    assert again["Version"] == "2"
    client.update_function_configuration(FunctionName=two, Timeout=4)
    assert publish(client, two) == "3"
    # Numbers are never used twice.
    client.delete_function(FunctionName=two, Qualifier="3")
    gone(client, two, "3")
    assert publish(client, two) == "4"


def test_guards_of_publishing(client, name):
    made = create(client, name)
    sha, revision = made["CodeSha256"], made["RevisionId"]
    wrong = f"CodeSHA256 (abc) is different from current CodeSHA256 in $LATEST ({sha}). Please try again with the CodeSHA256 in $LATEST."
    with refused("InvalidParameterValueException", 400, wrong):
        client.publish_version(FunctionName=name, CodeSha256="abc")
    with refused("PreconditionFailedException", 412, STALE):
        client.publish_version(FunctionName=name, RevisionId="00000000-0000-0000-0000-000000000000")
    with refused("ValidationException", 400, "'publishTo'"):
        client.publish_version(FunctionName=name, PublishTo="ELSEWHERE")
    with refused("ValidationException", 400, "'description'"):
        client.publish_version(FunctionName=name, Description="d" * 257)
    assert [one["Version"] for one in client.list_versions_by_function(FunctionName=name)["Versions"]] == ["$LATEST"]
    assert publish(client, name, CodeSha256=sha, RevisionId=revision) == "1"


def test_pages_of_versions(client, two):
    publish(client, two, PublishTo="LATEST_PUBLISHED")
    for size in (2, 3, 50):
        pages = client.get_paginator("list_versions_by_function").paginate(FunctionName=two, PaginationConfig={"PageSize": size})
        listed = [one for page in pages for one in page["Versions"]]
        assert [one["Version"] for one in listed] == ["$LATEST", PUBLISHED, "1", "2"]
        assert [one["FunctionArn"] for one in listed] == [f"{ARN}:{two}:{one['Version']}" for one in listed]
        assert all("State" not in one and "LastUpdateStatus" not in one for one in listed)


def test_pages_of_one_version(client, two):
    pages = client.get_paginator("list_versions_by_function").paginate(FunctionName=two, PaginationConfig={"PageSize": 1})
    assert [one["Version"] for page in pages for one in page["Versions"]] == ["$LATEST", "1", "2"]


def test_a_version_keeps_what_it_was_published_with(client, two):
    client.update_function_configuration(FunctionName=two, Timeout=77, Environment={"Variables": {"AB": "c"}})
    found = client.get_function_configuration(FunctionName=two, Qualifier="2")
    assert found["Timeout"] == 3 and "Environment" not in found
    assert invoke(client, two, 1.0, Qualifier="1") == ("1", [11.0])
    assert invoke(client, two, 1.0, Qualifier="2") == ("2", [21.0])


def test_latest_published_is_replaced_while_it_serves(client, name):
    """Answers are the old content's until they are the new one's; no call fails. State stays Active all the while."""
    create(client, name, adding(10))
    assert publish(client, name, PublishTo="LATEST_PUBLISHED") == PUBLISHED
    answers, stop, failures = [], threading.Event(), []

    def ask_on():
        while not stop.is_set():
            try:
                answers.append(invoke(client, name, 1.0))
            except Exception as error:  # told below
                failures.append(error)

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        told = client.update_function_code(FunctionName=name, ZipFile=adding(20), Publish=True, PublishTo="LATEST_PUBLISHED")
        assert (told["State"], told["LastUpdateStatus"], told["LastUpdateStatusReasonCode"]) == ("Active", "InProgress", "Creating")
        assert told["LastUpdateStatusReason"] == "The function is being created."
        found = settled(client, name, PUBLISHED)
        assert (found["State"], found["LastUpdateStatus"]) == ("Active", "Successful")
        assert found["CodeSha256"] == client.get_function_configuration(FunctionName=name)["CodeSha256"]
        assert invoke(client, name, 1.0) == (PUBLISHED, [21.0])
    finally:
        stop.set()
        asking.join()
    assert failures == []
    old, new = (PUBLISHED, [11.0]), (PUBLISHED, [21.0])
    switch = answers.index(new) if new in answers else len(answers)
    assert set(map(str, answers[:switch])) == {str(old)} and set(map(str, answers[switch:])) <= {str(new)}


def test_a_replacement_that_does_not_load_leaves_the_old(client, name):
    create(client, name, identity("OLD"))
    publish(client, name, PublishTo="LATEST_PUBLISHED")
    before = client.get_function_configuration(FunctionName=name, Qualifier=PUBLISHED)
    client.update_function_code(FunctionName=name, ZipFile=magika(b"no model"), Publish=True, PublishTo="LATEST_PUBLISHED")
    found = settled(client, name, PUBLISHED)
    assert (found["State"], found["LastUpdateStatus"]) == ("Active", "Failed")
    assert found["LastUpdateStatusReasonCode"] == "FunctionError.RuntimeInitError"
    assert "model.onnx" in found["LastUpdateStatusReason"]
    assert found["CodeSha256"] == before["CodeSha256"]
    assert invoke(client, name) == (PUBLISHED, [1.5, 2.5])
    # And it can be replaced again.
    client.update_function_code(FunctionName=name, ZipFile=identity("NEW"), Publish=True, PublishTo="LATEST_PUBLISHED")
    found = settled(client, name, PUBLISHED)
    assert (found["LastUpdateStatus"], "LastUpdateStatusReason" in found) == ("Successful", False)


def test_one_replacement_at_a_time(client, name):
    create(client, name)
    publish(client, name, PublishTo="LATEST_PUBLISHED")
    client.update_function_code(FunctionName=name, ZipFile=magika(), Publish=True, PublishTo="LATEST_PUBLISHED")
    with refused("ResourceConflictException", 409, "The operation cannot be performed at this time. An update is in progress for resource: "):
        client.publish_version(FunctionName=name, PublishTo="LATEST_PUBLISHED")
    assert settled(client, name, PUBLISHED)["LastUpdateStatus"] == "Successful"


def test_one_replacement_at_a_time_names_the_function_by_arn(client, name):
    create(client, name)
    publish(client, name, PublishTo="LATEST_PUBLISHED")
    client.update_function_code(FunctionName=name, ZipFile=magika(), Publish=True, PublishTo="LATEST_PUBLISHED")
    try:
        with refused("ResourceConflictException", 409, f"for resource: {ARN}:{name}"):
            client.publish_version(FunctionName=name, PublishTo="LATEST_PUBLISHED")
    finally:
        settled(client, name, PUBLISHED)


def test_a_version_that_does_not_load_disturbs_nobody(serving, client, name):
    """It ends Failed with the reason; the version before serves on, and the next one can be published."""
    created(client, name)
    client.update_function_code(FunctionName=name, ZipFile=magika(b"no model"))
    assert client.publish_version(FunctionName=name)["Version"] == "2"
    found = settled(client, name, "2")
    assert (found["State"], found["StateReasonCode"]) == ("Failed", "FunctionError.RuntimeInitError")
    assert "model.onnx" in found["StateReason"] and found["LastUpdateStatus"] == "Failed"
    with pytest.raises(Exception, match="Waiter PublishedVersionActive failed"):
        client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="2", WaiterConfig={"Delay": 1})
    with refused("ResourceConflictException", 409, "The function is currently in the following state: Failed"):
        client.invoke(FunctionName=name, Qualifier="2", Payload=payload())
    assert invoke(client, name, Qualifier="1") == ("1", [1.5, 2.5])
    assert infer(serving, name) == (200, "1", [[1.5, 2.5]])
    client.update_function_code(FunctionName=name, ZipFile=identity("THIRD"))
    assert publish(client, name) == "3"


def test_a_gpu_that_is_not_there(client, name):
    """Without such a GPU the version ends Failed and says so; nothing runs on the CPU instead."""
    create(client, name, AcceleratorConfig={"AcceleratorMemorySize": 24_000})
    client.publish_version(FunctionName=name)
    found = settled(client, name, "1")
    assert found["State"] == "Failed"
    assert found["StateReasonCode"] in ("IncompatibleAcceleratorInstanceTypes", "InsufficientCapacity", "InvalidConfiguration")
    assert "GPU" in found["StateReason"] or "memory" in found["StateReason"]
    assert found["AcceleratorConfig"] == {"AcceleratorMemorySize": 24_000}


def test_a_version_is_deleted(client, two):
    client.create_alias(FunctionName=two, Name="prod", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.1}})
    for version in ("1", "2"):
        with refused("ResourceConflictException", 409, "prod"):
            client.delete_function(FunctionName=two, Qualifier=version)
    with refused("InvalidParameterValueException", 400):
        client.delete_function(FunctionName=two, Qualifier="prod")
    client.update_alias(FunctionName=two, Name="prod", RoutingConfig={"AdditionalVersionWeights": {}})
    client.delete_function(FunctionName=two, Qualifier="2")
    gone(client, two, "2")
    assert invoke(client, two, Qualifier="prod")[0] == "1"
    # One that is not there is gone already.
    client.delete_function(FunctionName=two, Qualifier="2")


def test_the_only_version_is_deleted(serving, client, name):
    before = len(serving.environments())
    created(client, name)
    client.delete_function(FunctionName=name, Qualifier="1")
    gone(client, name, "1")
    with refused("ResourceNotFoundException", 404, f"Function not found: {ARN}:{name}:1"):
        client.invoke(FunctionName=name, Qualifier="1", Payload=payload())
    until(lambda: len(serving.environments()) == before, "its environment ends")


@contextlib.contextmanager
def busy(client, name):
    """A call of version 1 that runs for a second; it must end well, whatever happens to the version meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(invoke, client, name, rows=ROWS, Qualifier="1")
        time.sleep(0.2)
        yield
        assert not call.done()
        assert call.result(TIMEOUT_S) == ("1", [1.5, 2.5] * ROWS)


def draining(client, name):
    """A function whose version 1 takes a second for a call, and a version 2."""
    created(client, name, slow(1000))
    client.update_function_code(FunctionName=name, ZipFile=identity())
    publish(client, name)


def test_a_version_that_was_deleted_is_not_there_while_it_drains(client, name):
    draining(client, name)
    with busy(client, name):
        client.delete_function(FunctionName=name, Qualifier="1")
        gone(client, name, "1")
        with refused("ResourceNotFoundException", 404, f"Function not found: {ARN}:{name}:1"):
            client.invoke(FunctionName=name, Qualifier="1", Payload=payload())


def test_a_version_that_is_deactivated_says_so_while_it_drains(client, name):
    draining(client, name)
    with busy(client, name):
        none = {"MinExecutionEnvironments": 0, "MaxExecutionEnvironments": 0}
        told = client.put_function_scaling_config(FunctionName=name, Qualifier="1", FunctionScalingConfig=none)
        assert told["FunctionState"] == "Deactivating"
        with refused("ResourceConflictException", 409, "The function is currently in the following state: Deactivating"):
            client.invoke(FunctionName=name, Qualifier="1", Payload=payload())


def test_an_operation_whose_client_leaves_goes_on(serving, client, name):
    """Wherever it was when the connection closed: carried out or not begun, but no version stays on its way."""
    created(client, name)
    host, port = serving.url.removeprefix("http://").split(":")
    path, seen = f"/2025-11-30/functions/{name}/function-scaling-config?Qualifier=1", {"Active"}
    for after_ms, environments in [(after_ms, environments) for after_ms in (0, 0.2, 0.4, 0.8, 1.6) for environments in (0, 1)]:
        limits = {"MinExecutionEnvironments": environments, "MaxExecutionEnvironments": environments}
        body = json.dumps({"FunctionScalingConfig": limits})
        with socket.create_connection((host, int(port)), TIMEOUT_S) as leaving:
            leaving.sendall(f"PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            time.sleep(after_ms / 1000)

        def at_rest():
            state = client.get_function_configuration(FunctionName=name, Qualifier="1")["State"]
            return state if state in ("Active", "Deactivated") else None

        seen.add(until(at_rest, "it is on its way no more", TIMEOUT_S))
    assert "Deactivated" in seen, "one of them was carried out"


def test_a_function_that_is_being_deleted(client, name):
    """Its calls end well; meanwhile it is there, as Deleting, and cannot be changed or made anew."""
    created(client, name, slow(1000))
    with busy(client, name):
        client.delete_function(FunctionName=name)
        assert client.get_function_configuration(FunctionName=name)["State"] == "Deleting"
        client.delete_function(FunctionName=name)
        with refused("ResourceConflictException", 409, "Deleting"):
            client.update_function_configuration(FunctionName=name, Timeout=4)
        with refused("ResourceConflictException", 409, "Deleting"):
            client.publish_version(FunctionName=name)
        with refused("ResourceConflictException", 409, "already exist"):
            create(client, name)
    gone(client, name)


def test_aliases(client, two):
    made = client.create_alias(FunctionName=two, Name="prod", FunctionVersion="1", Description="words")
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert (made["AliasArn"], made["Name"], made["FunctionVersion"]) == (f"{ARN}:{two}:prod", "prod", "1")
    assert (made["Description"], "RoutingConfig" in made) == ("words", False)
    assert invoke(client, two, Qualifier="prod")[0] == "1"
    assert client.get_function_configuration(FunctionName=two, Qualifier="prod")["Version"] == "1"

    changed = client.update_alias(FunctionName=two, Name="prod", FunctionVersion="2", RevisionId=made["RevisionId"])
    assert (changed["FunctionVersion"], changed["Description"]) == ("2", "words")
    assert changed["RevisionId"] != made["RevisionId"]
    assert invoke(client, two, Qualifier="prod")[0] == "2"
    with refused("PreconditionFailedException", 412, STALE):
        client.update_alias(FunctionName=two, Name="prod", FunctionVersion="1", RevisionId=made["RevisionId"])
    found = client.get_alias(FunctionName=two, Name="prod")
    for answer in (found, changed):
        del answer["ResponseMetadata"]
    assert found == changed

    answer = client.delete_alias(FunctionName=two, Name="prod")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    with refused("ResourceNotFoundException", 404, f"Alias not found: {ARN}:{two}:prod"):
        client.get_alias(FunctionName=two, Name="prod")
    with refused("ResourceNotFoundException", 404, f"Function not found: {ARN}:{two}:prod"):
        client.invoke(FunctionName=two, Qualifier="prod", Payload=payload())


def test_what_aliases_refuse(client, two):
    def wrong(code, status, says, **members):
        with refused(code, status, says):
            client.create_alias(**{"FunctionName": two, "Name": "prod", "FunctionVersion": "1"} | members)

    def weights(**versions):
        return {"AdditionalVersionWeights": versions}

    client.create_alias(FunctionName=two, Name="taken", FunctionVersion="1")
    wrong("ResourceConflictException", 409, f"Alias already exists: {ARN}:{two}:taken", Name="taken")
    for bad in ("12", "a b", "a.b", "x" * 129):
        wrong("ValidationException", 400, "'name'", Name=bad)
    wrong("ResourceNotFoundException", 404, f"Function not found: {ARN}:{two}:9", FunctionVersion="9")
    wrong("ResourceNotFoundException", 404, f"Function not found: {ARN}:{two}:{PUBLISHED}", FunctionVersion=PUBLISHED)
    wrong("ValidationException", 400, "'functionVersion'", FunctionVersion="taken")
    wrong("InvalidParameterValueException", 400, "$LATEST", FunctionVersion="$LATEST")
    invalid = ("InvalidParameterValueException", 400)
    text = "Number of items in AdditionalVersionWeights cannot be greater than 1"
    wrong(*invalid, text, RoutingConfig=weights(**{"1": 0.1, "2": 0.1}))
    text = "$LATEST is not supported for an alias pointing to more than 1 version"
    wrong(*invalid, text, FunctionVersion="$LATEST", RoutingConfig=weights(**{"2": 0.1}))
    text = "Invalid function version 1. Function version 1 is already included in routing configuration."
    wrong(*invalid, text, RoutingConfig=weights(**{"1": 0.1}))
    wrong("ValidationException", 400, "weights".title(), RoutingConfig=weights(**{"2": 1.5}))
    wrong("ResourceNotFoundException", 404, ":9", RoutingConfig=weights(**{"9": 0.1}))
    wrong("ValidationException", 400, "description", Description="d" * 257)
    with refused("ResourceNotFoundException", 404, f"Alias not found: {ARN}:{two}:prod"):
        client.update_alias(FunctionName=two, Name="prod", FunctionVersion="1")
    assert [one["Name"] for one in client.list_aliases(FunctionName=two)["Aliases"]] == ["taken"]


def test_pages_of_aliases(client, two):
    names = [f"alias-{n}" for n in range(5)]
    for n, alias in enumerate(names):
        client.create_alias(FunctionName=two, Name=alias, FunctionVersion="1" if n < 2 else "2")
    for size in (1, 2, 50):
        pages = client.get_paginator("list_aliases").paginate(FunctionName=two, PaginationConfig={"PageSize": size})
        assert [one["Name"] for page in pages for one in page["Aliases"]] == names
    for version, right in (("1", names[:2]), ("2", names[2:]), ("3", [])):
        assert [one["Name"] for one in client.list_aliases(FunctionName=two, FunctionVersion=version)["Aliases"]] == right


CALLS = 400


def test_an_alias_shares_its_calls_between_two_versions(serving, client, two):
    """Half and half, on Lambda's door and on OIP's, and each answer names the version that gave it. 400 fair coins are
    outside of 120 to 280 heads once in 10^15."""
    split = {"AdditionalVersionWeights": {"2": 0.5}}
    told = client.create_alias(FunctionName=two, Name="prod", FunctionVersion="1", RoutingConfig=split)
    assert told["RoutingConfig"] == split
    sums = {"1": [11.0], "2": [21.0]}
    for door in ("Lambda", "OIP"):
        ran = collections.Counter()
        for _ in range(CALLS):
            if door == "Lambda":
                version, values = invoke(client, two, 1.0, Qualifier="prod")
            else:
                _, version, (values,) = infer(serving, f"{two}:prod", values=[1.0])
            assert values == sums[version]
            ran[version] += 1
        assert sum(ran.values()) == CALLS and 120 <= ran["2"] <= 280, (door, ran)
    for share, right in ((1.0, "2"), (0.0, "1")):
        client.update_alias(FunctionName=two, Name="prod", RoutingConfig={"AdditionalVersionWeights": {"2": share}})
        assert {invoke(client, f"{two}:prod")[0] for _ in range(20)} == {right}
    client.update_alias(FunctionName=two, Name="prod", RoutingConfig={"AdditionalVersionWeights": {}})
    assert "RoutingConfig" not in client.get_alias(FunctionName=two, Name="prod")


def test_what_a_bare_name_means(serving, client, name):
    """On OIP's door alias `live`, else $LATEST.PUBLISHED, else the highest number; on Lambda's always $LATEST.PUBLISHED."""
    created(client, name)
    client.update_function_code(FunctionName=name, ZipFile=identity("SECOND"))
    publish(client, name)
    none = "The function can't be invoked because no published version exists. For functions with capacity provider configuration, either publish a version to $LATEST.PUBLISHED, or specify a published version qualifier."
    with refused("NoPublishedVersionException", 400, none):
        client.invoke(FunctionName=name, Payload=payload())
    assert infer(serving, name)[:2] == (200, "2")
    publish(client, name, PublishTo="LATEST_PUBLISHED")
    assert infer(serving, name)[:2] == (200, PUBLISHED)
    assert invoke(client, name)[0] == PUBLISHED
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    assert infer(serving, name)[:2] == (200, "1")
    assert invoke(client, name)[0] == PUBLISHED
    for qualified, version in ((f"{name}:live", "1"), (f"{name}:2", "2")):
        assert infer(serving, qualified)[:2] == (200, version)
    assert infer(serving, name, "2")[:2] == (200, "2")
    client.delete_alias(FunctionName=name, Name="live")
    assert infer(serving, name)[:2] == (200, PUBLISHED)
    latest = "Functions configured with capacity provider configuration can't be invoked with $LATEST qualifier. To invoke this function, specify a published version qualifier or $LATEST.PUBLISHED."
    with refused("InvalidParameterValueException", 400, latest):
        client.invoke(FunctionName=name, Qualifier="$LATEST", Payload=payload())
    assert infer(serving, f"{name}:nothing")[0] == 404


def test_the_first_number_is_one_also_after_latest_published(client, name):
    create(client, name, PublishTo="LATEST_PUBLISHED")
    assert settled(client, name, PUBLISHED)["State"] == "Active"
    assert client.publish_version(FunctionName=name)["Version"] == "1"


def test_a_version_that_cannot_load_is_failed_whoever_started_it(client, name):
    """Another version is published, and concurrency set, while it is still being loaded."""
    create(client, name, magika(b"no model"))
    client.publish_version(FunctionName=name)
    client.update_function_code(FunctionName=name, ZipFile=magika(b"no model either"))
    client.publish_version(FunctionName=name)
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=5)
    assert [settled(client, name, version)["State"] for version in ("1", "2")] == ["Failed", "Failed"]


def test_a_version_that_is_coming_up_cannot_be_invoked(client, name):
    create(client, name, slow(1500))
    client.publish_version(FunctionName=name)
    state = client.get_function_configuration(FunctionName=name, Qualifier="1")["State"]
    assert state == "Pending", "its warm-up takes a while"
    with refused("ResourceConflictException", 409, "The function is currently in the following state: Pending"):
        client.invoke(FunctionName=name, Qualifier="1", Payload=payload())
    assert settled(client, name, "1")["State"] == "Active"


def test_a_scaling_that_is_put_while_a_version_comes_up_is_applied(serving, client, name):
    before = len(serving.environments())
    create(client, name, slow(1500))
    client.publish_version(FunctionName=name)
    two = {"MinExecutionEnvironments": 2, "MaxExecutionEnvironments": 2}
    client.put_function_scaling_config(FunctionName=name, Qualifier="1", FunctionScalingConfig=two)
    assert settled(client, name, "1")["State"] == "Active"
    until(lambda: len(serving.environments()) == before + 2, "there are two environments")
    told = client.get_function_scaling_config(FunctionName=name, Qualifier="1")
    assert told["AppliedFunctionScalingConfig"] == told["RequestedFunctionScalingConfig"] == two


def test_an_alias_names_a_version_as_it_is_written(client, name):
    created(client, name)
    with refused("ValidationException", 400, "at 'functionVersion'"):
        client.create_alias(FunctionName=name, Name="prod", FunctionVersion="01")


def test_what_served_before_a_kill_serves_after_it_and_what_came_up_is_judged(tmp_path):
    """The server is killed while new content of $LATEST.PUBLISHED, which cannot load, and version 1, which can, come up."""
    models = identity_repository(tmp_path / "models", "own")
    start = lambda: Server("--model-repository", models, env={"PENSTOCK_DATA_DIR": str(tmp_path / "state")})  # noqa: E731
    server = start()
    try:
        client = client_of(server)
        create(client, "f", adding(1))
        client.publish_version(FunctionName="f", PublishTo="LATEST_PUBLISHED")
        assert settled(client, "f", PUBLISHED)["State"] == "Active"
        client.update_function_code(FunctionName="f", ZipFile=slow(2000))
        client.publish_version(FunctionName="f")
        client.update_function_code(FunctionName="f", ZipFile=magika(b"no model"))
        client.publish_version(FunctionName="f", PublishTo="LATEST_PUBLISHED")
        server.kill()
        server = start()
        client = client_of(server)
        assert invoke(client, "f")[1] == [2.5, 3.5]
        assert settled(client, "f", "1")["State"] == "Active"
        told = settled(client, "f", PUBLISHED)
        assert (told["State"], told["LastUpdateStatus"]) == ("Active", "Failed")
        assert invoke(client, "f")[1] == [2.5, 3.5]
    finally:
        server.kill()


def test_a_server_that_ends_while_a_version_comes_up_brings_it_up_again(tmp_path):
    models = identity_repository(tmp_path / "models", "own")
    start = lambda: Server("--model-repository", models, env={"PENSTOCK_DATA_DIR": str(tmp_path / "state")})  # noqa: E731
    server = start()
    try:
        client = client_of(server)
        create(client, "f", slow(3000))
        client.publish_version(FunctionName="f")
        assert server.stop() == 0
        server = start()
        assert settled(client_of(server), "f", "1")["State"] == "Active"
    finally:
        server.kill()
