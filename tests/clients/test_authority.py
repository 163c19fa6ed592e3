"""One authoriser before every door: signatures for Lambda's routes, bearer tokens for all others, each with its scope."""

import datetime
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.exceptions
import grpc
import pytest
import tritonclient.grpc
from lambda_client import create, payload, publish, serving  # noqa: F401
from lambda_client import refused as refused_as

from conftest import PROGRAM, Server, identity_repository

OPERATOR = ("AKIAOPERATOR00000000", "secret-of-the-operator")
INVOKER = ("AKIAINVOKER000000000", "secret-of-the-invoker")
TOKENS = {"invoke": "token-that-may-invoke", "operate": "token-that-may-operate"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    keys = [(*OPERATOR, "operate"), (*INVOKER, "invoke"), *((None, token, scope) for scope, token in TOKENS.items())]
    text = ""
    for id, secret, scope in keys:
        text += "[[keys]]\n" + (f'id = "{id}"\n' if id else "") + f'secret = "{secret}"\nscope = "{scope}"\n'
    (folder / "keys.toml").write_text(text)
    running = Server("--model-repository", identity_repository(folder / "models", "own"),
                     "--set", f"auth.keys_file={folder}/keys.toml")
    yield running
    running.kill()


def client(server, id, secret):
    return boto3.client("lambda", endpoint_url=server.url, region_name="eu-central-1", aws_access_key_id=id,
                        aws_secret_access_key=secret)


def refused(call):
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call()
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_signatures_are_judged_with_their_scope(guarded):
    assert client(guarded, *OPERATOR).list_functions()["Functions"]
    arn = "arn:aws:lambda:us-east-1:000000000000:function:own:1"
    for key in (OPERATOR, INVOKER):
        assert client(guarded, *key).invoke(FunctionName=arn, Payload=payload())["StatusCode"] == 200
    assert refused(client(guarded, *INVOKER).list_functions) == ("AccessDeniedException", 403)
    assert refused(client(guarded, OPERATOR[0], "another-secret-of-it").list_functions) == ("InvalidSignatureException", 403)
    assert refused(client(guarded, "AKIAUNKNOWN000000000", "x" * 20).list_functions) == ("UnrecognizedClientException", 403)
    assert get(f"{guarded.url}/2015-03-31/functions") == 403


@pytest.mark.parametrize("wrong, status", [("nothing", 200), ("body", 403), ("clock", 403)])
def test_what_was_signed_is_what_is_done(guarded, wrong, status):
    body = payload().encode()
    url = f"{guarded.url}/2015-03-31/functions/own/invocations"
    request = botocore.awsrequest.AWSRequest("POST", url, data=body)
    signer = botocore.auth.SigV4Auth(botocore.credentials.Credentials(*INVOKER), "lambda", "us-east-1")
    signer.add_auth(request)
    if wrong == "clock":
        # Signed anew as of ten minutes ago.
        past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=10)
        request = botocore.awsrequest.AWSRequest("POST", url, data=body)
        request.context["timestamp"] = past.strftime(botocore.auth.SIGV4_TIMESTAMP)
        request.headers["X-Amz-Date"] = request.context["timestamp"]
        text = signer.string_to_sign(request, signer.canonical_request(request))
        signer._inject_signature_to_request(request, signer.signature(text, request))
    sent = body.replace(b"1.5", b"9.5") if wrong == "body" else body
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, sent, dict(request.headers)), timeout=10).status
    except urllib.error.HTTPError as error:
        answer = error.code
        assert error.headers["x-amzn-errortype"] == "InvalidSignatureException"
    assert answer == status


def test_bearer_tokens_are_judged_with_their_scope(guarded):
    model, config, metrics = f"{guarded.url}/v2/models/own", f"{guarded.url}/v2/models/own/config", f"http://{guarded.metrics}/metrics"
    assert get(f"{guarded.url}/v2/health/live") == 200
    statuses = {
        scope: [get(url, Authorization=f"Bearer {token}") for url in (model, config, metrics)]
        for scope, token in (TOKENS | {"unknown": "no-token-of-this-server"}).items()
    }
    assert statuses == {"invoke": [200, 403, 403], "operate": [200, 200, 200], "unknown": [401, 401, 401]}
    assert [get(url) for url in (model, config, metrics, f"{guarded.url}/v1/models")] == [401] * 4


