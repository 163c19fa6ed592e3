"""`penstock deploy` and its neighbours, as a person or a script runs them; and the calls by which packages come file by file."""

import base64
import concurrent.futures
import hashlib
import json
import os
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from lambda_client import ask, gone, payload, serving  # noqa: F401
from lambda_client import client_of as lambda_client_of
from scraped import until

from conftest import CACHE, PROGRAM, Server

TIMEOUT_S = 60
PACKAGES = "/2026-11-26/packages"
CONFIG = """backend: "identity"
max_batch_size: 8
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""


class Shell:
    """Runs `penstock` against a server; `env` are variables beside those of this process."""

    def __init__(self, url, **env):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "AWS_"))}
        self.env = kept | {"PENSTOCK_ENDPOINT": url} | env

    def run(self, *arguments, stdin=""):
        command = [str(PROGRAM), *map(str, arguments)]
        return subprocess.run(command, env=self.env, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S)

    def __call__(self, *arguments, stdin=""):
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments, stdin=""):
        return json.loads(self(*arguments, "--json", stdin=stdin))

    def refused(self, *arguments, code=1):
        done = self.run(*arguments, "--json")
        assert done.returncode == code and done.stdout == "", (done.returncode, done.stdout, done.stderr)
        return json.loads(done.stderr)["error"]


@pytest.fixture(scope="module")
def shell(serving):  # noqa: F811
    return Shell(serving.url)


@pytest.fixture
def name(shell, serving, request):  # noqa: F811
    own = request.node.name.replace("_", "-")[-60:].strip("-")
    yield own
    shell.run("delete", own)
    gone(lambda_client_of(serving), own)


@pytest.fixture
def folder(tmp_path):
    """A function's folder: echoes, with a file of a megabyte beside."""
    own = tmp_path / "function"
    (own / "1").mkdir(parents=True)
    (own / "config.pbtxt").write_text(CONFIG)
    (own / "1/weights.bin").write_bytes(bytes(range(256)) * 4096)
    (own / ".hidden").write_text("not sent")
    return own


def test_a_folder_serves_and_what_is_there_is_not_sent_again(shell, name, folder):
    first = shell.json("deploy", folder, "--name", name, "--runtime", "onnx", "--description", "the first")
    assert (first["Version"], first["State"], first["Alias"]) == ("1", "Active", "live")
    assert (first["Files"], first["SentFiles"], first["SentBytes"]) == (2, 2, first["Bytes"])
    answer = shell.json("invoke", name, "--payload", payload(1.0, 2.0))
    assert (answer["ExecutedVersion"], answer["Payload"]["outputs"][0]["data"]) == ("1", [1.0, 2.0])

    (folder / "config.pbtxt").write_text("# second\n" + CONFIG)
    second = shell.json("deploy", folder, "--name", name)
    assert (second["Version"], second["SentFiles"]) == ("2", 1)
    assert second["SentBytes"] == (folder / "config.pbtxt").stat().st_size
    assert shell.json("invoke", name, "--payload", payload())["ExecutedVersion"] == "2"
    # Nothing has changed: nothing is published.
    third = shell.json("deploy", folder, "--name", name)
    assert (third["Version"], third["SentFiles"]) == ("2", 0)

    versions = {version["Version"]: version for version in shell.json("versions", name)}
    assert sorted(versions) == ["$LATEST", "1", "2"]
    assert (versions["1"]["Description"], versions["1"]["Aliases"], versions["2"]["Aliases"]) == ("the first", [], ["live"])
    table = shell("versions", name).splitlines()
    assert table[0].split() == ["VERSION", "STATE", "ALIASES", "SIZE", "MODIFIED", "REASON"] and "live" in table[3]
    assert [line for line in shell("functions").splitlines() if line.startswith(name + " ")]
    assert name in {function["FunctionName"] for function in shell.json("functions")}


