"""Writes botocore_vectors.json: requests that botocore signed, as they would be on the wire.

    python3 -m venv venv && venv/bin/pip install boto3==1.44.8
    venv/bin/python server/authority/tests/make_vectors.py

The same versions write the same bytes: the clock and the ids are fixed, the random requests come from one seed, nothing
is sent. Three kinds:

- suite/*: requests of AWS's public SigV4 test suite (its key, its date, service "service"), signed by botocore. The
  suite's access key id is shorter than Penstock takes; it is lengthened, which changes no signature, because in the
  header form the id is not signed.
- lambda/*: what a real boto3 Lambda client would send, caught just before the socket; presigned/*: its presigned URLs.
- random/*: random paths, queries, headers and bodies.
"""

import datetime
import json
import pathlib
import random
import uuid
from urllib.parse import urlsplit

import boto3
import botocore
import botocore.auth
import botocore.endpoint
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SUITE_ID = "AKIDEXAMPLEAKIDEXAMPLE"
LAMBDA_ID = "AKIAIOSFODNN7EXAMPLE"
TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuw=="
)
SUITE_TIME = datetime.datetime(2015, 8, 30, 12, 36, 0)
LAMBDA_TIME = datetime.datetime(2026, 11, 26, 9, 8, 7)

clock = {"now": SUITE_TIME}
botocore.auth.get_current_datetime = lambda *_: clock["now"]
vectors = []


def keep(name, prepared, headers, key_id, service, region):
    """One request as a server would read it: botocore leaves `Host` to the HTTP library, which takes it from the URL."""
    url = urlsplit(prepared.url)
    headers = [[k.lower(), v.decode("ascii") if isinstance(v, bytes) else v] for k, v in headers]
    if not any(k == "host" for k, _ in headers):
        headers.insert(0, ["host", url.netloc])
    body = prepared.body or b""
    body = (
        body.encode("utf-8") if isinstance(body, str) else body if isinstance(body, (bytes, bytearray)) else body.read()
    )
    vectors.append(
        {
            "name": name,
            "method": prepared.method,
            "target": (url.path or "/") + ("?" + url.query if url.query else ""),
            "headers": headers,
            "body_hex": bytes(body).hex(),
            "now_unix_s": int(clock["now"].replace(tzinfo=datetime.timezone.utc).timestamp()),
            "access_key_id": key_id,
            "service": service,
            "region": region,
        }
    )


def sign(
    name,
    method,
    url,
    headers=(),
    body=b"",
    token=None,
    signer=SigV4Auth,
    params=None,
    service="service",
    key_id=SUITE_ID,
):
    request = AWSRequest(method=method, url=url, data=body, params=params)
    for key, value in headers:
        request.headers.add_header(key, value)
    signer(Credentials(key_id, SECRET, token), service, "us-east-1").add_auth(request)
    # Not the prepared request's headers: those have lost what was sent twice.
    keep(name, request.prepare(), request.headers.items(), key_id, service, "us-east-1")


