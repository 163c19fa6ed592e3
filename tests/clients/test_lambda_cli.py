"""The `aws` command line as it comes from its package: create, publish, alias, invoke, wait, list, and what a person sees when it fails."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from lambda_client import (
    ARN,
    PROVIDER_ARN,
    PUBLISHED,
    REGION,
    ROLE,
    TIMEOUT_S,
    adding,
    client,  # noqa: F401
    create,
    identity,
    name,  # noqa: F401
    payload,
    publish,
    serving,  # noqa: F401
    settled,
)

AWS = pathlib.Path(sys.executable).parent / "aws"


@pytest.fixture
def aws(serving, tmp_path):
    """Runs `aws lambda …` without any configuration of its own; what it printed, as JSON."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment = kept | {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }

    def run(*arguments, right=0):
        command = [sys.executable, AWS, "--endpoint-url", serving.url, "--output", "json", "lambda", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S, cwd=tmp_path)
        assert done.returncode == right, done.stderr
        if right:
            return done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    return run


def test_from_nothing_to_an_answer(aws, tmp_path, name):
    (tmp_path / "package.zip").write_bytes(adding(10))
    role = ("--role", ROLE, "--runtime", "onnx", "--zip-file", "fileb://package.zip", "--handler", "none")
    made = aws("create-function", "--function-name", name, *role, "--tags", "team=a")
    assert (made["FunctionArn"], made["State"]) == (f"{ARN}:{name}", "Pending")
    aws("wait", "function-updated", "--function-name", name)
    published = aws("publish-version", "--function-name", name, "--description", "first")
    assert published["Version"] == "1"
    aws("wait", "published-version-active", "--function-name", name, "--qualifier", "1")
    aws("create-alias", "--function-name", name, "--name", "prod", "--function-version", "1")

    (tmp_path / "payload.json").write_text(payload(1.0))
    told = aws("invoke", "--function-name", f"{name}:prod", "--payload", "file://payload.json", "--log-type", "Tail", "answer.json")
    assert (told["StatusCode"], told["ExecutedVersion"], "FunctionError" in told) == (200, "1", False)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["outputs"][0]["data"] == [11.0]

    (tmp_path / "package.zip").write_bytes(adding(20))
    updated = aws("update-function-code", "--function-name", name, "--zip-file", "fileb://package.zip", "--publish")
    assert updated["Version"] == "2"
    aws("wait", "published-version-active", "--function-name", name, "--qualifier", "2")
    moved = aws("update-alias", "--function-name", name, "--name", "prod", "--routing-config", "AdditionalVersionWeights={2=1.0}")
    assert moved["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 1.0}}
    told = aws("invoke", "--function-name", f"{ARN}:{name}", "--qualifier", "prod", "--payload", "file://payload.json", "answer.json")
    assert told["ExecutedVersion"] == "2"
    assert json.loads((tmp_path / "answer.json").read_text())["outputs"][0]["data"] == [21.0]

    found = aws("get-function", "--function-name", name)
    assert (found["Configuration"]["State"], found["Tags"]) == ("ActiveNonInvocable", {"team": "a"})
    aws("delete-alias", "--function-name", name, "--name", "prod")
    aws("delete-function", "--function-name", name)


def test_what_a_person_sees_when_it_fails(aws, client, tmp_path, name):
    told = aws("get-function", "--function-name", "nobody", right=255)
    assert f"(ResourceNotFoundException) when calling the GetFunction operation: Function not found: {ARN}:nobody" in told
    create(client, name)
    told = aws("invoke", "--function-name", name, "answer.json", right=255)
    assert "(NoPublishedVersionException)" in told and "either publish a version to $LATEST.PUBLISHED" in told
    publish(client, name)
    told = aws("invoke", "--function-name", name, "--qualifier", "1", "answer.json")
    assert (told["StatusCode"], told["FunctionError"]) == (200, "Unhandled")
    assert json.loads((tmp_path / "answer.json").read_text())["errorType"] == "InvalidInput"
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    told = aws("invoke", "--function-name", name, "--qualifier", "1", "--payload", payload(), "answer.json", right=255)
    assert "(TooManyRequestsException)" in told and "Rate Exceeded." in told


def test_lists_page_by_page(aws, client, name):
    create(client, name)
    for number in range(1, 4):
        client.update_function_code(FunctionName=name, ZipFile=identity(str(number)))
        assert publish(client, name) == str(number)
        client.create_alias(FunctionName=name, Name=f"alias-{number}", FunctionVersion=str(number))
    named = ("--function-name", name)
    listed = aws("list-versions-by-function", *named, "--page-size", "2")
    assert [one["Version"] for one in listed["Versions"]] == ["$LATEST", "1", "2", "3"]
    listed = aws("list-aliases", *named, "--page-size", "1")
    assert [one["Name"] for one in listed["Aliases"]] == ["alias-1", "alias-2", "alias-3"]
    first = aws("list-aliases", *named, "--max-items", "2")
    rest = aws("list-aliases", *named, "--starting-token", first["NextToken"])
    assert [one["Name"] for one in first["Aliases"] + rest["Aliases"]] == ["alias-1", "alias-2", "alias-3"]
    assert {name, "own"} <= {one["FunctionName"] for one in aws("list-functions", "--page-size", "1")["Functions"]}


def test_settings(aws, client, name):
    create(client, name)
    named = ("--function-name", name)
    publish(client, name, PublishTo="LATEST_PUBLISHED")
    changed = aws("update-function-configuration", *named, "--timeout", "9", "--environment", "Variables={AB=c}")
    assert (changed["Timeout"], changed["Environment"]) == (9, {"Variables": {"AB": "c"}})
    assert aws("put-function-concurrency", *named, "--reserved-concurrent-executions", "5") == {"ReservedConcurrentExecutions": 5}
    assert aws("get-function-concurrency", *named) == {"ReservedConcurrentExecutions": 5}
    scaling = "MinExecutionEnvironments=1,MaxExecutionEnvironments=2"
    told = aws("put-function-scaling-config", *named, "--qualifier", PUBLISHED, "--function-scaling-config", scaling)
    assert told["FunctionState"] == "Active"
    told = aws("get-function-scaling-config", *named, "--qualifier", PUBLISHED)
    assert told["RequestedFunctionScalingConfig"] == {"MinExecutionEnvironments": 1, "MaxExecutionEnvironments": 2}
    aws("tag-resource", "--resource", f"{ARN}:{name}", "--tags", "a=b,c=d")
    aws("untag-resource", "--resource", f"{ARN}:{name}", "--tag-keys", "a")
    assert aws("list-tags", "--resource", f"{ARN}:{name}") == {"Tags": {"c": "d"}}
    providers = aws("list-capacity-providers")["CapacityProviders"]
    assert f"{PROVIDER_ARN}:local" in [one["CapacityProviderArn"] for one in providers]
    assert aws("get-account-settings")["AccountUsage"]["FunctionCount"] >= 1
    assert settled(client, name, PUBLISHED)["State"] == "Active"