def test_a_real_model_with_its_settings_and_in_words(shell, name):
    done = shell.run("deploy", CACHE / "models/magika", "--name", name, "--timeout", "7", "--memory-size", "4096",
                     "--concurrency", "9", "--architecture", "arm64", "--env", "STAGE=canary")
    assert done.returncode == 0 and done.stdout == f"{name}:1 Active\n", done.stderr
    steps = ["3 files, 3.2 MB", "3 files sent, 3.2 MB; 0 were there", "function created", "version 1 is Active", "live leads to version 1"]
    assert all(step in line for step, line in zip(steps, done.stderr.splitlines(), strict=True))
    own = next(one for one in shell.json("functions") if one["FunctionName"] == name)
    assert (own["Runtime"], own["Timeout"], own["MemorySize"], own["Environment"]["Variables"]) == ("onnx", 7, 4096, {"STAGE": "canary"})
    assert own["Architectures"] == ["arm64"], "which is said of instances alone: this machine has but one"
    assert "architectures" in shell.refused("deploy", CACHE / "models/magika", "--name", name, "--architecture", "riscv")["message"]
    lines = shell("logs", name).splitlines()
    assert any("environment ready: pid" in line and " 1 " in line for line in lines), lines


def test_what_does_not_come_up_leaves_the_alias_where_it_is(shell, name, folder, tmp_path):
    shell("deploy", folder, "--name", name, "--runtime", "onnx")
    broken = tmp_path / "broken"
    (broken / "1").mkdir(parents=True)
    (broken / "1/model.onnx").write_text("junk")
    failure = shell.refused("deploy", broken, "--name", name)
    assert failure["code"] == "FunctionError.RuntimeInitError" and "version 2" in failure["message"]
    assert [alias["FunctionVersion"] for alias in shell.json("alias", name)] == ["1"]
    assert shell.json("invoke", name, "--payload", payload())["ExecutedVersion"] == "1"
    told = [line for line in shell("logs", name, "--qualifier", "2", "--json").splitlines() if "model.onnx" in line]
    assert told and all(json.loads(line)["Version"] == "2" for line in told)
    # And the next that does is taken.
    assert shell.json("deploy", folder, "--name", name)["Version"] == "3"


def test_aliases_share_calls_move_and_go(shell, name, folder):
    shell("deploy", folder, "--name", name, "--runtime", "onnx", "--alias", "")
    assert shell.json("alias", name) == []
    (folder / "config.pbtxt").write_text("# second\n" + CONFIG)
    shell("deploy", folder, "--name", name, "--alias", "stable")
    assert shell("alias", name, "stable", "1", "--weight", "2=0.25") == "stable leads to version 1 and 2 (0.25)\n"
    ran = {shell.json("invoke", name, "--qualifier", "stable", "--payload", payload())["ExecutedVersion"] for _ in range(40)}
    assert ran == {"1", "2"}
    assert shell("alias", name, "stable", "2") == "stable leads to version 2\n"
    assert shell.json("alias", name, "stable")["FunctionVersion"] == "2"
    assert "--weight" in shell.refused("alias", name, "stable", "1", "--weight", "much", code=64)["message"]
    # A version that an alias leads to stays.
    assert shell.refused("delete", name, "--qualifier", "2")["code"] == "ResourceConflictException"
    shell("alias", name, "stable", "--delete")
    shell("delete", name, "--qualifier", "2")
    until(lambda: [v["Version"] for v in shell.json("versions", name)] == ["$LATEST", "1"], "version 2 is gone")


def test_payloads_come_from_everywhere_and_failures_are_told(shell, name, folder, tmp_path):
    shell("deploy", folder, "--name", name, "--runtime", "onnx")
    (tmp_path / "payload.json").write_text(payload(3.0))
    for source, stdin in ((f"@{tmp_path}/payload.json", ""), ("-", payload(3.0))):
        assert json.loads(shell("invoke", name, "--payload", source, stdin=stdin))["outputs"][0]["data"] == [3.0]
    failed = shell.run("invoke", name, "--payload", '{"inputs": 3}')
    assert failed.returncode == 1 and json.loads(failed.stdout)["errorType"] and "the function failed" in failed.stderr
    tail = shell.run("invoke", name, "--payload", payload(), "--tail")
    assert tail.stderr.startswith("START RequestId: ") and "REPORT RequestId: " in tail.stderr
    assert shell.json("invoke", name, "--payload", payload(), "--event")["StatusCode"] == 202
    # Of a model repository: no alias, no `$LATEST.PUBLISHED`.
    assert shell.json("invoke", "own", "--payload", payload())["ExecutedVersion"] == "1"
    assert shell.refused("invoke", "nowhere")["code"] == "ResourceNotFoundException"


