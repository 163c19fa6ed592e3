"""Packages that are not what they should be, sent through CreateFunction: each is refused, and leaves nothing behind, inside the data directory or outside."""

import io
import json
import pathlib
import stat
import struct
import zipfile

import pytest
from lambda_client import (
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
    refused,
    serving,  # noqa: F401
    zipped,
)
from scraped import until

from conftest import identity_repository

CONFIG = 'backend: "identity"\nmax_batch_size: 8\n'
INVALID = "InvalidParameterValueException"


def entry(path, content="x", mode=None, compression=zipfile.ZIP_DEFLATED):
    """One entry, beside a good config.pbtxt; `mode` is a file's as Unix has it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zip_file:
        zip_file.writestr("config.pbtxt", CONFIG)
        info = zipfile.ZipInfo(path)
        info.filename, info.compress_type = path, compression
        if mode is not None:
            info.create_system, info.external_attr = 3, mode << 16
        zip_file.writestr(info, content)
    return archive.getvalue()


def twice(path):
    """The same path two times; the standard library warns of it and writes it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zip_file:
        zip_file.writestr("config.pbtxt", CONFIG)
        zip_file.writestr(path, "one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            zip_file.writestr(path, "two")
    return archive.getvalue()


def encrypted():
    """Its flags say that it is: bit 0, in both of an entry's headers."""
    archive = bytearray(zipped({"config.pbtxt": CONFIG}))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        archive[archive.index(signature) + at] |= 1
    return bytes(archive)


def corrupted():
    """One bit of what is stored is another: the checksum tells."""
    archive = bytearray(zipped({"config.pbtxt": CONFIG + "#" * 100}, zipfile.ZIP_STORED))
    archive[archive.index(b"###") + 50] ^= 1
    return bytes(archive)


def lying():
    """Says of a file that it is short; it is not."""
    archive = bytearray(zipped({"config.pbtxt": CONFIG, "1/big": bytes(1 << 20)}))
    at = archive.rindex(b"PK\x01\x02")
    archive[at + 24 : at + 28] = struct.pack("<I", 10)
    return bytes(archive)


GOOD = identity()
ATTACKS = {
    "up": lambda: entry("../../escaped"),
    "up-inside": lambda: entry("1/../../../escaped"),
    "absolute": lambda: entry("/tmp/penstock-escaped"),
    "drive": lambda: entry("C:/escaped"),
    "backslash": lambda: entry("..\\escaped"),
    "dot": lambda: entry("./escaped"),
    "empty-component": lambda: entry("1//escaped"),
    "control-character": lambda: entry("1/a\nb"),
    "long-component": lambda: entry("c" * 256),
    "long-path": lambda: entry("/".join(["c" * 200] * 6)),
    "deep": lambda: entry("/".join("c" * 17)),
    "symlink": lambda: entry("1/link", "/etc/passwd", stat.S_IFLNK | 0o777),
    "symlink-up": lambda: entry("1", "../..", stat.S_IFLNK | 0o777),
    "device": lambda: entry("1/null", "", stat.S_IFCHR | 0o666),
    "pipe": lambda: entry("1/pipe", "", stat.S_IFIFO | 0o666),
    "bzip2": lambda: entry("1/a", "x" * 100, compression=zipfile.ZIP_BZIP2),
    "twice": lambda: twice("1/a"),
    "file-and-folder": lambda: zipped({"config.pbtxt": CONFIG, "1": "x", "1/a": "x"}),
    "encrypted": encrypted,
    "corrupted": corrupted,
    "lying": lying,
    "bomb": lambda: zipped({"config.pbtxt": CONFIG, "1/bomb": bytes(512 << 20)}),
    "many-files": lambda: zipped({"config.pbtxt": CONFIG} | {f"1/{n}": "" for n in range(66_000)}, zipfile.ZIP_STORED),
    "truncated": lambda: magika()[:-30],
    "half": lambda: magika()[: len(magika()) // 2],
    "no-start": lambda: GOOD[10:],
    "not-a-zip": lambda: b"#!/bin/sh\necho no\n",
    "empty": lambda: b"",
    "tar": lambda: b"\x1f\x8b\x08" + bytes(100),
    "no-files": lambda: zipped({}),
}
NO_MODEL = {
    "text": {"readme.txt": "nothing"},
    "python": {"app.py": "def handler(event, context): pass"},
    "config-without-model": {"config.pbtxt": 'backend: "onnxruntime"\nmax_batch_size: 8\n'},
    "config-that-is-none": {"config.pbtxt": "backend: {{{"},
    "backend-that-is-none": {"config.pbtxt": 'backend: "abacus"\n'},
    "model-without-weights": {"config.json": "{}", "tokenizer.json": "{}"},
}


def files_of(server):
    """Everything below the data directory but the store's own files, which grow."""
    top = pathlib.Path(server.data.name)
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if "packages" in path.parts)


def refuse(client, name, code):
    """CreateFunction fails with what it says, and there is no such function."""
    with refused(INVALID, 400) as answer:
        create(client, name, code)
    assert answer["Error"]["Message"]
    with refused("ResourceNotFoundException", 404):
        client.get_function(FunctionName=name)
    return answer["Error"]["Message"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack(serving, client, name, attack):
    before, environments = files_of(serving), serving.environments()
    refuse(client, name, ATTACKS[attack]())
    assert sorted(set(files_of(serving)) ^ set(before)) == []
    assert serving.environments() == environments
    above = pathlib.Path(serving.data.name).parent
    assert not list(above.glob("*escaped*")) and not list(pathlib.Path(serving.data.name).rglob("*escaped*"))


@pytest.mark.parametrize("content", NO_MODEL)
def test_a_package_without_a_model(client, name, content):
    """A sound archive that holds nothing to serve is refused now, not when it is published."""
    assert "nothing that can be served" in refuse(client, name, zipped(NO_MODEL[content]))


def test_a_package_without_a_model_is_not_kept(serving, client, name):
    before = files_of(serving)
    refuse(client, name, zipped({"readme.txt": "of this test alone"}))
    until(lambda: files_of(serving) == before, "its files are removed", timeout_s=2)


def test_what_is_wrong_is_named(client, name):
    assert "'1/../../../escaped'" in refuse(client, name, ATTACKS["up-inside"]()).replace('"', "'")
    assert "1/link" in refuse(client, name, ATTACKS["symlink"]())
    assert "not a ZIP archive" in refuse(client, name, b"no")


def test_base64_that_is_none(serving, name):
    body = {"FunctionName": name, "Role": "arn:aws:iam::000000000000:role/r", "Runtime": "onnx", "Code": {"ZipFile": "%%%"}}
    status, headers, answer = ask(serving, "POST", "/2015-03-31/functions", body)
    assert (status, headers["x-amzn-ErrorType"]) == (400, "ValidationException")
    assert "base64" in json.loads(answer)["message"]


def test_a_wrong_update_leaves_the_function_as_it_is(client, name):
    created(client, name)
    before = client.get_function_configuration(FunctionName=name)
    for attack in ("up", "symlink", "truncated", "bomb"):
        with refused(INVALID, 400):
            client.update_function_code(FunctionName=name, ZipFile=ATTACKS[attack](), Publish=True)
    after = client.get_function_configuration(FunctionName=name)
    assert (after["CodeSha256"], after["RevisionId"]) == (before["CodeSha256"], before["RevisionId"])
    assert invoke(client, name, Qualifier="1") == ("1", [1.5, 2.5])


def test_a_package_goes_with_its_last_user(start, tmp_path):
    """Contents are kept while a function or a version has them, once for all that have the same, and then removed."""
    running = start("--model-repository", identity_repository(tmp_path, "own"))
    client, before = client_of(running), files_of(running)
    create(client, "one", magika())
    kept = files_of(running)
    assert set(before) < set(kept)
    created(client, "other", magika())
    assert files_of(running) == kept
    client.delete_function(FunctionName="one")
    client.update_function_code(FunctionName="other", ZipFile=identity())
    gone(client, "one")
    assert set(kept) <= set(files_of(running)), "version 1 has them"
    client.delete_function(FunctionName="other")
    gone(client, "other")
    until(lambda: files_of(running) == before, "all files are removed")