def suite():
    at = "https://example.amazonaws.com"
    unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    sign("suite/get-vanilla", "GET", at + "/")
    sign("suite/get-vanilla-query-order-key-case", "GET", at + "/?Param2=value2&Param1=value1")
    sign("suite/get-vanilla-query-order-encoded", "GET", at + "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1")
    sign("suite/get-vanilla-empty-query-key", "GET", at + "/?Param1=value1")
    sign("suite/get-vanilla-query-unreserved", "GET", f"{at}/?{unreserved}={unreserved}")
    sign("suite/get-vanilla-utf8-query", "GET", at + "/", params={"\u1234": "bar"})
    sign("suite/get-unreserved", "GET", f"{at}/{unreserved}")
    sign("suite/get-utf8", "GET", at + "/\u1234")
    sign("suite/get-relative-normalized", "GET", at + "/example/..")
    sign("suite/get-relative-relative-normalized", "GET", at + "/example1/example2/../..")
    sign("suite/get-slash-normalized", "GET", at + "//")
    sign("suite/get-slash-dot-slash-normalized", "GET", at + "/./")
    sign("suite/get-slash-pointless-dot-normalized", "GET", at + "/./example")
    sign("suite/get-slashes-normalized", "GET", at + "//example//")
    sign("suite/get-header-value-trim", "GET", at + "/", [("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')])
    sign("suite/get-header-key-duplicate", "GET", at + "/", [("My-Header1", v) for v in ("value2", "value2", "value1")])
    sign("suite/get-header-value-order", "GET", at + "/", [("My-Header1", f"value{n}") for n in (4, 1, 3, 2)])
    sign(
        "suite/get-vanilla-with-session-token",
        "GET",
        at + "/",
        token="6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
    )
    sign("suite/post-vanilla", "POST", at + "/")
    sign("suite/post-vanilla-query", "POST", at + "/?Param1=value1")
    sign("suite/post-header-value-case", "POST", at + "/", [("My-Header1", "VALUE1")])
    hashed = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"
    for name, kind in (("", ""), ("-parameters", "; charset=utf-8")):
        headers = [
            ("Content-Type", "application/x-www-form-urlencoded" + kind),
            ("Content-Length", "13"),
            ("x-amz-content-sha256", hashed),
        ]
        sign("suite/post-x-www-form-urlencoded" + name, "POST", at + "/", headers, b"Param1=value1")


def client(token=None):
    made = boto3.client(
        "lambda",
        endpoint_url="http://127.0.0.1:8000",
        region_name="eu-central-1",
        aws_access_key_id=LAMBDA_ID,
        aws_secret_access_key=SECRET,
        aws_session_token=token,
        config=Config(user_agent="boto3", parameter_validation=False),
    )
    return made


def lambdas():
    arn = "arn:aws:lambda:eu-central-1:123456789012:function:echo"
    calls = [
        ("invoke", "invoke", {"FunctionName": "echo", "Payload": b'{"a": 1}'}),
        ("invoke-empty", "invoke", {"FunctionName": "echo"}),
        ("invoke-binary", "invoke", {"FunctionName": "echo", "Payload": bytes(range(256)) * 2}),
        (
            "invoke-arn",
            "invoke",
            {"FunctionName": arn + ":live", "Payload": b"[]", "InvocationType": "Event", "LogType": "Tail"},
        ),
        (
            "invoke-latest-published",
            "invoke",
            {"FunctionName": arn, "Qualifier": "$LATEST.PUBLISHED", "ClientContext": "eyJhIjoxfQ=="},
        ),
        ("invoke-stream", "invoke_with_response_stream", {"FunctionName": "echo", "Payload": "\u00e9\u1234".encode()}),
        ("get-function", "get_function", {"FunctionName": "echo"}),
        ("list-functions", "list_functions", {"MaxItems": 2, "Marker": "a+b/c=&d e~*'()"}),
        ("list-concurrency", "list_provisioned_concurrency_configs", {"FunctionName": "echo", "MaxItems": 2}),
        (
            "create-function",
            "create_function",
            {"FunctionName": "echo", "Role": "arn:aws:iam::123456789012:role/r", "Code": {"ZipFile": b"PK\x05\x06"}},
        ),
        ("untag", "untag_resource", {"Resource": arn, "TagKeys": ["a", "b c"]}),
        ("untag-order", "untag_resource", {"Resource": arn, "TagKeys": ["b", "a", "B", "\u00e9", "", "a=b&c+d"]}),
        ("delete-alias", "delete_alias", {"FunctionName": "echo", "Name": "live"}),
        ("get-utf8", "get_function", {"FunctionName": "gr\u00fc\u00dfe \u1234"}),
    ]
    for token in (None, TOKEN):
        for name, method, arguments in calls:
            caught = []
            made = client(token)
            made.meta.events.register(
                "before-send.lambda.*",
                lambda request, **_: caught.append(request) or AWSResponse(request.url, 200, {}, Empty()),
            )
            try:
                getattr(made, method)(**arguments)
            except Exception:  # the answer is empty; only the request matters
                assert caught, name
            assert len(caught) == 1, name
            keep(
                f"lambda/{name}" + ("/session" if token else ""),
                caught[0],
                caught[0].headers.items(),
                LAMBDA_ID,
                "lambda",
                "eu-central-1",
            )


class Empty:
    """A response body of nothing."""

    def stream(self, *_, **__):
        return iter(())

    def read(self, *_):
        return b""


def presigned():
    for token in (None, TOKEN):
        made = client(token)
        for name, method, arguments in [
            ("get-function", "get_function", {"FunctionName": "echo", "Qualifier": "$LATEST.PUBLISHED"}),
            ("list-functions", "list_functions", {"MaxItems": 2, "Marker": "a+b c"}),
        ]:
            url = made.generate_presigned_url(method, arguments, ExpiresIn=900)
            keep(
                f"presigned/{name}" + ("/session" if token else ""),
                AWSRequest("GET", url).prepare(),
                [],
                LAMBDA_ID,
                "lambda",
                "eu-central-1",
            )
    url = "http://127.0.0.1:8000/2015-03-31/functions/echo/invocations"
    unsigned = [("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]
    sign("presigned/unsigned-payload", "POST", url, unsigned, b"", None, SigV4QueryAuth, None, "lambda", LAMBDA_ID)


def randoms():
    dice = random.Random(20261126)
    letters = "abcXYZ019-._~ +%/:;=&?#@!$'()*,[]\"\\{}|^`<>\u00e9\u1234\U0001f600"

    def text(most, least=0):
        return "".join(dice.choice(letters) for _ in range(dice.randint(least, most)))

    for number in range(48):
        path = "/".join(botocore.utils.percent_encode(text(8, 1)) for _ in range(dice.randint(0, 4)))
        params = {text(6, 1): text(8) for _ in range(dice.randint(0, 5))}
        headers = [
            (f"X-Any-{n}", dice.choice(["", " "]) + "  ".join(["v", ',;="', "\t", "x" * n][: dice.randint(1, 4)]))
            for n in range(dice.randint(0, 3))
        ]
        headers += [("X-Amz-Meta", "1")] * dice.randint(0, 2)
        body = dice.randbytes(dice.choice([0, 0, 1, 17, 64]))
        method = dice.choice(["GET", "POST", "PUT", "DELETE"])
        token = dice.choice([None, TOKEN])
        signer = SigV4QueryAuth if not body and dice.random() < 0.4 else SigV4Auth
        sign(
            f"random/{number}",
            method,
            "http://localhost:8000/" + path,
            headers,
            body,
            token,
            signer,
            params,
            "lambda",
            LAMBDA_ID,
        )


def main():
    ids = iter(range(10**6))
    botocore.endpoint.uuid.uuid4 = lambda: uuid.UUID(int=next(ids), version=4)
    suite()
    clock["now"] = LAMBDA_TIME
    lambdas()
    presigned()
    randoms()
    made = {
        "botocore": botocore.__version__,
        "secret": SECRET,
        "access_key_ids": [SUITE_ID, LAMBDA_ID],
        "vectors": vectors,
    }
    lines = ",\n".join(json.dumps(vector) for vector in made.pop("vectors"))
    head = json.dumps(made)[:-1]
    pathlib.Path(__file__).with_name("botocore_vectors.json").write_text(f'{head}, "vectors": [\n{lines}\n]}}\n')
    print(len(vectors), "vectors by botocore", botocore.__version__)


main()
