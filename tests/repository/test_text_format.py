"""Our readers of the model configuration against google.protobuf's, file by file.

The files are in server/repository/tests/configs: those in `accept` must be read by both, to the same message; those in
`reject` must be refused by both. The same messages then go through JSON, in both spellings and both directions. Files
are run through the example `parse_config` of the repository crate, which prints one line a file.
"""

import re
import subprocess
from pathlib import Path
from random import Random

import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "server" / "repository" / "tests" / "configs"
ACCEPT = sorted((CONFIGS / "accept").glob("*.pbtxt"))
REJECT = sorted((CONFIGS / "reject").glob("*.pbtxt"))
CATALOG = sorted((ROOT / "models" / "catalog" / "repository").glob("*/config.pbtxt"))
GOOD = pytest.mark.parametrize("path", ACCEPT + CATALOG, ids=lambda path: f"{path.parent.name}/{path.stem}")


def read_with_ours(files: list[Path]) -> dict[Path, str]:
    """What our reader says of every file."""
    command = ["cargo", "run", "--quiet", "-p", "penstock-repository", "--example", "parse_config", "--", *files]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    assert len(lines) == len(files)
    return dict(zip(files, lines))


def message_of(line: str) -> ModelConfig:
    # The encoding of the empty message is empty: "ok  {...}".
    verdict, content, _ = line.split(" ", 2)
    assert verdict == "ok", line
    return ModelConfig.FromString(bytes.fromhex(content))


def read_with_theirs(path: Path) -> ModelConfig:
    # A byte order mark, which editors add, is no part of the format; our reader skips it.
    return text_format.Parse(path.read_bytes().decode("utf-8-sig"), ModelConfig())


@pytest.fixture(scope="session")
def ours() -> dict[Path, str]:
    return read_with_ours(ACCEPT + REJECT + CATALOG)


@pytest.fixture(scope="session")
def ours_through_json(tmp_path_factory) -> dict[Path, list[str]]:
    """What our reader says of the JSON that google.protobuf prints for every good file, in several spellings."""
    directory = tmp_path_factory.mktemp("json")
    spellings = [
        {},
        {"preserving_proto_field_name": True, "always_print_fields_with_no_presence": True},
        {"use_integers_for_enums": True},
    ]
    written = {}
    for index, path in enumerate(ACCEPT + CATALOG):
        for number, spelling in enumerate(spellings):
            file = directory / f"{index}_{number}.json"
            file.write_text(json_format.MessageToJson(read_with_theirs(path), **spelling))
            written.setdefault(path, []).append(file)
    lines = read_with_ours([file for files in written.values() for file in files])
    return {path: [lines[file] for file in files] for path, files in written.items()}


def test_there_are_enough_files():
    assert len(ACCEPT) >= 30
    assert len(REJECT) >= 30


@GOOD
def test_accepted_alike(path: Path, ours: dict[Path, str]):
    assert message_of(ours[path]) == read_with_theirs(path)


@pytest.mark.parametrize("path", REJECT, ids=lambda path: path.stem)
def test_rejected_alike(path: Path, ours: dict[Path, str]):
    with pytest.raises(text_format.ParseError):
        read_with_theirs(path)
    assert re.match(rf"error {re.escape(str(path))}:\d+:\d+: .+", ours[path]), ours[path]


@GOOD
def test_json_we_print_is_read_by_others(path: Path, ours: dict[Path, str]):
    printed = ours[path].split(" ", 2)[2]
    assert json_format.Parse(printed, ModelConfig()) == read_with_theirs(path)


@GOOD
def test_json_others_print_is_read_by_us(path: Path, ours_through_json: dict[Path, list[str]]):
    for line in ours_through_json[path]:
        assert message_of(line) == read_with_theirs(path)


PIECES = ["{", "}", "[", "]", "<", ">", ":", ",", ";", '"', "'", "#", "\n", " ", "-", "0", "8", "0x", ".", "e", "f"]
PIECES += ["TYPE_FP32", '"a"', "name", "dims", "input", "true", "inf", "\t", "-1", "1.5"]


def changed(text: str, random: Random) -> str:
    """The text with one token taken out, doubled, replaced, or another put before it."""
    tokens = re.findall(r"\w+|\s+|.", text) or [""]
    place = random.randrange(len(tokens))
    token = tokens[place]
    piece = random.choice(PIECES)
    tokens[place] = random.choice(["", token * 2, piece, piece + token])
    return "".join(tokens)


def test_changed_files_are_judged_alike(tmp_path: Path):
    seed = 20_250_117
    random = Random(seed)
    texts = [path.read_bytes().decode("utf-8-sig") for path in ACCEPT]
    files = []
    for number in range(600):
        files.append(tmp_path / f"{number}.pbtxt")
        files[-1].write_bytes(changed(random.choice(texts), random).encode())
    differences = []
    for path, line in read_with_ours(files).items():
        text = path.read_bytes().decode()
        # Where C++ and Python differ, ours is C++: it refuses unknown escapes and takes octal numbers for enums.
        if "a known escape" in line or re.search(r"(data_type|format|kind)\s*:\s*-?0\d", text):
            continue
        try:
            config = read_with_theirs(path)
        except (text_format.ParseError, ValueError):
            config = None
        if line.startswith("ok ") != (config is not None) or (config is not None and message_of(line) != config):
            differences.append((line, text))
    assert not differences, f"seed {seed}"
