"""boto3 and what is set beside functions: capacity providers, environments of a version, reserved concurrency, tags, the account, event-invoke configurations."""

import datetime

import pytest
from lambda_client import (
    ARN,
    PROVIDER_ARN,
    PUBLISHED,
    ROLE,
    client,  # noqa: F401
    create,
    created,
    identity,
    invoke,
    name,  # noqa: F401
    payload,
    publish,
    refused,
    serving,  # noqa: F401
    settled,
)
from scraped import until

OFF = {"MinExecutionEnvironments": 0, "MaxExecutionEnvironments": 0}
ON = {"MinExecutionEnvironments": 1, "MaxExecutionEnvironments": 2}


def provide(client, name, **more):
    """CreateCapacityProvider with what it needs."""
    members = {
        "CapacityProviderName": name,
        "VpcConfig": {"SubnetIds": ["subnet-a1"], "SecurityGroupIds": ["sg-1"]},
        "PermissionsConfig": {"CapacityProviderOperatorRoleArn": ROLE},
    }
    return client.create_capacity_provider(**members | more)


@pytest.fixture
def provider(client, name):
    """A provider of the test's own."""
    provide(client, name)
    yield name
    until(lambda: deleted(client, name), "the provider can be deleted")


def deleted(client, name):
    try:
        client.delete_capacity_provider(CapacityProviderName=name)
    except client.exceptions.ResourceNotFoundException:
        return True
    except client.exceptions.ResourceConflictException:
        return False
    return True


def on(provider):
    return {"LambdaManagedInstancesCapacityProviderConfig": {"CapacityProviderArn": f"{PROVIDER_ARN}:{provider}"}}


