"""boto3 makes, looks at, changes, lists and deletes functions: every way to name one, guards, pages, waiters, and errors in Lambda's words."""

import base64
import hashlib
import io
import json
import re
import zipfile

import botocore.exceptions
import pytest
from lambda_client import (
    ACCOUNT,
    ARN,
    PROVIDER_ARN,
    PUBLISHED,
    REGION,
    ROLE,
    ask,
    client,  # noqa: F401
    client_of,
    create,
    created,
    gone,
    identity,
    invoke,
    name,  # noqa: F401
    payload,
    publish,
    refused,
    serving,  # noqa: F401
    settled,
)

from conftest import identity_repository

OF_REPOSITORY = "belongs to a model repository"


def test_a_function_is_made(client, name):
    """The answer of CreateFunction, member by member: tools compare it with what they asked for."""
    code = identity()
    made = create(client, name, code, Description="words", Tags={"team": "a"})
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert made["FunctionArn"] == f"{ARN}:{name}"
    assert (made["FunctionName"], made["Version"], made["Role"], made["Runtime"]) == (name, "$LATEST", ROLE, "onnx")
    assert made["CodeSha256"] == base64.b64encode(hashlib.sha256(code).digest()).decode()
    assert made["CodeSize"] == len(code)
    assert (made["State"], made["StateReasonCode"]) == ("Pending", "Creating")
    assert made["StateReason"] == "The function is being created."
    assert "LastUpdateStatus" not in made and "SnapStart" not in made
    assert made["RevisionId"] and made["ConfigSha256"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", made["LastModified"])
    # What nobody said.
    assert (made["Description"], made["Timeout"], made["MemorySize"]) == ("words", 3, 2048)
    assert (made["PackageType"], made["Architectures"]) == ("Zip", ["x86_64"])
    assert (made["TracingConfig"], made["EphemeralStorage"]) == ({"Mode": "PassThrough"}, {"Size": 512})
    assert made["LoggingConfig"] == {
        "LogFormat": "JSON",
        "ApplicationLogLevel": "INFO",
        "SystemLogLevel": "INFO",
        "LogGroup": f"/aws/lambda/{name}",
    }
    instances = made["CapacityProviderConfig"]["LambdaManagedInstancesCapacityProviderConfig"]
    assert instances["CapacityProviderArn"] == f"{PROVIDER_ARN}:local"
    assert instances["ExecutionEnvironmentMemoryGiBPerVCpu"] == 2.0

    client.get_waiter("function_exists").wait(FunctionName=name)
    for waiter in ("function_updated", "function_updated_v2"):
        client.get_waiter(waiter).wait(FunctionName=name)
    found = client.get_function(FunctionName=name)
    assert found["Tags"] == {"team": "a"}
    latest = found["Configuration"]
    assert (latest["State"], latest["LastUpdateStatus"]) == ("ActiveNonInvocable", "Successful")
    assert "StateReason" not in latest
    same = {key for key in made if not key.startswith(("State", "LastUpdate", "ResponseMetadata"))}
    assert {key: latest[key] for key in same} == {key: made[key] for key in same}


def test_latest_never_becomes_active(client, name):
    """As on AWS: the stock waiter for Active is for versions, not for $LATEST of a managed instances function."""
    create(client, name)
    with pytest.raises(botocore.exceptions.WaiterError, match="Max attempts exceeded"):
        client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0, "MaxAttempts": 3})


