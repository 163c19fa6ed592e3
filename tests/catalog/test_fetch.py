"""models/catalog/fetch.py from outside: real processes, small made-up wheels, no network.

Most tests put a stand-in `pip` first on PYTHONPATH (it counts its calls and copies from a folder); two use the real
one, with a local folder and with an index where nobody listens.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

CATALOG_FOLDER = Path(__file__).resolve().parents[2] / "models" / "catalog"
FETCH = CATALOG_FOLDER / "fetch.py"
LIMIT_S = 60  # of one process; no test comes near

# Writes what a real pip would: an unfinished file under TMPDIR first, then the wheel in --dest.
STAND_IN_PIP = '''
import os, shutil, sys, time
folder = os.environ["FAKE_REGISTRY"]
with open(os.path.join(folder, "calls"), "a") as calls:
    calls.write(sys.argv[-1] + "\\n")
if os.environ.get("FAKE_WORDS"):
    sys.exit(os.environ["FAKE_WORDS"])
name, version = sys.argv[-1].replace("-", "_").split("==")
wheel, = [file for file in os.listdir(folder) if file.startswith(name + "-" + version + "-")]
with open(os.path.join(os.environ["TMPDIR"], wheel), "wb") as unfinished:
    unfinished.write(b"half")
time.sleep(float(os.environ.get("FAKE_DELAY_S", "0")))
shutil.copy(os.path.join(folder, wheel), sys.argv[sys.argv.index("--dest") + 1])
'''


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class World:
    """A catalog of three items, the wheels it names, and an empty cache."""

    def __init__(self, root):
        self.root, self.cache, self.registry = root, root / "cache", root / "registry"
        self.registry.mkdir()
        (root / "fake").mkdir()
        (root / "fake" / "pip.py").write_text(STAND_IN_PIP)
        (root / "config.pbtxt").write_text('name: "tone"\n')
        labels = ["zebra", "ant", "\u00e9clair"]
        self.wanted = {
            "lib/libtone.so.1": b"\x7fELF" * 5000,
            "models/tone/1/model.onnx": bytes(range(256)) * 8000,
            "models/tone/1/deep/config.json": b"{}",
            "models/tone/labels.txt": "zebra\nant\n\u00e9clair\n".encode(),
            "models/tone/config.pbtxt": b'name: "tone"\n',
        }
        here = {"system": os.uname().sysname, "machine": os.uname().machine}
        self.catalog = {"items": [
            {"name": "lib", "what": "a library", "licence": "MIT", "package": "tone-lib", "version": "1.0",
             "wheels": [dict(here, machine="pdp11", file="tone_lib-1.0-cp311-cp311-pdp11.whl", bytes=1, sha256="0",
                             files=[]),
                        dict(here, **self.wheel("tone_lib-1.0-cp311-cp311-linux_%s.whl" % here["machine"],
                                                {"tone/lib.so": "lib/libtone.so.1"}))],
             "links": [{"destination": "lib/libtone.so", "target": "libtone.so.1"}]},
            {"name": "tone", "what": "a model", "licence": "MIT", "package": "tone", "version": "2.0",
             "wheels": [self.wheel("tone-2.0-py3-none-any.whl",
                                   {"tone/m.onnx": "models/tone/1/model.onnx",
                                    "tone/deep.json": "models/tone/1/deep/config.json"},
                                   ("tone/labels.json", json.dumps({"labels": labels}).encode(),
                                    "models/tone/labels.txt", "labels"))],
             "sources": [{"source": "config.pbtxt", "destination": "models/tone/config.pbtxt"}]},
            {"name": "bare", "what": "no wheel", "licence": "MIT", "directories": ["models/bare/1"]},
        ]}
        self.write_catalog()

    def wheel(self, name, members, derived=None):
        files = []
        with zipfile.ZipFile(self.registry / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("-".join(name.split("-")[:2]) + ".dist-info/METADATA", "Metadata-Version: 2.1\nName: %s\n"
                             "Version: %s\n" % tuple(name.split("-")[:2]))
            archive.writestr("-".join(name.split("-")[:2]) + ".dist-info/WHEEL", "Wheel-Version: 1.0\n")
            for member, destination in members.items():
                content = self.wanted[destination]
                archive.writestr(member, content)
                files.append({"member": member, "destination": destination, "bytes": len(content),
                              "sha256": sha256(content)})
            if derived:
                member, content, destination, key = derived
                archive.writestr(member, content)
                made = self.wanted[destination]
                files.append({"member": member, "destination": destination, "bytes": len(made),
                              "sha256": sha256(made), "lines_of": key})
        packed = (self.registry / name).read_bytes()
        return {"file": name, "bytes": len(packed), "sha256": sha256(packed), "files": files}

    def write_catalog(self):
        (self.root / "catalog.json").write_text(json.dumps(self.catalog))

    def command(self, *flags):
        return [sys.executable, str(FETCH), "--catalog", str(self.root / "catalog.json"), "--cache-dir",
                str(self.cache)] + list(flags)

    def environment(self, fake_pip=True, **more):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        kept.update(FAKE_REGISTRY=str(self.registry), PIP_CONFIG_FILE=os.devnull, **more)
        if fake_pip:
            kept["PYTHONPATH"] = str(self.root / "fake")
        return kept

    def fetch(self, *flags, **environment):
        return subprocess.run(self.command(*flags), env=self.environment(**environment), timeout=LIMIT_S,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)

    def start(self, *flags, **environment):
        return subprocess.Popen(self.command(*flags), env=self.environment(**environment), stderr=subprocess.PIPE,
                                universal_newlines=True)

    def calls(self):
        path = self.registry / "calls"
        return path.read_text().split() if path.exists() else []

    def check(self):
        """Exactly the files wanted; no wheel, nothing unfinished."""
        found = {path.relative_to(self.cache).as_posix(): path.read_bytes() for path in self.cache.rglob("*")
                 if path.is_file() and not path.is_symlink()}
        found = {name: content for name, content in found.items() if not name.startswith(".")}
        assert {name: sha256(content) for name, content in found.items()} == \
               {name: sha256(content) for name, content in self.wanted.items()}
        assert os.readlink(self.cache / "lib" / "libtone.so") == "libtone.so.1"
        assert (self.cache / "models" / "bare" / "1").is_dir()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def fetched(world):
    done = world.fetch()
    assert done.returncode == 0, done.stderr
    world.check()
    assert not (world.cache / ".staging").exists()
    return done


def one_failure(done, exit_code):
    """One paragraph, the right code, never a traceback."""
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fetch: ")
    return last


# --- what was verified stays


def test_everything_is_fetched_once(world):
    first = fetched(world)
    assert "tone 2.0: downloading" in first.stderr
    stamp = (world.cache / ".verified.json").stat()
    second = fetched(world)
    assert world.calls() == ["tone-lib==1.0", "tone==2.0"]
    assert "downloading" not in second.stderr
    assert (world.cache / ".verified.json").stat().st_mtime_ns == stamp.st_mtime_ns


def test_only_one_item_and_the_list(world):
    assert world.fetch("--only", "tone").returncode == 0
    assert world.calls() == ["tone==2.0"]
    states = {line.split()[0]: " ".join(line.split()[1:3]) for line in world.fetch("--list").stdout.splitlines()}
    assert states == {"lib": "not there", "tone": "in place", "bare": "not there"}
    assert "no item horn" in one_failure(world.fetch("--only", "horn"), 64)
    assert "--flag" in one_failure(world.fetch("--flag"), 64)


def test_what_is_fetched_only_if_named(world):
    world.catalog["items"].append({"name": "gpu", "what": "large", "licence": "MIT", "directories": ["lib/gpu"], "only_if_named": True})
    world.write_catalog()
    fetched(world)
    assert not (world.cache / "lib/gpu").exists() and "gpu " in world.fetch("--list").stdout
    assert world.fetch("--only", "gpu").returncode == 0 and (world.cache / "lib/gpu").is_dir()


@pytest.mark.parametrize("same_size", [True, False])
def test_a_damaged_file_is_replaced_and_the_others_are_left(world, same_size):
    fetched(world)
    damaged = world.cache / "models" / "tone" / "1" / "model.onnx"
    other = (world.cache / "models" / "tone" / "labels.txt").stat()
    content = bytearray(damaged.read_bytes())
    content[1000] ^= 1
    damaged.write_bytes(content if same_size else content[:500])
    done = fetched(world)
    assert "model.onnx is not what the catalog names: replacing it" in done.stderr
    assert world.calls() == ["tone-lib==1.0", "tone==2.0", "tone==2.0"]
    assert (world.cache / "models" / "tone" / "labels.txt").stat().st_ino == other.st_ino


def test_a_file_that_was_only_touched_is_hashed_and_kept(world):
    fetched(world)
    os.utime(world.cache / "models" / "tone" / "1" / "model.onnx", (1, 1))
    (world.cache / ".verified.json").write_text("not json")
    fetched(world)
    assert len(world.calls()) == 2
    assert json.loads((world.cache / ".verified.json").read_text())


def test_damage_that_size_and_mtime_hide_is_found_by_rehash(world):
    fetched(world)
    path = world.cache / "models" / "tone" / "1" / "model.onnx"
    stat = path.stat()
    path.write_bytes(b"\0" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert world.fetch("--rehash").returncode == 0
    world.check()


def test_missing_links_and_files_of_ours_come_back_without_the_registry(world):
    fetched(world)
    (world.cache / "lib" / "libtone.so").unlink()
    (world.cache / "models" / "bare" / "1").rmdir()
    world.wanted["models/tone/config.pbtxt"] = b'name: "tone"\nmax_batch_size: 2\n'
    (world.root / "config.pbtxt").write_bytes(world.wanted["models/tone/config.pbtxt"])
    fetched(world)
    assert len(world.calls()) == 2


# --- stopped half-way

# Dies like a kill -9 at the n-th rename, before or after it happened.
KILLED_AT_RENAME = """
import os, sys, runpy
left, after = int(sys.argv[1]), sys.argv[2] == "after"
replace = os.replace
def dying(source, destination):
    global left
    left -= 1
    if left == 0 and not after:
        os._exit(9)
    replace(source, destination)
    if left == 0:
        os._exit(9)