def test_a_capacity_provider(client, name):
    requirements = {"Architectures": ["x86_64"], "AllowedInstanceTypes": ["h200.*", "local-gpu-1"]}
    policies = [{"PredefinedMetricType": "LambdaCapacityProviderAverageGPUUtilization", "TargetValue": 55.5}]
    scaling = {"MaxVCpuCount": 64, "ScalingMode": "Manual", "ScalingPolicies": policies}
    answer = provide(client, name, InstanceRequirements=requirements, CapacityProviderScalingConfig=scaling, Tags={"a": "b"})
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    made = answer["CapacityProvider"]
    assert (made["CapacityProviderArn"], made["State"]) == (f"{PROVIDER_ARN}:{name}", "Active")
    assert (made["InstanceRequirements"], made["CapacityProviderScalingConfig"]) == (requirements, scaling)
    assert made["VpcConfig"] == {"SubnetIds": ["subnet-a1"], "SecurityGroupIds": ["sg-1"]}
    assert made["PermissionsConfig"] == {"CapacityProviderOperatorRoleArn": ROLE} and made["LastModified"]
    for named in (name, f"{PROVIDER_ARN}:{name}"):
        assert client.get_capacity_provider(CapacityProviderName=named)["CapacityProvider"] == made
    assert client.list_tags(Resource=made["CapacityProviderArn"])["Tags"] == {"a": "b"}

    with refused("ResourceConflictException", 409, name):
        provide(client, name)
    changed = client.update_capacity_provider(CapacityProviderName=name, CapacityProviderScalingConfig={"MaxVCpuCount": 128})
    assert changed["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert changed["CapacityProvider"]["CapacityProviderScalingConfig"]["MaxVCpuCount"] == 128
    assert changed["CapacityProvider"]["InstanceRequirements"] == requirements

    gone = client.delete_capacity_provider(CapacityProviderName=name)
    assert (gone["ResponseMetadata"]["HTTPStatusCode"], gone["CapacityProvider"]["State"]) == (202, "Deleting")
    for call in (client.get_capacity_provider, client.delete_capacity_provider, client.update_capacity_provider):
        with refused("ResourceNotFoundException", 404, f"Capacity provider not found: {PROVIDER_ARN}:{name}"):
            call(CapacityProviderName=name)


WRONG = [
    ({"CapacityProviderName": "a b"}, "ValidationException"),
    ({"CapacityProviderName": "p" * 141}, "ValidationException"),
    ({"VpcConfig": {"SubnetIds": ["net-1"], "SecurityGroupIds": []}}, "ValidationException"),
    ({"VpcConfig": {"SubnetIds": [f"subnet-{n}" for n in range(17)], "SecurityGroupIds": []}}, "ValidationException"),
    ({"VpcConfig": {"SubnetIds": ["subnet-a"], "SecurityGroupIds": [f"sg-{n}" for n in range(6)]}}, "ValidationException"),
    ({"PermissionsConfig": {"CapacityProviderOperatorRoleArn": "nobody"}}, "ValidationException"),
    ({"InstanceRequirements": {"AllowedInstanceTypes": ["a b"]}}, "ValidationException"),
    ({"InstanceRequirements": {"AllowedInstanceTypes": ["a.*"], "ExcludedInstanceTypes": ["b.*"]}}, "InvalidParameterValueException"),
    ({"CapacityProviderScalingConfig": {"MaxVCpuCount": 15_001}}, "ValidationException"),
    ({"CapacityProviderScalingConfig": {"ScalingMode": "Sometimes"}}, "ValidationException"),
    (
        {"CapacityProviderScalingConfig": {"ScalingPolicies": [{"PredefinedMetricType": "Mood", "TargetValue": 1.0}]}},
        "ValidationException",
    ),
    (
        {
            "CapacityProviderScalingConfig": {
                "ScalingPolicies": [{"PredefinedMetricType": "LambdaCapacityProviderAverageCPUUtilization", "TargetValue": 101.0}]
            }
        },
        "ValidationException",
    ),
    ({"Tags": {"aws:a": "b"}}, "InvalidParameterValueException"),
]


@pytest.mark.parametrize(("members", "code"), WRONG, ids=[f"{next(iter(m))}-{n}" for n, (m, _) in enumerate(WRONG)])
def test_what_providers_refuse(client, name, members, code):
    with refused(code, 400):
        provide(client, **{"name": name} | members)
    with refused("ResourceNotFoundException", 404):
        client.get_capacity_provider(CapacityProviderName=name)


def test_what_never_changes_of_a_provider(client, provider):
    """boto3 has no such members: a bare request."""
    from botocore.awsrequest import AWSRequest
    from botocore.httpsession import URLLib3Session

    url = f"{client.meta.endpoint_url}/2025-11-30/capacity-providers/{provider}"
    body = b'{"VpcConfig": {"SubnetIds": ["subnet-b"], "SecurityGroupIds": []}}'
    answer = URLLib3Session().send(AWSRequest("PUT", url, data=body).prepare())
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (400, "InvalidParameterValueException")
    found = client.get_capacity_provider(CapacityProviderName=provider)["CapacityProvider"]
    assert found["VpcConfig"]["SubnetIds"] == ["subnet-a1"]


def test_this_machine_is_a_provider(client):
    local = client.get_capacity_provider(CapacityProviderName="local")["CapacityProvider"]
    assert (local["CapacityProviderArn"], local["State"]) == (f"{PROVIDER_ARN}:local", "Active")
    with refused("ResourceConflictException", 409):
        client.delete_capacity_provider(CapacityProviderName="local")
    with refused("ResourceConflictException", 409):
        provide(client, "local")


def test_a_provider_in_use_stays(client, name, provider):
    create(client, name, CapacityProviderConfig=on(provider))
    publish(client, name)
    with refused("ResourceConflictException", 409, name):
        client.delete_capacity_provider(CapacityProviderName=provider)
    publish(client, name, PublishTo="LATEST_PUBLISHED")
    client.update_function_configuration(FunctionName=name, Timeout=4)
    publish(client, name)
    found = client.list_function_versions_by_capacity_provider(CapacityProviderName=provider)
    assert found["CapacityProviderArn"] == f"{PROVIDER_ARN}:{provider}"
    versions = {(one["FunctionArn"], one["State"]) for one in found["FunctionVersions"]}
    assert versions == {(f"{ARN}:{name}:{version}", "Active") for version in ("1", "2", PUBLISHED)}
    for size in (1, 2):
        pages = client.get_paginator("list_function_versions_by_capacity_provider").paginate(
            CapacityProviderName=provider, PaginationConfig={"PageSize": size}
        )
        paged = [(one["FunctionArn"], one["State"]) for page in pages for one in page["FunctionVersions"]]
        assert len(paged) == 3 and set(paged) == versions
    with refused("ResourceNotFoundException", 404):
        client.list_function_versions_by_capacity_provider(CapacityProviderName="nowhere")
    client.delete_function(FunctionName=name)


def test_pages_of_providers(client, name):
    own = [f"{name}-{n}" for n in range(3)]
    try:
        for one in own:
            provide(client, one)
        for size in (1, 2, 50):
            pages = client.get_paginator("list_capacity_providers").paginate(PaginationConfig={"PageSize": size})
            arns = [one["CapacityProviderArn"] for page in pages for one in page["CapacityProviders"]]
            assert arns == sorted(set(arns)) and {f"{PROVIDER_ARN}:{one}" for one in [*own, "local"]} <= set(arns)
        assert client.list_capacity_providers(State="Failed")["CapacityProviders"] == []
        assert len(client.list_capacity_providers(State="Active")["CapacityProviders"]) == 4
    finally:
        for one in own:
            client.delete_capacity_provider(CapacityProviderName=one)


def test_a_version_is_put_to_rest_and_woken(client, name):
    created(client, name)
    publish(client, name, PublishTo="LATEST_PUBLISHED")
    told = client.put_function_scaling_config(FunctionName=name, Qualifier="1", FunctionScalingConfig=OFF)
    assert (told["ResponseMetadata"]["HTTPStatusCode"], told["FunctionState"]) == (202, "Deactivating")
    assert settled(client, name, "1")["State"] == "Deactivated"
    scaling = client.get_function_scaling_config(FunctionName=name, Qualifier="1")
    assert scaling["FunctionArn"] == f"{ARN}:{name}:1"
    assert scaling["AppliedFunctionScalingConfig"] == scaling["RequestedFunctionScalingConfig"] == OFF
    state = "The operation cannot be performed at this time. The function is currently in the following state: Deactivated"
    for _ in range(2):  # no call wakes it
        with refused("ResourceConflictException", 409, state):
            client.invoke(FunctionName=name, Qualifier="1", Payload=payload())
    told = client.put_function_scaling_config(FunctionName=name, Qualifier="1", FunctionScalingConfig=ON)
    assert told["FunctionState"] == "Pending"
    assert settled(client, name, "1")["State"] == "Active"
    assert client.get_function_scaling_config(FunctionName=name, Qualifier="1")["AppliedFunctionScalingConfig"] == ON
    assert invoke(client, name, Qualifier="1") == ("1", [1.5, 2.5])


def test_the_only_version_is_put_to_rest(serving, client, name):
    before = len(serving.environments())
    created(client, name)
    client.put_function_scaling_config(FunctionName=name, Qualifier="1", FunctionScalingConfig=OFF)
    assert settled(client, name, "1")["State"] == "Deactivated"
    with refused("ResourceConflictException", 409, "Deactivated"):
        client.invoke(FunctionName=name, Qualifier="1", Payload=payload())
    until(lambda: len(serving.environments()) == before, "its environment ends")


def test_more_environments(serving, client, name):
    """Two environments are two processes more than none."""
    before = len(serving.environments())
    created(client, name)
    for count in (2, 1):
        config = {"MinExecutionEnvironments": count, "MaxExecutionEnvironments": 3}
        told = client.put_function_scaling_config(FunctionName=name, Qualifier="1", FunctionScalingConfig=config)
        assert told["FunctionState"] == "Active"
        until(lambda: len(serving.environments()) == before + count, f"{count} environments")  # noqa: B023
        assert invoke(client, name, Qualifier="1")[0] == "1"


def test_what_scaling_refuses(client, name):
    created(client, name)
    client.create_alias(FunctionName=name, Name="prod", FunctionVersion="1")

    def wrong(code, status, qualifier="1", **config):
        with refused(code, status):
            client.put_function_scaling_config(FunctionName=name, Qualifier=qualifier, FunctionScalingConfig=config)

    for qualifier in ("prod", "$LATEST"):
        wrong("ValidationException", 400, qualifier, **ON)
        with refused("ValidationException", 400, "qualifier"):
            client.get_function_scaling_config(FunctionName=name, Qualifier=qualifier)
    for qualifier in ("7", PUBLISHED):
        wrong("ResourceNotFoundException", 404, qualifier, **ON)
    wrong("InvalidParameterValueException", 400, MinExecutionEnvironments=3, MaxExecutionEnvironments=2)
    wrong("InvalidParameterValueException", 400, MinExecutionEnvironments=0)
    wrong("ValidationException", 400, MinExecutionEnvironments=1, MaxExecutionEnvironments=15_001)
    assert settled(client, name, "1")["State"] == "Active"


def test_the_scaling_of_latest_published_carries_over(client, name):
    create(client, name)
    publish(client, name, PublishTo="LATEST_PUBLISHED")
    client.put_function_scaling_config(FunctionName=name, Qualifier=PUBLISHED, FunctionScalingConfig=ON)
    client.update_function_code(FunctionName=name, ZipFile=identity("other"))
    publish(client, name, PublishTo="LATEST_PUBLISHED")
    scaling = client.get_function_scaling_config(FunctionName=name, Qualifier=PUBLISHED)
    assert scaling["RequestedFunctionScalingConfig"] == ON


def test_what_was_put_to_rest_is_not_woken_by_publishing(client, name):
    create(client, name)
    publish(client, name, PublishTo="LATEST_PUBLISHED")
    client.put_function_scaling_config(FunctionName=name, Qualifier=PUBLISHED, FunctionScalingConfig=OFF)
    assert settled(client, name, PUBLISHED)["State"] == "Deactivated"
    client.update_function_code(FunctionName=name, ZipFile=identity("other"), Publish=True, PublishTo="LATEST_PUBLISHED")
    assert settled(client, name, PUBLISHED)["State"] == "Deactivated"


def test_reserved_concurrency(client, name):
    create(client, name)
    assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(FunctionName=name)
    assert "Concurrency" not in client.get_function(FunctionName=name)
    all_of_it = client.get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
    for reserved in (0, 7):
        told = client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=reserved)
        assert (told["ResponseMetadata"]["HTTPStatusCode"], told["ReservedConcurrentExecutions"]) == (200, reserved)
        assert client.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == reserved
        assert client.get_function(FunctionName=name)["Concurrency"] == {"ReservedConcurrentExecutions": reserved}
        limits = client.get_account_settings()["AccountLimit"]
        assert limits["UnreservedConcurrentExecutions"] == all_of_it - reserved
    floor = "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of ["
    with refused("InvalidParameterValueException", 400, floor):
        client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=all_of_it)
    with refused("InvalidParameterValueException", 400):
        client.put_function_concurrency(FunctionName=f"{name}:1", ReservedConcurrentExecutions=1)
    for call in (client.delete_function_concurrency, client.get_function_concurrency):
        with refused("ResourceNotFoundException", 404):
            call(FunctionName="nobody")
    assert client.delete_function_concurrency(FunctionName=name)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(FunctionName=name)


