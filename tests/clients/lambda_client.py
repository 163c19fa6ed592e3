"""What the tests of Lambda's API share: boto3 clients of a server, packages, functions of a test's own, and waiting for them."""

import contextlib
import io
import json
import re
import urllib.error
import urllib.request
import zipfile

import boto3
import botocore.config
import botocore.exceptions
import onnx
import pytest
from scraped import until

from conftest import CACHE, Server, identity_repository

REGION, ACCOUNT = "us-east-1", "000000000000"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/any"
ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function"
PROVIDER_ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:capacity-provider"
PUBLISHED = "$LATEST.PUBLISHED"
MAGIKA = CACHE / "models/magika"
TIMEOUT_S = 30
ROWS = 4


def client_of(server, attempts=1, **options):
    """A client as people make it; it gives up after one attempt unless told otherwise."""
    settings = {"retries": {"total_max_attempts": attempts, "mode": "standard"}, "read_timeout": TIMEOUT_S} | options
    return boto3.client(
        "lambda",
        endpoint_url=server.url,
        region_name=REGION,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=botocore.config.Config(**settings),
    )


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """A server with one function of a model repository, `own`. Shared by a file's tests."""
    running = Server("--model-repository", identity_repository(tmp_path_factory.mktemp("repository"), "own"))
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


@pytest.fixture(scope="module")
def client(serving):
    return client_of(serving)


@pytest.fixture
def name(client, request):
    """A function name of the test's own; what is there by that name is deleted after it."""
    own = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[-64:].strip("-")
    yield own
    with contextlib.suppress(client.exceptions.ResourceNotFoundException):
        client.delete_function(FunctionName=own)
    gone(client, own)


def zipped(files, compression=zipfile.ZIP_DEFLATED):
    """A ZIP archive of {path: text or bytes}."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as zip_file:
        for path, content in files.items():
            zip_file.writestr(path, content)
    return archive.getvalue()


def identity(mark="", **parameters):
    """A package whose function echoes INPUT0; parameters as in an identity's config.pbtxt. Marks tell contents apart."""
    text = f'# {mark}\nbackend: "identity"\nmax_batch_size: 8\n'
    text += 'input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]\n'
    text += 'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]\n'
    for key, value in parameters.items():
        text += f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
    return zipped({"config.pbtxt": text})


def adding(number):
    """A package with an ONNX model of one node, whose answers tell it from others: OUTPUT0 is INPUT0 plus a number."""
    node = onnx.helper.make_node("Add", ["INPUT0", "number"], ["OUTPUT0"])
    row = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", "n"]) for name in ("INPUT0", "OUTPUT0")]
    constant = onnx.helper.make_tensor("number", onnx.TensorProto.FLOAT, [1], [number])
    graph = onnx.helper.make_graph([node], "adding", row[:1], row[1:], [constant])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return zipped({"config.pbtxt": 'backend: "onnxruntime"\nmax_batch_size: 8\n', "1/model.onnx": model.SerializeToString()})


def magika(model=None):
    """A package with a real, small ONNX model, or with other bytes in its place."""
    model = (MAGIKA / "1/model.onnx").read_bytes() if model is None else model
    files = {file.name: file.read_bytes() for file in (MAGIKA / "config.pbtxt", MAGIKA / "labels.txt")}
    return zipped(files | {"1/model.onnx": model})


def slow(milliseconds):
    """A package whose function takes that long for `ROWS` rows. (What it loads with is one row.)"""
    return identity(execute_delay_us_per_item=milliseconds * 1000 // ROWS)


def payload(*values, rows=1):
    """OIP's request with some rows that are the same."""
    values = list(values or [1.5, 2.5])
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [rows, len(values)], "data": values * rows}
    return json.dumps({"inputs": [tensor]})


def create(client, name, code=None, **more):
    """CreateFunction with what each needs; `more` are other members."""
    members = {"FunctionName": name, "Role": ROLE, "Runtime": "onnx", "Code": {"ZipFile": identity() if code is None else code}}
    return client.create_function(**members | more)


def settled(client, name, qualifier, timeout_s=TIMEOUT_S):
    """The configuration of a version as soon as it neither comes up nor is replaced."""

    def configuration():
        found = client.get_function_configuration(FunctionName=name, Qualifier=qualifier)
        waiting = found["State"] in ("Pending", "Deactivating") or found.get("LastUpdateStatus") == "InProgress"
        return None if waiting else found

    return until(configuration, f"{name}:{qualifier} settles", timeout_s)


def publish(client, name, **more):
    """PublishVersion, and wait until it serves; the version's name."""
    version = client.publish_version(FunctionName=name, **more)["Version"]
    found = settled(client, name, version)
    assert found["State"] == "Active", found
    return version


def created(client, name, code=None, **more):
    """A function with version 1 that serves."""
    create(client, name, code, **more)
    assert publish(client, name) == "1"
    return name


def gone(client, name, qualifier=None):
    """Waits until there is no such function or version."""
    named = {"FunctionName": name} | ({"Qualifier": qualifier} if qualifier else {})

    def is_gone():
        try:
            client.get_function_configuration(**named)
        except client.exceptions.ResourceNotFoundException:
            return True
        return False

    until(is_gone, f"{named} is gone")


def invoke(client, name, *values, rows=1, **more):
    """Invoke with values: (the version that ran, the values that came back)."""
    answer = client.invoke(FunctionName=name, Payload=payload(*values, rows=rows), **more)
    told = json.loads(answer["Payload"].read())
    assert (answer["StatusCode"], answer.get("FunctionError")) == (200, None), told
    (output,) = told["outputs"]
    return answer["ExecutedVersion"], output["data"]


@contextlib.contextmanager
def refused(code, status, message=""):
    """The block's call fails with this error, as a client sees it; yields a dictionary that gets the error's answer."""
    answer = {}
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        yield answer
    answer.update(raised.value.response)
    metadata = answer["ResponseMetadata"]
    assert (answer["Error"]["Code"], metadata["HTTPStatusCode"]) == (code, status), raised.value
    assert message in answer["Error"]["Message"], raised.value
    assert metadata["RequestId"] == metadata["HTTPHeaders"]["x-amzn-requestid"]


def ask(server, method, path, body=None, headers=None):
    """A bare request: status, headers and body, whatever the status."""
    body = json.dumps(body).encode() if isinstance(body, dict | list) else body
    request = urllib.request.Request(server.url + path, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def statistics(server, name, version=None):
    """OIP's statistics of a function, its versions added up: (inferences, executions)."""
    path = f"/v2/models/{name}" + (f"/versions/{version}" if version else "") + "/stats"
    status, _, body = ask(server, "GET", path)
    assert status == 200, body
    all_of_it = json.loads(body)["model_stats"]
    return tuple(sum(int(one.get(key, 0)) for one in all_of_it) for key in ("inference_count", "execution_count"))