@pytest.mark.parametrize("form", ["{name}", "function:{name}", "{account}:function:{name}", "{region}:{account}:function:{name}", "{arn}"])
def test_every_way_to_name_a_function(client, name, form):
    created(client, name)
    client.create_alias(FunctionName=name, Name="prod", FunctionVersion="1")
    named = form.format(name=name, account=ACCOUNT, region=REGION, arn=f"{ARN}:{name}")

    def arn(**members):
        return client.get_function_configuration(**members)["FunctionArn"]

    assert arn(FunctionName=named) == f"{ARN}:{name}"
    for qualifier, version in (("$LATEST", "$LATEST"), ("1", "1"), ("prod", "1")):
        qualified = f"{ARN}:{name}:{qualifier}"
        assert arn(FunctionName=f"{named}:{qualifier}") == qualified
        assert arn(FunctionName=named, Qualifier=qualifier) == qualified
        assert arn(FunctionName=f"{named}:{qualifier}", Qualifier=qualifier) == qualified
        found = client.get_function(FunctionName=named, Qualifier=qualifier)
        assert found["Configuration"]["Version"] == version
        if version == "1":
            assert invoke(client, f"{named}:{qualifier}") == invoke(client, named, Qualifier=qualifier)
    disagree = "The derived qualifier from the function name does not match the specified qualifier."
    for call in (client.get_function, client.get_function_configuration, client.invoke):
        with refused("InvalidParameterValueException", 400, disagree):
            call(FunctionName=f"{named}:1", Qualifier="prod")
    client.delete_function(FunctionName=named)
    gone(client, name)


@pytest.mark.parametrize("wrong", ["a b", "f:1:2", "f:$NOTHING", "arn:aws:s3:::f", "arn:aws:lambda:us-east-1:1:layer:f", "ü", "f" * 257])
def test_names_that_are_none(client, wrong):
    for call in (client.get_function, client.invoke, client.delete_function):
        with refused("ValidationException", 400, "failed to satisfy constraint"):
            call(FunctionName=wrong)


def test_what_is_not_there(client, name):
    with refused("ResourceNotFoundException", 404, f"Function not found: {ARN}:nobody") as answer:
        client.get_function(FunctionName="nobody")
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-errortype"] == "ResourceNotFoundException"
    for call in (
        client.get_function_configuration,
        client.list_versions_by_function,
        client.list_aliases,
        client.publish_version,
        client.delete_function,
        client.get_function_concurrency,
        client.invoke,
    ):
        with refused("ResourceNotFoundException", 404, f"Function not found: {ARN}:nobody"):
            call(FunctionName="nobody")
    with refused("ResourceNotFoundException", 404):
        client.update_function_code(FunctionName="nobody", ZipFile=identity())
    with refused("ResourceNotFoundException", 404):
        client.update_function_configuration(FunctionName="nobody", Timeout=4)
    create(client, name)
    for qualifier in ("7", "prod", PUBLISHED):
        for call in (client.get_function, client.get_function_configuration):
            with refused("ResourceNotFoundException", 404, f"Function not found: {ARN}:{name}:{qualifier}"):
                call(FunctionName=name, Qualifier=qualifier)


def test_a_name_is_taken_once(client, name):
    create(client, name)
    with refused("ResourceConflictException", 409, f"Function already exist: {name}"):
        create(client, name)
    with refused("ResourceConflictException", 409, "Function already exist: own"):
        create(client, "own")