def test_wrong_words_say_which(shell, tmp_path):
    assert "expected a model's folder" in shell.refused("deploy", tmp_path / "none", "--name", "x", code=64)["message"]
    assert "--env" in shell.refused("deploy", CACHE / "models/magika", "--name", "x", "--env", "A", code=64)["message"]
    assert shell.run("deploy").returncode == 64 and shell.run("invoke", "x", "--payload", "{}", "--text", "a").returncode == 64
    (tmp_path / "empty").mkdir()
    assert "no files" in shell.refused("deploy", tmp_path / "empty", "--name", "x")["message"]
    nobody = Shell("http://127.0.0.1:1")
    assert nobody.refused("functions", code=69)["code"] == "Unreachable"
    assert Shell("nonsense").refused("functions", code=64)["code"] == "Usage"
    half = Shell("http://127.0.0.1:1", AWS_ACCESS_KEY_ID="AKIA0000000000000000")
    assert "AWS_SECRET_ACCESS_KEY" in half.refused("functions", code=64)["message"]
    for kind in ("bash", "zsh", "fish"):
        assert "deploy" in shell("completions", kind)


def test_a_log_is_followed(shell, serving, name, folder):  # noqa: F811
    shell("deploy", folder, "--name", name, "--runtime", "onnx")
    follow = subprocess.Popen([PROGRAM, "logs", name, "--follow"], env=shell.env, stdout=subprocess.PIPE, text=True)
    try:
        assert "environment ready" in follow.stdout.readline()
        (folder / "config.pbtxt").write_text("# second\n" + CONFIG)
        shell("deploy", folder, "--name", name)
        assert " 2 environment ready" in follow.stdout.readline()
    finally:
        follow.kill()
        follow.wait(10)


def test_deploys_beside_each_other_each_publish_their_own(shell, name, tmp_path):
    """Every version that a deploy says is its own has its code and its variables."""
    folders = []
    for which in "ab":
        own = tmp_path / which
        own.mkdir()
        (own / "config.pbtxt").write_text(f"# {which}\n" + CONFIG)
        folders.append(own)
    shell("deploy", folders[0], "--name", name, "--runtime", "onnx", "--alias", "")
    for _ in range(4):
        run = lambda which: shell.json(  # noqa: E731
            "deploy", folders[which], "--name", name, "--env", f"WHICH={'ab'[which]}", "--alias", "")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            told = list(pool.map(run, (0, 1)))
        versions = {version["Version"]: version for version in shell.json("versions", name)}
        for which, one in enumerate(told):
            found = versions[one["Version"]]
            assert found["Environment"]["Variables"] == {"WHICH": "ab"[which]}, (one, found)
            assert base64.b64decode(found["CodeSha256"]).hex() == one["Manifest"]


def test_a_refused_setting_leaves_the_code_as_it_is(shell, name, folder):
    before = shell.json("deploy", folder, "--name", name, "--runtime", "onnx")["Manifest"]
    (folder / "config.pbtxt").write_text("# second\n" + CONFIG)
    assert shell.refused("deploy", folder, "--name", name, "--timeout", "999999")["code"] == "ValidationException"
    latest = next(version for version in shell.json("versions", name) if version["Version"] == "$LATEST")
    assert base64.b64decode(latest["CodeSha256"]).hex() == before


def test_an_alias_to_what_is_not_there_says_so(shell, name, folder):
    shell("deploy", folder, "--name", name, "--runtime", "onnx")
    assert ":7" in shell.refused("alias", name, "live", "7")["message"]
    assert ":7" in shell.refused("alias", name, "other", "7")["message"]
    lines = shell("logs", name, "--qualifier", "live")
    assert "environment ready" in lines
    assert json.loads(shell("alias", name, "live", "--delete", "--json")) == {"Deleted": f"{name}:live"}