def test_tags(client, name):
    create(client, name, Tags={"a": "1"})
    arn = f"{ARN}:{name}"
    told = client.tag_resource(Resource=arn, Tags={"b c": "2", "empty": ""})
    assert told["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert client.list_tags(Resource=arn)["Tags"] == {"a": "1", "b c": "2", "empty": ""}
    assert client.get_function(FunctionName=name)["Tags"] == {"a": "1", "b c": "2", "empty": ""}
    told = client.untag_resource(Resource=arn, TagKeys=["b c", "empty", "nothing"])
    assert told["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert client.list_tags(Resource=arn)["Tags"] == {"a": "1"}

    for wrong in ({"k" * 129: "v"}, {"k": "v" * 257}, {"aws:k": "v"}, {f"k{n}": "v" for n in range(50)}):
        with refused("InvalidParameterValueException", 400):
            client.tag_resource(Resource=arn, Tags=wrong)
    assert client.list_tags(Resource=arn)["Tags"] == {"a": "1"}
    qualified = "Tags on function aliases and versions are not supported. Please specify a function ARN."
    with refused("InvalidParameterValueException", 400, qualified):
        client.list_tags(Resource=f"{arn}:1")
    with refused("InvalidParameterValueException", 400, qualified):
        client.tag_resource(Resource=f"{arn}:prod", Tags={"k": "v"})
    for missing in (f"{ARN}:nobody", f"{PROVIDER_ARN}:nowhere"):
        with refused("ResourceNotFoundException", 404):
            client.list_tags(Resource=missing)


def test_tags_of_a_provider(client, provider):
    arn = f"{PROVIDER_ARN}:{provider}"
    client.tag_resource(Resource=arn, Tags={"a": "1", "b": "2"})
    client.untag_resource(Resource=arn, TagKeys=["a"])
    assert client.list_tags(Resource=arn)["Tags"] == {"b": "2"}


def test_the_account(client, name):
    before = client.get_account_settings()
    limits = before["AccountLimit"]
    members = ("TotalCodeSize", "CodeSizeUnzipped", "CodeSizeZipped", "ConcurrentExecutions", "UnreservedConcurrentExecutions")
    assert all(limits[member] > 0 for member in members)
    size = created(client, name) and client.get_function_configuration(FunctionName=name)["CodeSize"]
    usage = client.get_account_settings()["AccountUsage"]
    assert usage["FunctionCount"] == before["AccountUsage"]["FunctionCount"] + 1
    assert usage["TotalCodeSize"] == before["AccountUsage"]["TotalCodeSize"] + 2 * size


def test_event_invoke_configurations(serving, client, name):
    created(client, name)
    client.create_alias(FunctionName=name, Name="prod", FunctionVersion="1")
    folder = f"file://{serving.data.name}/destinations"
    destinations = {"OnSuccess": {"Destination": f"{folder}/done"}, "OnFailure": {"Destination": f"{folder}/failed"}}
    told = client.put_function_event_invoke_config(
        FunctionName=name, Qualifier="prod", MaximumRetryAttempts=1, MaximumEventAgeInSeconds=60, DestinationConfig=destinations
    )
    assert told["FunctionArn"] == f"{ARN}:{name}:prod" and isinstance(told["LastModified"], datetime.datetime)
    members = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig")
    assert [told[member] for member in members] == [1, 60, destinations]

    # Update keeps what it does not name, Put does not.
    updated = client.update_function_event_invoke_config(FunctionName=name, Qualifier="prod", MaximumRetryAttempts=0)
    assert [updated[member] for member in members] == [0, 60, destinations]
    put = client.put_function_event_invoke_config(FunctionName=name, Qualifier="prod", MaximumEventAgeInSeconds=21_600)
    assert "MaximumRetryAttempts" not in put and put["DestinationConfig"] == {"OnSuccess": {}, "OnFailure": {}}
    found = client.get_function_event_invoke_config(FunctionName=name, Qualifier="prod")
    assert found["MaximumEventAgeInSeconds"] == 21_600 and found["LastModified"] == put["LastModified"]

    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=2)
    assert client.get_function_event_invoke_config(FunctionName=name)["FunctionArn"] == f"{ARN}:{name}:$LATEST"
    for size in (1, 50):
        pages = client.get_paginator("list_function_event_invoke_configs").paginate(FunctionName=name, PaginationConfig={"PageSize": size})
        arns = [one["FunctionArn"] for page in pages for one in page["FunctionEventInvokeConfigs"]]
        assert sorted(arns) == [f"{ARN}:{name}:$LATEST", f"{ARN}:{name}:prod"]
    told = client.delete_function_event_invoke_config(FunctionName=name, Qualifier="prod")
    assert told["ResponseMetadata"]["HTTPStatusCode"] == 204

    missing = f"The function {ARN}:{name}:prod doesn't have an EventInvokeConfig"
    with refused("ResourceNotFoundException", 404, missing):
        client.get_function_event_invoke_config(FunctionName=name, Qualifier="prod")
    with refused("ResourceNotFoundException", 404, missing):
        client.delete_function_event_invoke_config(FunctionName=name, Qualifier="prod")
    with refused("ResourceNotFoundException", 404, missing):
        client.update_function_event_invoke_config(FunctionName=name, Qualifier="prod", MaximumRetryAttempts=1)


def test_what_event_invoke_configurations_refuse(serving, client, name):
    create(client, name)
    with refused("InvalidParameterValueException", 400, "You must specify at least one of error handling or destination setting."):
        client.put_function_event_invoke_config(FunctionName=name)
    wrong = [{"MaximumRetryAttempts": 3}, {"MaximumEventAgeInSeconds": 21_601}, {"DestinationConfig": {"OnFailure": {"Destination": "here"}}}]
    elsewhere = ["/etc/passwd", f"{serving.data.name}/state/state.redb", f"{serving.data.name}/destinations/../x"]
    wrong += [{"DestinationConfig": {"OnFailure": {"Destination": f"file://{path}"}}} for path in elsewhere]
    for members in wrong:
        with refused("ValidationException", 400):
            client.put_function_event_invoke_config(FunctionName=name, **members)
    with refused("ResourceNotFoundException", 404):
        client.put_function_event_invoke_config(FunctionName="nobody", MaximumRetryAttempts=1)
    assert client.list_function_event_invoke_configs(FunctionName=name)["FunctionEventInvokeConfigs"] == []