WRONG = [
    ({"FunctionName": "f" * 65}, "ValidationException", "functionName"),
    ({"FunctionName": "a.b"}, "ValidationException", "functionName"),
    ({"FunctionName": "name:1"}, "InvalidParameterValueException", ""),
    ({"Role": "nobody"}, "ValidationException", "role"),
    ({"Runtime": "python3.13"}, "InvalidParameterValueException", "python3.13"),
    ({"Runtime": "cobol"}, "ValidationException", "runtime"),
    ({"Timeout": 5401}, "ValidationException", "less than or equal to 5400"),
    ({"MemorySize": 1024}, "InvalidParameterValueException", "2048"),
    ({"MemorySize": 2049}, "InvalidParameterValueException", "multiple"),
    ({"Handler": "has space"}, "ValidationException", "handler"),
    ({"Description": "d" * 257}, "ValidationException", "description"),
    ({"Architectures": ["riscv"]}, "ValidationException", "architectures"),
    ({"Architectures": ["x86_64", "arm64"]}, "ValidationException", "architectures"),
    ({"EphemeralStorage": {"Size": 10241}}, "ValidationException", "ephemeralStorage.size"),
    ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, "InvalidParameterValueException", "AWS_REGION"),
    ({"Environment": {"Variables": {"1st": "x"}}}, "ValidationException", "environment.variables"),
    ({"Environment": {"Variables": {"LONG": "x" * 4096}}}, "InvalidParameterValueException", "4KB"),
    ({"LoggingConfig": {"LogFormat": "Text"}}, "InvalidParameterValueException", 'LogFormat is set to "Text"'),
    ({"LoggingConfig": {"SystemLogLevel": "LOUD"}}, "ValidationException", "systemLogLevel"),
    ({"TracingConfig": {"Mode": "Sometimes"}}, "ValidationException", "tracingConfig.mode"),
    ({"PackageType": "Image", "Code": {"ImageUri": "r/i:1"}}, "InvalidParameterValueException", "Image"),
    ({"PackageType": "Tar"}, "ValidationException", "packageType"),
    ({"Code": {}}, "InvalidParameterValueException", "source for function code"),
    ({"Code": {"S3Bucket": "bucket", "S3Key": "key"}}, "InvalidParameterValueException", "S3"),
    ({"Layers": [f"{ARN}:layer:1"]}, "InvalidParameterValueException", "Layers"),
    ({"VpcConfig": {"SubnetIds": ["subnet-1"]}}, "InvalidParameterValueException", "VpcConfig"),
    ({"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:1:q"}}, "InvalidParameterValueException", "DeadLetterConfig"),
    ({"FileSystemConfigs": [{"Arn": "arn:aws:elasticfilesystem:x", "LocalMountPath": "/mnt/a"}]}, "InvalidParameterValueException", "FileSystemConfigs"),
    ({"SnapStart": {"ApplyOn": "PublishedVersions"}}, "InvalidParameterValueException", "SnapStart"),
    ({"CodeSigningConfigArn": "arn:aws:lambda:us-east-1:1:code-signing-config:csc-1"}, "InvalidParameterValueException", "CodeSigning"),
    ({"Tags": {"aws:x": "y"}}, "InvalidParameterValueException", "aws:"),
    ({"Tags": {f"k{n}": "v" for n in range(51)}}, "InvalidParameterValueException", "50"),
]


@pytest.mark.parametrize(("members", "code", "says"), WRONG, ids=[f"{next(iter(m))}-{n}" for n, (m, *_) in enumerate(WRONG)])
def test_what_create_refuses(client, name, members, code, says):
    """Maximums, patterns and enums are the server's to check: the client checks minimums only. Nothing is left behind."""
    with refused(code, 400, says):
        create(client, **{"name": name, "FunctionName": name} | members)
    with refused("ResourceNotFoundException", 404):
        client.get_function(FunctionName=name)


def instances(provider="local", **more):
    arn = provider if provider.startswith("arn:") else f"{PROVIDER_ARN}:{provider}"
    return {"LambdaManagedInstancesCapacityProviderConfig": {"CapacityProviderArn": arn} | more}


@pytest.mark.parametrize(
    ("config", "code", "status", "says"),
    [
        (instances("nowhere"), "ResourceNotFoundException", 404, f"Capacity provider not found: {PROVIDER_ARN}:nowhere"),
        (instances(PerExecutionEnvironmentMaxConcurrency=1601), "ValidationException", 400, "1600"),
        (instances(ExecutionEnvironmentMemoryGiBPerVCpu=9.0), "ValidationException", 400, "between 2 and 8"),
        (instances(f"{ARN}:f"), "ValidationException", 400, "capacityProvider"),
    ],
)
def test_what_create_refuses_of_a_provider(client, name, config, code, status, says):
    with refused(code, status, says):
        create(client, name, CapacityProviderConfig=config)