os.replace = dying
sys.argv = sys.argv[3:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_rename_nothing_is_half_written_and_the_next_run_finishes(world, moment):
    deaths = 0
    while True:
        shutil.rmtree(world.cache, ignore_errors=True)
        done = subprocess.run([sys.executable, "-c", KILLED_AT_RENAME, str(deaths + 1), moment] + world.command()[1:],
                              env=world.environment(), stderr=subprocess.PIPE, timeout=LIMIT_S)
        if done.returncode == 0:
            break
        assert done.returncode == 9, done.stderr
        deaths += 1
        for name, content in world.wanted.items():
            path = world.cache / name
            assert not path.exists() or path.read_bytes() == content
        calls = len(world.calls())
        kept = list((world.cache / "downloads").glob("*.whl"))
        assert world.fetch().returncode == 0
        world.check()
        assert len(world.calls()) - calls <= 2 - len(kept)  # a verified wheel is not downloaded again
    assert deaths >= 8  # two wheels, five files, a link, a stamp for each item


def test_killed_while_it_downloads(world):
    run = world.start("--only", "tone", FAKE_DELAY_S="30")
    wait_for(lambda: list(world.cache.glob(".staging/*/*/pip/*.whl")))
    run.kill()
    run.wait(LIMIT_S)
    assert not (world.cache / "models").exists()
    fetched(world)


@pytest.mark.parametrize("number, exit_code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_tidies_up_and_takes_pip_along(world, number, exit_code):
    run = world.start("--only", "tone", FAKE_DELAY_S="30")
    wait_for(lambda: list(world.cache.glob(".staging/*/*/pip/*.whl")))
    began = time.monotonic()
    run.send_signal(number)
    _, said = run.communicate(timeout=LIMIT_S)
    assert run.returncode == exit_code and "fetch: stopped" in said and "Traceback" not in said
    assert time.monotonic() - began < 15
    assert not (world.cache / ".staging").exists()
    fetched(world)


def wait_for(condition):
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# --- refused


def test_another_wheel_under_the_name_is_refused_and_both_hashes_are_named(world):
    name = "tone-2.0-py3-none-any.whl"
    with zipfile.ZipFile(world.registry / name, "a") as archive:
        archive.writestr("tone/extra.py", "print('surprise')")
    came = sha256((world.registry / name).read_bytes())
    expected = world.catalog["items"][1]["wheels"][0]["sha256"]
    for flags in [[], ["--wheels", str(world.registry)]]:
        words = one_failure(world.fetch("--only", "tone", *flags), 65)
        assert expected in words and came in words and name in words
        assert not (world.cache / "models").exists()
        assert not list(world.cache.rglob("*.whl"))
    world.wheel(name, {"tone/m.onnx": "models/tone/1/model.onnx"})
    assert len(world.calls()) == 1


def test_a_file_that_is_not_as_pinned_is_not_put_in_place(world):
    pinned = world.catalog["items"][1]["wheels"][0]["files"][0]
    real, pinned["sha256"] = pinned["sha256"], "f" * 64
    world.write_catalog()
    words = one_failure(world.fetch(), 65)
    assert real in words and "f" * 64 in words
    assert not (world.cache / "models" / "tone" / "1" / "model.onnx").exists()


def test_pip_brings_another_file_name(world):
    (world.registry / "tone-2.0-py3-none-any.whl").rename(world.registry / "tone-2.0-1-py3-none-any.whl")
    assert "pip brought tone-2.0-1-py3-none-any.whl" in one_failure(world.fetch("--only", "tone"), 65)


@pytest.mark.parametrize("words, exit_code, told", [
    ("ERROR: No matching distribution found for tone==2.0", 69, "run this again"),
    ("WARNING: Retrying (Retry(total=0)) after connection broken by 'https://me:secret@index/simple': refused", 69,
     "out of reach"),
    ("%s: No module named pip" % sys.executable, 72, "has no pip"),
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", 74, "Make room"),
])
def test_what_pip_says_becomes_one_paragraph(world, words, exit_code, told):
    said = one_failure(world.fetch("--only", "tone", FAKE_WORDS=words), exit_code)
    assert told in said and "secret" not in said
    if exit_code == 69:
        assert "PIP_INDEX_URL" in said and "tone==2.0" in said and "--wheels" in said


def test_a_download_that_stalls_is_bounded(world):
    words = one_failure(world.fetch("--only", "tone", "--stall-s", "0.3", FAKE_DELAY_S="30"), 69)
    assert "no byte came for 0.3 s" in words


def test_no_room(world):
    world.catalog["items"][1]["wheels"][0]["bytes"] = 10 ** 18
    world.write_catalog()
    assert "Make room" in one_failure(world.fetch("--only", "tone"), 74)
    assert world.calls() == []


def test_a_cache_that_cannot_be_made(world):
    (world.root / "file").write_text("")
    world.cache = world.root / "file" / "cache"
    assert "PENSTOCK_CACHE_DIR" in one_failure(world.fetch(), 73)


def test_no_wheel_for_this_machine(world):
    del world.catalog["items"][0]["wheels"][1]
    world.write_catalog()
    assert "pdp11" in one_failure(world.fetch(), 71)
    assert world.fetch("--only", "tone").returncode == 0


@pytest.mark.parametrize("destination", ["../outside", "/outside", "models/../../outside"])
def test_a_destination_outside_the_cache(world, destination):
    world.catalog["items"][1]["wheels"][0]["files"][0]["destination"] = destination
    world.write_catalog()
    assert "leaves the cache" in one_failure(world.fetch(), 78)


# --- two at once


def test_concurrent_runs_fetch_once_between_them(world):
    runs = [world.start(FAKE_DELAY_S="0.5") for _ in range(4)]
    said = [run.communicate(timeout=LIMIT_S)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0, 0], said
    assert sorted(world.calls()) == ["tone-lib==1.0", "tone==2.0"]
    assert any("another run is writing" in words for words in said)
    world.check()


def test_the_wait_for_another_run_is_bounded_and_a_cache_in_place_needs_no_lock(world):
    world.cache.mkdir()
    with open(world.cache / ".fetch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run" in one_failure(world.fetch("--lock-wait-s", "0.2"), 75)
    fetched(world)
    with open(world.cache / ".fetch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert world.fetch("--lock-wait-s", "0").returncode == 0


# --- offline, and the real pip


def test_wheels_from_a_folder(world):
    done = world.fetch("--wheels", str(world.registry), fake_pip=False)
    assert done.returncode == 0, done.stderr
    world.check()
    assert (world.registry / "tone-2.0-py3-none-any.whl").exists()
    shutil.rmtree(world.cache)
    (world.registry / "tone-2.0-py3-none-any.whl").unlink()
    assert "tone-2.0-py3-none-any.whl is not in" in one_failure(world.fetch("--wheels", str(world.registry)), 69)


def test_kept_wheels_serve_the_next_machine(world):
    assert world.fetch("--keep-wheels").returncode == 0
    wheels = world.root / "carried"
    shutil.move(str(world.cache / "downloads"), str(wheels))
    shutil.rmtree(world.cache)
    assert world.fetch("--wheels", str(wheels)).returncode == 0
    world.check()
    assert len(world.calls()) == 2


def test_the_real_pip_with_a_local_folder(world):
    done = world.fetch(fake_pip=False, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(world.registry))
    assert done.returncode == 0, done.stderr
    world.check()


def test_the_real_pip_with_a_registry_out_of_reach(world):
    words = one_failure(world.fetch(fake_pip=False, PIP_RETRIES="1", NO_PROXY="*", no_proxy="*",
                                    PIP_INDEX_URL="http://me:secret@127.0.0.1:9/simple"), 69)
    assert "out of reach" in words and "PIP_INDEX_URL" in words and "tone-lib==1.0" in words
    assert "127.0.0.1:9" in words and "secret" not in words


# --- the catalog that we ship


def test_the_shipped_catalog_is_well_formed():
    catalog = json.loads((CATALOG_FOLDER / "catalog.json").read_text())
    assert len({item["name"] for item in catalog["items"]}) == len(catalog["items"])
    for item in catalog["items"]:
        assert item["licence"] and item["what"]
        for source in item.get("sources", []):
            assert (CATALOG_FOLDER / source["source"]).is_file()
        for wheel in item.get("wheels", []):
            assert wheel["file"].startswith("%s-%s-" % (item["package"].replace("-", "_"), item["version"]))
            # Those for other machines than this one say in their name for which.
            other = {"onnxruntime-arm64": "_aarch64.whl", "onnxruntime-x86_64": "_x86_64.whl"}.get(item["name"])
            assert ("system" in wheel) == (not wheel["file"].endswith(other or "-none-any.whl"))
            assert other is None or all(not file["destination"].startswith("lib/") for file in wheel["files"])
            for pinned in [wheel] + wheel["files"]:
                assert re.match(r"[0-9a-f]{64}$", pinned["sha256"]) and pinned["bytes"] > 0
    done = subprocess.run([sys.executable, str(FETCH), "--list"], stdout=subprocess.PIPE, timeout=LIMIT_S)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(catalog["items"])
