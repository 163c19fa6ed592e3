"""Code that lies in S3: real models are taken from there, and what is not there, not to be had or no package leaves nothing behind."""

import base64
import hashlib
import json
import pathlib
import subprocess

import pytest
from lambda_client import (
    client,  # noqa: F401
    client_of,
    create,
    gone,
    identity,
    invoke,
    magika,
    name,  # noqa: F401
    publish,
    refused,
    zipped,
)
from remote_services import KEYS, NO_KEYS, NO_SUCH_KEY, endpoint, moto
from scraped import until

from conftest import PROGRAM, Server, identity_repository

INVALID = "InvalidParameterValueException"
BUCKET = "models"
TOLD = "Error occurred while GetObject. S3 Error Code: "


@pytest.fixture(scope="module")
def services():
    with moto() as running:
        storage = running.client("s3")
        storage.create_bucket(Bucket=BUCKET)
        storage.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        yield running


@pytest.fixture(scope="module")
def storage(services):
    return services.client("s3")


@pytest.fixture(scope="module")
def serving(services, tmp_path_factory):
    models = identity_repository(tmp_path_factory.mktemp("repository"), "own")
    running = Server("--model-repository", models, env=services.environment)
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in "".join(running.log)


def files_of(server):
    top = pathlib.Path(server.data.name) / "packages"
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


def in_s3(key, bucket=BUCKET, **more):
    return {"Code": {"S3Bucket": bucket, "S3Key": key} | more}


def classes(client, name, version):
    """What magika says of some text: the number of scores."""
    values = [256] * 2048
    tensor = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": values}
    answer = client.invoke(FunctionName=name, Qualifier=version, Payload=json.dumps({"inputs": [tensor]}))
    told = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, told
    return len(told["outputs"][0]["data"])


def test_a_real_model_is_created_and_updated_from_s3(serving, client, storage, name):
    package = magika()
    first = storage.put_object(Bucket=BUCKET, Key="a folder/magika+1.zip", Body=package)["VersionId"]
    storage.put_object(Bucket=BUCKET, Key="a folder/magika+1.zip", Body=identity())
    told = create(client, name, **in_s3("a folder/magika+1.zip", S3ObjectVersion=first, S3ObjectStorageMode="COPY"))
    assert told["CodeSize"] == len(package)
    assert told["CodeSha256"] == base64.b64encode(hashlib.sha256(package).digest()).decode()
    assert publish(client, name) == "1"
    assert classes(client, name, "1") == 214

    told = client.update_function_code(FunctionName=name, **in_s3("a folder/magika+1.zip")["Code"])
    assert told["CodeSize"] == len(identity())
    assert publish(client, name) == "2"
    assert invoke(client, name, 1.5, rows=2, Qualifier="2") == ("2", [1.5, 1.5])
    assert classes(client, name, "1") == 214, "version 1 is what it was"
    assert not list((pathlib.Path(serving.data.name) / "packages/incoming").iterdir())


