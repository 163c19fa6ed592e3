"""Packages that are kept in a bucket too: there before they are answered for, fetched from there by a server without them, believed only if they are what they should be."""

import json
import os
import re
import shutil
import subprocess
import time

import botocore.exceptions
import pytest
from lambda_client import adding, ask, client_of, create, created, identity, invoke, magika, refused, settled, zipped
from remote_services import KEYS, NO_KEYS, endpoint, moto
from scraped import until

from conftest import PROGRAM, Server, identity_repository

BUCKET = "packages"
WAIT_S = 60


@pytest.fixture(scope="module")
def services():
    with moto() as running:
        running.client("s3").create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture
def prefix(request):
    return "of/" + re.sub("[^a-z]+", "-", request.node.name).strip("-")


@pytest.fixture
def start_on(tmp_path, services, prefix):
    """Starts servers on one data directory, with packages in the bucket."""
    models, running = identity_repository(tmp_path / "models", "own"), []

    def start(**more):
        known = {"PENSTOCK_DATA_DIR": str(tmp_path / "state"), "PENSTOCK_PACKAGES_S3_BUCKET": BUCKET, "PENSTOCK_PACKAGES_S3_PREFIX": prefix}
        running.append(Server("--model-repository", models, env=services.environment | known | more))
        return running[-1], client_of(running[-1])

    yield start
    for server in running:
        server.kill()


def keys_of(services, prefix):
    pages = services.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
    return {entry["Key"].removeprefix(f"{prefix}/"): entry["Size"] for page in pages for entry in page.get("Contents", [])}


def magika_answers(client, name):
    tensor = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [256] * 2048}
    answer = client.invoke(FunctionName=name, Qualifier="1", Payload=json.dumps({"inputs": [tensor]}))
    told = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, told
    return told["outputs"][0]["data"]


def test_a_server_without_its_packages_fetches_them(start_on, services, prefix, tmp_path):
    server, client = start_on()
    created(client, "filetype", magika())
    kept = keys_of(services, prefix)
    assert len([key for key in kept if key.startswith("blobs/")]) == 3
    assert len([key for key in kept if key.startswith("manifests/")]) == 1
    answer = magika_answers(client, "filetype")
    create(client, "other", magika())
    assert keys_of(services, prefix) == kept, "what is the same is there once"
    server.kill()

    packages = tmp_path / "state/packages"
    shutil.rmtree(packages)
    server, client = start_on()
    assert magika_answers(client, "filetype") == answer
    blobs = [path for path in packages.glob("blobs/*/*") if path.is_file()]
    assert sorted(path.stat().st_size for path in blobs) == sorted(size for key, size in kept.items() if key.startswith("blobs/"))
    assert server.stop() == 0

    # One content is damaged on disk: it is fetched again.
    largest = max(blobs, key=lambda path: path.stat().st_size)
    size = largest.stat().st_size
    largest.unlink()
    largest.write_bytes(bytes(size))
    _, client = start_on()
    assert magika_answers(client, "filetype") == answer


def test_large_contents_go_in_parts(start_on, services, prefix, tmp_path):
    content = os.urandom(40 << 20)
    server, client = start_on()
    services.client("s3").put_object(Bucket=BUCKET, Key="large.zip", Body=large(content))
    created(client, "f", Code={"S3Bucket": BUCKET, "S3Key": "large.zip"})
    assert 40 << 20 in keys_of(services, prefix).values()
    server.kill()
    shutil.rmtree(tmp_path / "state/packages")
    _, client = start_on()
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])
    (found,) = [path for path in (tmp_path / "state/packages/packages").glob("*/1/weights")]
    assert found.read_bytes() == content


def large(content):
    config = 'backend: "identity"\nmax_batch_size: 8\n'
    config += 'input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]\n'
    config += 'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]\n'
    return zipped({"config.pbtxt": config, "1/weights": content}, 0)


def test_a_corrupted_object_is_not_served(start_on, services, prefix, tmp_path):
    server, client = start_on()
    created(client, "bad", identity("bad"))
    kept = set(keys_of(services, prefix))
    created(client, "good", identity("good"))
    server.kill()
    storage = services.client("s3")
    (blob,) = [key for key in kept if key.startswith("blobs/")]
    whole = storage.get_object(Bucket=BUCKET, Key=f"{prefix}/{blob}")["Body"].read()
    storage.put_object(Bucket=BUCKET, Key=f"{prefix}/{blob}", Body=whole.replace(b"bad", b"BAD"))
    shutil.rmtree(tmp_path / "state/packages")

    server, client = start_on()
    assert invoke(client, "good", 1.5, Qualifier="1") == ("1", [1.5])
    assert any("is damaged in the storage that packages.s3_bucket names" in line and blob in line for line in server.log)
    assert ask(server, "GET", "/v2/models/bad/ready")[0] != 200
    assert server.stop() == 0

    storage.put_object(Bucket=BUCKET, Key=f"{prefix}/{blob}", Body=whole)
    _, client = start_on()
    assert invoke(client, "bad", 2.5, Qualifier="1") == ("1", [2.5])