def test_a_provider_without_its_block(serving, client, name):
    """boto3 would not send it; others do."""
    encoded = base64.b64encode(identity()).decode()
    body = {"FunctionName": name, "Role": ROLE, "Runtime": "onnx", "Code": {"ZipFile": encoded}, "CapacityProviderConfig": {}}
    status, headers, answer = ask(serving, "POST", "/2015-03-31/functions", body)
    assert (status, headers["x-amzn-ErrorType"]) == (400, "ValidationException")
    member = "capacityProviderConfig.lambdaManagedInstancesCapacityProviderConfig"
    assert f"'{member}'" in json.loads(answer)["message"] and "Member must not be null" in json.loads(answer)["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"3", b'{"FunctionName": 3}', b'{"FunctionName": "f", "Code": "x"}', b"\xff"])
def test_bodies_that_are_none(serving, body):
    status, headers, answer = ask(serving, "POST", "/2015-03-31/functions", body)
    assert status == 400 and headers["x-amzn-ErrorType"] and headers["x-amzn-RequestId"], answer
    told = json.loads(answer)
    assert told["message"] == told["Message"] and told["Type"] == "User"


def test_code_and_configuration_change(client, name):
    before = create(client, name)
    client.get_waiter("function_updated_v2").wait(FunctionName=name)
    revision = client.get_function_configuration(FunctionName=name)["RevisionId"]
    code = identity("OTHER")
    dry = client.update_function_code(FunctionName=name, ZipFile=code, DryRun=True, RevisionId=revision)
    assert dry["CodeSha256"] == base64.b64encode(hashlib.sha256(code).digest()).decode()
    assert client.get_function_configuration(FunctionName=name)["CodeSha256"] == before["CodeSha256"]

    after = client.update_function_code(FunctionName=name, ZipFile=code, Architectures=["arm64"], RevisionId=revision)
    assert after["CodeSha256"] == dry["CodeSha256"] != before["CodeSha256"]
    assert (after["Architectures"], after["Version"]) == (["arm64"], "$LATEST")
    stale = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
    with refused("PreconditionFailedException", 412, stale):
        client.update_function_code(FunctionName=name, ZipFile=code, RevisionId=revision)
    with refused("PreconditionFailedException", 412, stale):
        client.update_function_configuration(FunctionName=name, Timeout=4, RevisionId=revision)

    client.get_waiter("function_updated_v2").wait(FunctionName=name)
    changes = {
        "Timeout": 900,
        "MemorySize": 4096,
        "Description": "other",
        "Handler": "a.b",
        "Environment": {"Variables": {"KEY": "value"}},
        "EphemeralStorage": {"Size": 1024},
        "TracingConfig": {"Mode": "Active"},
        "Role": f"{ROLE}2",
    }
    told = client.update_function_configuration(FunctionName=name, RevisionId=after["RevisionId"], **changes)
    found = client.get_function_configuration(FunctionName=name)
    for answer in (told, found):
        assert {key: answer[key] for key in changes} == changes
        assert answer["CodeSha256"] == after["CodeSha256"]
    assert (found["State"], found["LastUpdateStatus"]) == ("ActiveNonInvocable", "Successful")
    assert found["ConfigSha256"] != before["ConfigSha256"]
    with refused("ValidationException", 400, "timeout"):
        client.update_function_configuration(FunctionName=name, Timeout=5401)
    with refused("InvalidParameterValueException", 400, "ImageUri"):
        client.update_function_code(FunctionName=name, ImageUri="repository/image:1")
    assert client.get_function_configuration(FunctionName=name)["RevisionId"] == found["RevisionId"]


def test_updates_that_publish(client, name):
    made = create(client, name, Publish=True)
    assert (made["Version"], made["FunctionArn"]) == ("1", f"{ARN}:{name}:1")
    assert settled(client, name, "1")["State"] == "Active"
    told = client.update_function_code(FunctionName=name, ZipFile=identity("OTHER"), Publish=True)
    assert (told["Version"], told["FunctionArn"], told["State"]) == ("2", f"{ARN}:{name}:2", "Pending")
    assert settled(client, name, "2")["State"] == "Active"
    again = client.update_function_code(FunctionName=name, ZipFile=identity("THIRD"), Publish=True, PublishTo="LATEST_PUBLISHED")
    assert again["Version"] == PUBLISHED
    assert settled(client, name, PUBLISHED)["State"] == "Active"
    assert invoke(client, name)[0] == PUBLISHED


def test_a_refused_creation_leaves_nothing(client, name):
    with refused("ValidationException", 400, "'publishTo'"):
        create(client, name, Publish=True, PublishTo="ELSEWHERE")
    with refused("ResourceNotFoundException", 404):
        client.get_function(FunctionName=name)


def test_a_refused_update_changes_nothing(client, name):
    before = create(client, name)["CodeSha256"]
    with refused("ValidationException", 400, "'publishTo'"):
        client.update_function_code(FunctionName=name, ZipFile=identity("OTHER"), Publish=True, PublishTo="ELSEWHERE")
    assert client.get_function_configuration(FunctionName=name)["CodeSha256"] == before


def test_the_code_can_be_had_again(serving, client, name):
    """`Location` of GetFunction leads to the files that were uploaded, of $LATEST and of each version."""
    created(client, name, identity("FIRST"))
    client.update_function_code(FunctionName=name, ZipFile=identity("SECOND"))
    for qualifier, output in ((None, b"SECOND"), ("1", b"FIRST")):
        named = {"FunctionName": name} | ({"Qualifier": qualifier} if qualifier else {})
        code = client.get_function(**named)["Code"]
        assert code["RepositoryType"] == "S3" and code["Location"].startswith(serving.url)
        status, _, body = ask(serving, "GET", code["Location"].removeprefix(serving.url))
        assert status == 200
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            assert archive.namelist() == ["config.pbtxt"] and output in archive.read("config.pbtxt")


def test_pages_of_functions(client, name):
    """By name, without gaps or repeats, whatever the size of a page; versions too when they are asked for."""
    own = [f"{name}-{n}" for n in range(5)]
    try:
        for one in own:
            create(client, one)
        publish(client, own[2])
        for size in (1, 2, 3, 50, 10_000):
            pages = client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": size})
            names = [one["FunctionName"] for page in pages for one in page["Functions"]]
            assert names == sorted(names) and len(set(names)) == len(names)
            assert {*own, "own"} <= set(names)
        first = client.list_functions(MaxItems=2)
        assert len(first["Functions"]) == 2 and first["NextMarker"]
        assert "NextMarker" not in client.list_functions()
        assert all("State" not in one and "LastUpdateStatus" not in one for one in client.list_functions()["Functions"])
        listed = client.list_functions(FunctionVersion="ALL")["Functions"]
        versions = [one["Version"] for one in listed if one["FunctionName"] == own[2]]
        assert sorted(versions) == ["$LATEST", "1"]
        kept = client.get_paginator("list_functions").paginate(PaginationConfig={"MaxItems": 3, "PageSize": 2}).build_full_result()
        assert len(kept["Functions"]) == 3 and kept["NextToken"]
    finally:
        for one in own:
            client.delete_function(FunctionName=one)


def test_a_function_is_deleted(serving, client, name):
    created(client, name)
    client.create_alias(FunctionName=name, Name="prod", FunctionVersion="1")
    client.publish_version(FunctionName=name, PublishTo="LATEST_PUBLISHED")
    settled(client, name, PUBLISHED)
    with refused("InvalidParameterValueException", 400, "$LATEST version cannot be deleted without deleting the function."):
        client.delete_function(FunctionName=name, Qualifier="$LATEST")
    answer = client.delete_function(FunctionName=name)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == answer["StatusCode"] == 202
    gone(client, name)
    for qualifier in ("1", "prod", PUBLISHED, "$LATEST"):
        with refused("ResourceNotFoundException", 404):
            client.invoke(FunctionName=name, Qualifier=qualifier, Payload=payload())
    assert ask(serving, "GET", f"/v2/models/{name}")[0] == 404
    with refused("ResourceNotFoundException", 404):
        client.delete_function(FunctionName=name)
    # The name is free, and numbers begin anew.
    created(client, name)


def test_functions_of_a_repository_can_be_looked_at_and_invoked_only(client):
    own = client.get_function(FunctionName="own")["Configuration"]
    assert (own["FunctionName"], own["State"]) == ("own", "Active")
    assert client.get_function_configuration(FunctionName="own", Qualifier="1")["FunctionArn"] == f"{ARN}:own:1"
    assert [one["Version"] for one in client.list_versions_by_function(FunctionName="own")["Versions"]] == ["1"]
    assert invoke(client, "own") == invoke(client, "own", Qualifier="1") == ("1", [1.5, 2.5])
    changes = [
        (client.update_function_code, {"ZipFile": identity()}),
        (client.update_function_configuration, {"Timeout": 4}),
        (client.publish_version, {}),
        (client.delete_function, {}),
        (client.delete_function, {"Qualifier": "1"}),
        (client.create_alias, {"Name": "prod", "FunctionVersion": "1"}),
        (client.put_function_concurrency, {"ReservedConcurrentExecutions": 1}),
        (client.put_function_event_invoke_config, {"MaximumRetryAttempts": 1}),
    ]
    for call, members in changes:
        with refused("ResourceConflictException", 409, OF_REPOSITORY):
            call(FunctionName="own", **members)
    with refused("ResourceConflictException", 409, OF_REPOSITORY):
        client.tag_resource(Resource=f"{ARN}:own", Tags={"a": "b"})
    assert invoke(client, "own") == ("1", [1.5, 2.5])


def test_reads_of_a_function_of_a_repository(client):
    client.list_tags(Resource=f"{ARN}:own")
    client.get_function_concurrency(FunctionName="own")
    client.list_function_event_invoke_configs(FunctionName="own")


UNSUPPORTED = [
    ("list_layers", {}),
    ("publish_layer_version", {"LayerName": "l", "Content": {"ZipFile": b"x"}}),
    ("get_layer_version", {"LayerName": "l", "VersionNumber": 1}),
    ("list_code_signing_configs", {}),
    ("get_function_code_signing_config", {"FunctionName": "own"}),
    ("create_function_url_config", {"FunctionName": "own", "AuthType": "NONE"}),
    ("get_function_url_config", {"FunctionName": "own"}),
    ("list_function_url_configs", {"FunctionName": "own"}),
    ("list_event_source_mappings", {}),
    ("create_event_source_mapping", {"FunctionName": "own", "EventSourceArn": "arn:aws:sqs:us-east-1:000000000000:q"}),
    ("add_permission", {"FunctionName": "own", "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*"}),
    ("get_policy", {"FunctionName": "own"}),
    ("remove_permission", {"FunctionName": "own", "StatementId": "s"}),
    ("get_function_recursion_config", {"FunctionName": "own"}),
    ("get_runtime_management_config", {"FunctionName": "own"}),
    ("put_provisioned_concurrency_config", {"FunctionName": "own", "Qualifier": "1", "ProvisionedConcurrentExecutions": 1}),
    ("list_provisioned_concurrency_configs", {"FunctionName": "own"}),
    ("invoke_async", {"FunctionName": "own", "InvokeArgs": b"{}"}),
]


@pytest.mark.parametrize(("operation", "members"), UNSUPPORTED, ids=[operation for operation, _ in UNSUPPORTED])
def test_operations_that_are_not_offered(client, operation, members):
    """An error of the caller, which no client sends again, in the shape of all errors."""
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        getattr(client, operation)(**members)
    metadata = raised.value.response["ResponseMetadata"]
    assert 400 <= metadata["HTTPStatusCode"] < 500
    assert raised.value.response["Error"]["Message"]
    assert metadata["HTTPHeaders"]["x-amzn-errortype"] and metadata["RequestId"]


def test_every_answer_has_an_id_and_errors_have_both_messages(serving):
    """Other SDKs than boto3 look for `message` or for `Message`, as each shape has it."""
    paths = [
        ("GET", "/2015-03-31/functions", 200),
        ("GET", "/2015-03-31/functions/own", 200),
        ("GET", "/2016-08-19/account-settings", 200),
        ("GET", "/2015-03-31/functions/nobody", 404),
        ("GET", "/2015-03-31/functions/a%20b", 400),
        ("PATCH", "/2015-03-31/functions", 404),
        ("GET", "/2018-10-31/layers", 404),
        ("POST", "/2015-03-31/functions/nobody/invocations", 404),
        ("GET", "/2019-09-30/functions/nobody/concurrency", 404),
        ("GET", "/2017-10-31/functions/own/concurrency", 404),
    ]
    seen = set()
    for method, path, right in paths:
        status, headers, body = ask(serving, method, path)
        assert status == right, (method, path, status, body)
        seen.add(headers["x-amzn-RequestId"])
        assert headers["Content-Type"] == "application/json"
        told = json.loads(body)
        if status >= 400:
            assert headers["x-amzn-ErrorType"].endswith("Exception")
            assert told["message"] == told["Message"] and told["Type"] == "User"
    assert None not in seen and len(seen) == len(paths)


def test_a_body_that_is_too_large(client, name):
    with refused("RequestEntityTooLargeException", 413, "Request must be smaller than 70167211 bytes for the CreateFunction operation"):
        create(client, name, bytes(56 << 20))


def test_all_of_it_survives_the_death_of_the_server(tmp_path, start):
    """kill -9, and another server on the same data: functions, versions, aliases and settings are there, and serve."""
    folder, env = identity_repository(tmp_path / "repository", "own"), {"PENSTOCK_DATA_DIR": str(tmp_path / "data")}
    first = start("--model-repository", folder, env=env)
    client = client_of(first)
    created(client, "f", identity("FIRST"), Tags={"a": "b"}, Description="kept")
    client.update_function_code(FunctionName="f", ZipFile=identity("SECOND"))
    assert publish(client, "f") == "2"
    publish(client, "f", PublishTo="LATEST_PUBLISHED")
    client.create_alias(FunctionName="f", Name="prod", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.0}})
    client.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=7)
    client.create_capacity_provider(
        CapacityProviderName="p",
        VpcConfig={"SubnetIds": ["subnet-a"], "SecurityGroupIds": []},
        PermissionsConfig={"CapacityProviderOperatorRoleArn": ROLE},
    )
    none = {"MinExecutionEnvironments": 0, "MaxExecutionEnvironments": 0}
    client.put_function_scaling_config(FunctionName="f", Qualifier="2", FunctionScalingConfig=none)
    assert settled(client, "f", "2")["State"] == "Deactivated"

    def everything(client):
        told = [
            client.get_function(FunctionName="f"),
            client.list_versions_by_function(FunctionName="f"),
            client.list_aliases(FunctionName="f"),
            client.get_capacity_provider(CapacityProviderName="p"),
            *(client.get_function_configuration(FunctionName="f", Qualifier=q) for q in ("1", "2", PUBLISHED)),
        ]
        for one in told:
            del one["ResponseMetadata"]
        told[0]["Code"].pop("Location")
        return told

    before = everything(client)
    first.kill()
    client = client_of(start("--model-repository", folder, env=env))
    assert everything(client) == before
    for qualifier, version in (("1", "1"), ("prod", "1"), (PUBLISHED, PUBLISHED)):
        assert invoke(client, "f", Qualifier=qualifier) == (version, [1.5, 2.5])
    with refused("ResourceConflictException", 409, "Deactivated"):
        client.invoke(FunctionName="f", Qualifier="2", Payload=payload())
    assert invoke(client, "own") == ("1", [1.5, 2.5])
    # And goes on from where it was.
    client.update_function_code(FunctionName="f", ZipFile=identity("THIRD"))
    assert publish(client, "f") == "3"