def test_nobody_reading_is_no_mistake(shell, name, folder):
    """Whoever reads may leave: the deploy goes on, a followed log ends."""
    command = f"exec {PROGRAM} deploy {folder} --name {name} --runtime onnx 2>&1 | head -c 1"
    subprocess.run(["sh", "-c", command], env=shell.env, capture_output=True, timeout=TIMEOUT_S)
    until(lambda: any(alias["Name"] == "live" for alias in shell.json("alias", name)), "the alias leads to it")
    follow = subprocess.Popen([PROGRAM, "logs", name, "--follow"], env=shell.env, stdout=subprocess.PIPE, text=True)
    try:
        assert "environment ready" in follow.stdout.readline()
        follow.stdout.close()
        (folder / "config.pbtxt").write_text("# second\n" + CONFIG)
        shell("deploy", folder, "--name", name)
        assert follow.wait(TIMEOUT_S) == 0
    finally:
        follow.kill()


# --- the calls beneath


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def announced(server, *files):
    """Announces a package of (path, content): (status, answer)."""
    files = [{"path": path, "sha256": sha256(content), "bytes": len(content)} for path, content in files]
    status, _, body = ask(server, "POST", PACKAGES, {"files": files})
    return status, json.loads(body)


def test_contents_are_taken_as_they_were_announced_and_no_other_way(serving):  # noqa: F811
    content = os.urandom(70_000)
    status, wanted = announced(serving, ("1/a", content), ("1/b", content))
    assert (status, wanted["Missing"], wanted["ExpiresInSeconds"]) == (200, [sha256(content)], 900)

    def put(path, body, **headers):
        status, _, answer = ask(serving, "PUT", f"{PACKAGES}/{path}", body, headers)
        return status, answer.decode()

    own = f"{wanted['Manifest']}/contents/{sha256(content)}"
    for body, said in ((content[:-1], "69999 bytes"), (content + b"x", "70001 bytes"), (bytes(70_000), "was sent")):
        status, answer = put(own, body)
        assert status == 400 and said in answer, answer
    other = sha256(b"other")
    assert put(f"{wanted['Manifest']}/contents/{other}", b"other")[0] == 404
    assert put(f"{other}/contents/{sha256(content)}", content)[0] == 404
    assert put(f"{wanted['Manifest']}/contents/..%2f..%2fetc", content)[0] == 400
    assert put(own, content, **{"Content-Encoding": "gzip"})[0] == 415
    # A function of a package that is not whole.
    code = {"Manifest": wanted["Manifest"]}
    made = {"FunctionName": "not-whole", "Runtime": "onnx", "Role": "arn:aws:iam::000000000000:role/any", "Code": code}
    status, _, answer = ask(serving, "POST", "/2015-03-31/functions", made)
    assert status == 400 and b"1/a" in answer, answer
    assert put(own, content) == (204, "")
    assert put(own, content) == (204, ""), "once more does no harm"
    assert announced(serving, ("1/a", content), ("1/b", content))[1]["Missing"] == []
    status, _, answer = ask(serving, "POST", "/2015-03-31/functions", made)
    assert status == 400 and b"nothing that can be served" in answer, answer
    made["Code"] = {"Manifest": other}
    assert ask(serving, "POST", "/2015-03-31/functions", made)[0] == 404


def test_whole_packages_make_room_for_others_and_half_ones_do_not():
    server = Server("--model-control-mode", "explicit")
    try:
        content = os.urandom(1000)
        _, wanted = announced(server, ("1/whole", content))
        path = f"{PACKAGES}/{wanted['Manifest']}/contents/{sha256(content)}"
        assert ask(server, "PUT", path, content)[0] == 204
        assert {announced(server, (f"{number}/whole", content))[0] for number in range(70)} == {200}
        told = [announced(server, (f"{number}/half", os.urandom(10))) for number in range(70)]
        assert told[0][0] == 200 and told[-1][0] == 429 and "packages are being sent" in str(told[-1][1])
    finally:
        server.kill()


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a//b", "a/./b", "", "a\\..\\b", "x" * 2000])
def test_paths_that_lead_elsewhere_are_refused(serving, path):  # noqa: F811
    status, answer = announced(serving, (path, b"x"))
    assert status == 400 and "path" in answer.get("Message", answer.get("message", "")), answer