def altered():
    """One bit of the model is another: its checksum tells."""
    archive = bytearray(magika())
    archive[len(archive) // 2] ^= 1
    return bytes(archive)


WRONG = {
    "truncated": (lambda: magika()[: len(magika()) // 2], "Could not unzip uploaded file."),
    "altered": (altered, "Could not unzip uploaded file."),
    "not-a-zip": (lambda: b"#!/bin/sh\n", "Could not unzip uploaded file."),
    "empty": (lambda: b"", ""),
    "nothing-to-serve": (lambda: zipped({"readme.txt": "nothing"}), "The package holds nothing that can be served"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_object_that_is_no_package_leaves_nothing(serving, client, storage, name, wrong):
    before, (package, words) = files_of(serving), WRONG[wrong]
    storage.put_object(Bucket=BUCKET, Key=f"{wrong}.zip", Body=package())
    with refused(INVALID, 400, words):
        create(client, name, **in_s3(f"{wrong}.zip"))
    with refused("ResourceNotFoundException", 404):
        client.get_function(FunctionName=name)
    until(lambda: set(files_of(serving)) <= set(before), "nothing is left")


def test_what_is_not_there_is_said_in_lambdas_words(serving, client, storage, name):
    storage.put_object(Bucket=BUCKET, Key="there.zip", Body=identity())
    before = files_of(serving)
    for code, words in [
        (in_s3("not-there.zip"), NO_SUCH_KEY),
        (in_s3("there.zip", "not-there"), TOLD + "NoSuchBucket."),
        (in_s3("there.zip", S3ObjectVersion="00000000-0000-0000-0000-000000000000"), TOLD),
        (in_s3("/there.zip"), TOLD + "InvalidArgument."),
        (in_s3("there.zip", S3ObjectStorageMode="REFERENCE"), "use COPY"),
    ]:
        with refused(INVALID, 400, words):
            create(client, name, **code)
    create(client, name)
    with refused(INVALID, 400, NO_SUCH_KEY):
        client.update_function_code(FunctionName=name, S3Bucket=BUCKET, S3Key="not-there.zip")
    client.delete_function(FunctionName=name)
    gone(client, name)
    until(lambda: set(files_of(serving)) <= set(before), "nothing is left")


def test_what_is_too_large_is_refused(start, services, storage, tmp_path):
    running = start(
        "--model-repository", identity_repository(tmp_path, "own"), "--set", "packages.max_package_bytes=1048576", env=services.environment
    )
    before, client = files_of(running), client_of(running)
    storage.put_object(Bucket=BUCKET, Key="large.zip", Body=zipped({"config.pbtxt": "#" * (1 << 20)}, 0))
    with refused(INVALID, 400, "at most 1048576 are taken"):
        create(client, "f", **in_s3("large.zip"))
    storage.put_object(Bucket=BUCKET, Key="bomb.zip", Body=zipped({"config.pbtxt": "#" * (2 << 20)}))
    with refused(INVALID, 400, "Unzipped size must be smaller than 1048576 bytes"):
        create(client, "f", **in_s3("bomb.zip"))
    assert files_of(running) == before


def test_storage_that_fails(start, tmp_path):
    """Denied, cut short, redirected, not there at all: each is said, and leaves nothing."""
    head = {"Last-Modified": "Thu, 26 Nov 2026 12:00:00 GMT", "ETag": '"a"'}
    denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    answers = {
        "denied": (403, {}, denied),
        "moved": (301, {"Location": "http://127.0.0.1:1/"}, b""),
        "short": (200, head | {"Content-Length": "100000", "Connection": "close"}, identity()),
        "good": (200, head, identity()),
    }
    with endpoint(lambda _method, path, _body: answers[path.split("/")[2]]) as fake:
        running = start("--model-repository", identity_repository(tmp_path, "own"), env=KEYS | {"PENSTOCK_S3_ENDPOINT_URL": fake.url})
        before, client = files_of(running), client_of(running)
        for key, answer in [
            ("denied", (INVALID, 400, TOLD + "AccessDenied. S3 Error Message: Access Denied")),
            ("moved", (INVALID, 400, TOLD + "PermanentRedirect.")),
            ("short", ("ServiceException", 500, TOLD)),
        ]:
            with refused(*answer):
                create(client, "f", **in_s3(key))
            assert files_of(running) == before, key
        authorization = fake.asked[0][2]["authorization"]
        assert f"Credential={KEYS['AWS_ACCESS_KEY_ID']}/" in authorization and "/us-east-1/s3/" in authorization
    with refused("ServiceException", 500, "s3.endpoint_url"):
        create(client, "f", **in_s3("good"))
    assert files_of(running) == before


def test_without_keys_the_settings_are_named(start, tmp_path):
    models = identity_repository(tmp_path / "models", "own")
    client = client_of(start("--model-repository", models, env=NO_KEYS))
    with refused(INVALID, 400, "aws.credentials_file"):
        create(client, "f", **in_s3("a.zip"))


def test_keys_come_from_a_file_and_are_printed_nowhere(start, services, storage, tmp_path):
    storage.put_object(Bucket=BUCKET, Key="good.zip", Body=identity())
    file, secret = tmp_path / "credentials", KEYS["AWS_SECRET_ACCESS_KEY"]
    file.write_text(f"[work]\naws_access_key_id = {KEYS['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = {secret}\n")
    settings = ["--set", f"aws.credentials_file={file}", "--set", "aws.profile=work", "--set", f"s3.endpoint_url={services.url}"]
    running = start("--model-repository", identity_repository(tmp_path / "models", "own"), *settings, env=NO_KEYS)
    create(client_of(running), "f", **in_s3("good.zip"))

    printed = subprocess.run([PROGRAM, "config", *settings], capture_output=True, text=True, env=KEYS, timeout=30)
    assert printed.returncode == 0 and str(file) in printed.stdout and secret not in printed.stdout
    for setting, words in [
        ("aws.profile=other", "expected [other] with aws_access_key_id"),
        (f"aws.credentials_file={tmp_path}/none", "aws.credentials_file"),
        ("s3.endpoint_url=localhost:9000", "s3.endpoint_url: found 'localhost:9000', expected http"),
        ("lambda.http_destinations=example.com", "lambda.http_destinations: found 'example.com', expected http"),
    ]:
        command = [PROGRAM, "serve", *settings, "--set", setting, "--set", f"data_dir={tmp_path}/data"]
        refusal = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert refusal.returncode == 64 and words in refusal.stderr and secret not in refusal.stderr, refusal.stderr
