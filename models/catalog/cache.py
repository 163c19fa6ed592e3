"""The cache on disk: what is there and verified, how a file gets in whole, and who may write.

Called by fetch.py. Never knows about packages or the network.

    .fetch.lock      held (flock) by the one run that writes
    .staging/        everything unfinished; swept by the next run that takes the lock
    .verified.json   the stamp: sha256, size and mtime of each file at the time it was hashed
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import time

from failure import DISK_FULL, LOCKED, Failure

CHUNK_BYTES = 1 << 20
LOCK_POLL_S = 0.1


def megabytes(count):
    return "%.1f MB" % (count / 1e6)


def sha256_of(stream):
    import hashlib  # late: the fast path does not need it

    digest = hashlib.sha256()
    for chunk in iter(lambda: stream.read(CHUNK_BYTES), b""):
        digest.update(chunk)
    return digest.hexdigest()


class Cache:
    def __init__(self, root):
        self.root = root
        self.staging = None  # a folder of this run, while it writes
        self._stamp_path = os.path.join(root, ".verified.json")
        self._stamp = {}
        self.load_stamp()

    def path(self, relative):
        return os.path.join(self.root, *relative.split("/"))

    # --- what is there

    def load_stamp(self):
        """A stamp that is missing or unreadable costs a hash of every file, nothing else."""
        try:
            with open(self._stamp_path, encoding="utf-8") as stream:
                stamp = json.load(stream)
        except (OSError, ValueError):
            stamp = {}
        self._stamp = stamp if isinstance(stamp, dict) else {}

    def stamped(self, relative, sha256):
        """True if the file was verified to have this sha256 and is untouched since: one stat."""
        try:
            stat = os.stat(self.path(relative))
        except OSError:
            return False
        return self._stamp.get(relative) == [sha256, stat.st_size, stat.st_mtime_ns]

    def hashes_to(self, relative, sha256):
        """Reads the whole file; remembers a match. None: no such file. False: another content."""
        try:
            with open(self.path(relative), "rb") as stream:
                before = os.fstat(stream.fileno())
                if sha256_of(stream) != sha256:
                    return False
        except FileNotFoundError:
            return None
        self._stamp[relative] = [sha256, before.st_size, before.st_mtime_ns]
        return True

    def linked(self, relative, target):
        try:
            return os.readlink(self.path(relative)) == target
        except OSError:
            return False

    # --- how it gets in: written in .staging, synced, then renamed over the destination

    def save_stamp(self):
        present = {name: entry for name, entry in self._stamp.items() if os.path.exists(self.path(name))}
        text = json.dumps(present, indent=1, sort_keys=True) + "\n"
        staged = os.path.join(self.staging, "stamp")
        with open(staged, "w", encoding="utf-8") as stream:
            stream.write(text)
            _sync(stream)
        self._rename(staged, self._stamp_path)

    def install(self, relative, chunks, sha256):
        """Writes `chunks` as `relative`. Returns the sha256 that came; only a match is put in place."""
        import hashlib

        staged = os.path.join(self.staging, "file")
        digest = hashlib.sha256()
        with open(staged, "wb") as stream:
            for chunk in chunks:
                digest.update(chunk)
                stream.write(chunk)
            _sync(stream)
            stat = os.fstat(stream.fileno())
        if digest.hexdigest() == sha256:
            self._rename(staged, self.path(relative))
            self._stamp[relative] = [sha256, stat.st_size, stat.st_mtime_ns]
        return digest.hexdigest()

    def keep(self, staged, relative):
        """Moves a finished file out of .staging."""
        with open(staged, "rb") as stream:
            os.fsync(stream.fileno())
        self._rename(staged, self.path(relative))

    def drop(self, relative):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(relative))

    def link(self, relative, target):
        staged = os.path.join(self.staging, "link")
        os.symlink(target, staged)
        self._rename(staged, self.path(relative))

    def _rename(self, staged, destination):
        folder = os.path.dirname(destination)
        os.makedirs(folder, exist_ok=True)
        os.replace(staged, destination)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def need_room(self, count, for_what):
        free = shutil.disk_usage(self.root).free
        if free < count:
            raise Failure(DISK_FULL, "no room for %s: it needs %s while it unpacks, and %s has %s free. Make room, "
                          "or choose another place with PENSTOCK_CACHE_DIR or --cache-dir, and run this again."
                          % (for_what, megabytes(count), self.root, megabytes(free)))

    # --- who may write

    @contextlib.contextmanager
    def writing(self, wait_s):
        """One writer at a time. The kernel drops the lock of a run that dies, so it is never stale."""
        import fcntl
        import tempfile

        os.makedirs(self.root, exist_ok=True)
        with open(os.path.join(self.root, ".fetch.lock"), "a") as lock:
            give_up_at = time.monotonic() + wait_s
            told = False
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
                if time.monotonic() >= give_up_at:
                    raise Failure(LOCKED, "another run has been writing to %s for more than %g s. If it is still "
                                  "at work, let it end and run this again; if it hangs, stop it (the lock goes "
                                  "with it)." % (self.root, wait_s))
                if not told:
                    told = True
                    print("another run is writing to %s: waiting for it (at most %g s)" % (self.root, wait_s),
                          file=sys.stderr, flush=True)
                time.sleep(LOCK_POLL_S)
            self.load_stamp()
            staging = os.path.join(self.root, ".staging")
            shutil.rmtree(staging, ignore_errors=True)  # what a killed run left
            os.makedirs(staging, exist_ok=True)         # its pip may live on for a moment and write there
            self.staging = tempfile.mkdtemp(dir=staging)
            try:
                yield
            finally:
                shutil.rmtree(staging, ignore_errors=True)


def _sync(stream):
    stream.flush()
    os.fsync(stream.fileno())