def test_sizes_are_bounded_before_anything_is_sent(tmp_path, folder):
    server = Server("--set", "packages.max_package_bytes=1048576", "--model-control-mode", "explicit")
    try:
        failure = Shell(server.url).refused("deploy", folder, "--name", "large", "--runtime", "onnx")
        assert "1048576" in failure["message"] and failure["code"] == "InvalidParameterValueException"
    finally:
        server.kill()


def test_a_server_killed_while_it_is_sent_to_takes_the_rest_after(tmp_path, folder):
    """kill -9 between two contents: what had come is there, and the next deploy sends only what is missing."""
    state = {"PENSTOCK_DATA_DIR": str(tmp_path / "state")}
    (tmp_path / "state").mkdir()
    server = Server("--model-control-mode", "explicit", env=state)
    weights = (folder / "1/weights.bin").read_bytes()
    files = ("1/weights.bin", weights), ("config.pbtxt", (folder / "config.pbtxt").read_bytes())
    _, wanted = announced(server, *files)
    assert ask(server, "PUT", f"{PACKAGES}/{wanted['Manifest']}/contents/{sha256(weights)}", weights)[0] == 204
    server.kill()
    server = Server("--model-control-mode", "explicit", env=state)
    try:
        done = Shell(server.url).json("deploy", folder, "--name", "again", "--runtime", "onnx")
        assert (done["State"], done["SentFiles"]) == ("Active", 1)
    finally:
        server.kill()


def test_with_keys_all_of_it_is_signed(tmp_path, folder):
    (tmp_path / "keys.toml").write_text(
        '[[keys]]\nid = "AKIAOPERATOR00000000"\nsecret = "secret-of-the-operator"\nscope = "operate"\n'
        '[[keys]]\nid = "AKIAINVOKER000000000"\nsecret = "secret-of-the-invoker"\nscope = "invoke"\n')
    server = Server("--model-control-mode", "explicit", "--set", f"auth.keys_file={tmp_path}/keys.toml")

    def shell_of(id, secret):
        return Shell(server.url, AWS_ACCESS_KEY_ID=id, AWS_SECRET_ACCESS_KEY=secret, AWS_REGION="eu-central-1")

    try:
        operator = shell_of("AKIAOPERATOR00000000", "secret-of-the-operator")
        assert operator.json("deploy", folder, "--name", "signed", "--runtime", "onnx")["State"] == "Active"
        invoker = shell_of("AKIAINVOKER000000000", "secret-of-the-invoker")
        assert invoker.json("invoke", "signed", "--payload", payload())["ExecutedVersion"] == "1"
        assert invoker.refused("deploy", folder, "--name", "signed")["code"] == "AccessDeniedException"
        wrong = shell_of("AKIAOPERATOR00000000", "another-secret-0123456789")
        assert wrong.refused("deploy", folder, "--name", "signed")["code"] == "InvalidSignatureException"
        assert Shell(server.url).refused("functions")["code"] == "MissingAuthenticationTokenException"
        # What is sent under a content's name is that content, whoever signed.
        status, _, _ = ask(server, "PUT", f"{PACKAGES}/{'0' * 64}/contents/{'0' * 64}", b"unsigned")
        assert status == 403
    finally:
        server.kill()


def test_a_server_is_ready_when_what_was_deployed_is(tmp_path):
    """Of the encoder that was deployed; the model repository is empty, and ready at once."""
    (tmp_path / "state").mkdir()
    (tmp_path / "models").mkdir()
    arguments = ("--model-repository", tmp_path / "models")
    state = {"PENSTOCK_DATA_DIR": str(tmp_path / "state")}
    server = Server(*arguments, env=state)
    Shell(server.url).json("deploy", CACHE / "models/minilm/1", "--name", "embed")
    server.kill()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen = []

    def look():
        while not seen or seen[-1][0] != 200:
            try:
                ready = urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).status
            except urllib.error.HTTPError as error:
                ready = error.code
            except OSError:
                continue
            own = ask(SimpleNamespace(url=f"http://127.0.0.1:{port}"), "GET", "/v2/models/embed/ready")[0] if ready == 200 else None
            seen.append((ready, own))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    server = Server(*arguments, "--set", f"listen.http=127.0.0.1:{port}", env=state)
    try:
        looking.join(TIMEOUT_S)
        assert seen[-1] == (200, 200), seen[-1]
    finally:
        server.kill()
