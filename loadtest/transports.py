#!/usr/bin/env python3
"""What TLS between a server and its instances costs: local instances over TCP against the same over Unix sockets, in alternating slices.

    make clients                                    # builds what is run here, and the clients' environment
    $VENV/bin/python loadtest/transports.py         # half a minute; A is TCP with TLS, B is Unix sockets
"""

import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "tests/clients")]

from conftest import Server, identity_repository  # noqa: E402, found by the line above

LOCAL = ("instances.provider=local", "instances.vcpu=3", "environments.threads=1")


def main():
    with tempfile.TemporaryDirectory() as folder:
        servers = []
        try:
            for transport in ("tcp", "unix"):
                models = identity_repository(pathlib.Path(folder) / transport, "identity", max_batch_size="64")
                settings = (*LOCAL, f"instances.transport={transport}")
                servers.append(Server("--model-repository", models, *[option for setting in settings for option in ("--set", setting)]))
            over_tcp, over_unix = (f"grpc://{server.grpc}" for server in servers)
            for size in (16, 65536):
                print(f"{size} bytes", flush=True)
                command = [ROOT / "target/debug/penstock-loadtest", "compare", "--a", over_tcp, "--b", over_unix, "--model", "identity"]
                subprocess.run([*command, "--tensor-bytes", str(size), "--closed", "32", "--rounds", "6"], check=True)
        finally:
            for server in servers:
                server.stop()


if __name__ == "__main__":
    main()