def test_what_cannot_be_kept_there_is_not_taken(start_on, tmp_path):
    """Nothing is answered for that is not there; what was taken before is served without it."""
    server, client = start_on()
    created(client, "f")
    assert server.stop() == 0
    denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    with endpoint(lambda *_: (403, {}, denied)) as fake:
        server, client = start_on(PENSTOCK_S3_ENDPOINT_URL=fake.url)
        with refused("ServiceException", 500, "packages.s3_bucket"):
            create(client, "g", identity("g"))
        with refused("ResourceNotFoundException", 404):
            client.get_function(FunctionName="g")
        assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])
        folders = tmp_path / "state/packages/packages"
        until(lambda: len(list(folders.iterdir())) == 1, "nothing is left of it", WAIT_S)


@pytest.fixture
def gate(services):
    """The bucket behind an endpoint that can be away: it denies, or does not answer."""
    storage, said = services.client("s3"), {}

    def answer(method, path, _body):
        if "away" in said:
            return said["away"]
        key = path.removeprefix(f"/{BUCKET}/")
        try:
            found = storage.get_object(Bucket=BUCKET, Key=key)
        except storage.exceptions.NoSuchKey:
            return 404, {}, b""
        return 200, {"Last-Modified": "Thu, 26 Nov 2026 12:00:00 GMT", "ETag": found["ETag"]}, found["Body"].read()

    with endpoint(answer) as fake:
        fake.said = said
        yield fake


DENIED = (403, {}, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")


@pytest.mark.parametrize("away", [DENIED, None], ids=["denies", "hangs"])
def test_what_cannot_be_fetched_at_the_start_is_served_when_it_can_be(start_on, gate, tmp_path, away):
    """The server begins without its packages and without the storage that has them, and what needs no storage goes on."""
    server, client = start_on()
    created(client, "f", adding(1))
    created(client, "g", adding(2))
    server.kill()
    shutil.rmtree(tmp_path / "state/packages")
    gate.said["away"] = away
    server, client = start_on(PENSTOCK_S3_ENDPOINT_URL=gate.url)
    with pytest.raises(botocore.exceptions.ClientError):
        invoke(client, "f", 1.5, Qualifier="1")
    index = {one["name"]: one for one in json.loads(ask(server, "POST", "/v2/repository/index")[2])}
    assert index["f"]["state"] == "UNAVAILABLE" and "packages.s3_bucket" in index["f"]["reason"], index
    at = time.monotonic()
    client.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=3)
    client.create_alias(FunctionName="g", Name="a", FunctionVersion="1")
    assert time.monotonic() - at < 10, "nobody waits for storage who needs none"
    gate.said.clear()

    def served():
        try:
            return invoke(client, "f", 1.5, Qualifier="1"), invoke(client, "g", 1.5, Qualifier="1")
        except botocore.exceptions.ClientError:
            return None

    assert until(served, "they are served", WAIT_S) == (("1", [2.5]), ("1", [3.5]))
    client.delete_function_concurrency(FunctionName="f")
    assert served() == (("1", [2.5]), ("1", [3.5])), "and stay so"


def test_a_version_comes_up_when_its_package_can_be_fetched(start_on, gate, tmp_path):
    """It is Pending meanwhile and says why; it has not failed."""
    server, client = start_on()
    created(client, "f", adding(1))
    scaled = {"FunctionName": "f", "Qualifier": "1"}
    client.put_function_scaling_config(**scaled, FunctionScalingConfig={"MinExecutionEnvironments": 0, "MaxExecutionEnvironments": 0})
    assert settled(client, "f", "1")["State"] == "Deactivated"
    server.kill()
    shutil.rmtree(tmp_path / "state/packages")
    gate.said["away"] = DENIED
    _, client = start_on(PENSTOCK_S3_ENDPOINT_URL=gate.url)
    client.put_function_scaling_config(**scaled, FunctionScalingConfig={"MinExecutionEnvironments": 1, "MaxExecutionEnvironments": 1})

    def says_why():
        found = client.get_function_configuration(**scaled)
        assert found["State"] == "Pending", found
        return "AccessDenied" in found["StateReason"] and "tried again" in found["StateReason"]

    until(says_why, "it says what it waits for", WAIT_S)
    gate.said.clear()
    assert settled(client, "f", "1")["State"] == "Active"
    assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [2.5])


def test_a_bucket_needs_keys(tmp_path):
    settings = ["--set", f"packages.s3_bucket={BUCKET}", "--set", f"data_dir={tmp_path}/state"]
    for more, keys, words in [
        ([], NO_KEYS, "aws.credentials_file"),
        (["--set", "packages.s3_prefix=../up"], KEYS, "packages.s3_prefix: found '../up'"),
        ([], {"AWS_ACCESS_KEY_ID": "A"}, "AWS_SECRET_ACCESS_KEY: it is not set, and AWS_ACCESS_KEY_ID is"),
        (["--set", "lambda.region=Here"], KEYS, "lambda.region: found 'Here'"),
        (["--set", "s3.endpoint_url=http://me:word@host"], KEYS, "s3.endpoint_url: found 'http://***@host'"),
    ]:
        refusal = subprocess.run([PROGRAM, "serve", *settings, *more], capture_output=True, text=True, env=keys, timeout=30)
        assert refusal.returncode == 64 and words in refusal.stderr, refusal.stderr