def test_grpc_calls_bring_a_token(guarded):
    with tritonclient.grpc.InferenceServerClient(guarded.grpc) as triton:
        bearer = lambda scope: {"authorization": f"Bearer {TOKENS[scope]}"}  # noqa: E731
        assert triton.is_server_live()
        assert triton.get_model_metadata("own", headers=bearer("invoke")).name == "own"
        for call, headers, code in [
            (triton.get_model_metadata, None, grpc.StatusCode.UNAUTHENTICATED),
            (triton.get_model_config, bearer("invoke"), grpc.StatusCode.PERMISSION_DENIED),
        ]:
            with pytest.raises(tritonclient.grpc.InferenceServerException) as caught:
                call("own", headers=headers)
            assert caught.value.status() == str(code)
        assert triton.get_model_config("own", headers=bearer("operate")).config.name == "own"


def test_without_keys_nobody_beyond_this_machine_is_let_in():
    ended = subprocess.run([PROGRAM, "serve", "--set", "listen.grpc=0.0.0.0:0"], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 64
    assert "listen.grpc" in ended.stderr and "auth.keys_file" in ended.stderr


def test_a_role_s_credentials_reach_its_environments_and_no_others(tmp_path):
    role, other = "arn:aws:iam::000000000000:role/reads-weights", "arn:aws:iam::000000000000:role/unknown"
    (tmp_path / "roles.toml").write_text(
        f'[[roles]]\narn = "{role}"\naccess_key_id = "AKIAROLE"\nsecret_access_key = "secret-of-the-role"\nsession_token = "lent"\n')
    server = Server("--model-repository", identity_repository(tmp_path / "models", "own"),
                    "--set", f"auth.roles_file={tmp_path}/roles.toml", "--set", "lambda.region=eu-north-1")
    try:
        anyone = client(server, "any", "any")
        for name, arn in (("with", role), ("without", other)):
            create(anyone, name, Role=arn, Environment={"Variables": {"STAGE": "canary"}})
            publish(anyone, name)
        told = {}
        for pid in server.environments():
            variables = dict(line.split("=", 1) for line in (Path(f"/proc/{pid}/environ").read_text()).split("\0") if line)
            told[variables.get("AWS_LAMBDA_FUNCTION_NAME")] = variables
        assert set(told) == {"with", "without", None}
        with_it, without, own = told["with"], told["without"], told[None]
        assert [with_it[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")] == [
            "AKIAROLE", "secret-of-the-role", "lent"]
        assert (with_it["STAGE"], with_it["AWS_REGION"], with_it["AWS_LAMBDA_FUNCTION_VERSION"]) == ("canary", "eu-north-1", "1")
        assert without["STAGE"] == "canary" and not [name for name in (*without, *own) if "KEY" in name or "TOKEN" in name]
        # Nobody else is told.
        said = "".join(server.log) + str(anyone.get_function(FunctionName="with"))
        assert "secret-of-the-role" not in said
    finally:
        server.kill()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES", "PENSTOCK_CONFIG"])
def test_variables_that_are_the_platform_s_cannot_be_set(serving, name):  # noqa: F811
    with refused_as("InvalidParameterValueException", 400, f"Reserved keys used in this request: {name}"):
        create(client(serving, "any", "any"), "reserved", Environment={"Variables": {name: "x"}})


def test_a_file_of_roles_that_is_wrong_keeps_the_server_from_starting(tmp_path):
    (tmp_path / "roles.toml").write_text('[[roles]]\narn = "a"\n')
    done = subprocess.run([PROGRAM, "serve", "--set", f"auth.roles_file={tmp_path}/roles.toml"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 64 and "roles[0].access_key_id is missing" in done.stderr
