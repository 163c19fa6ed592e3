"""Servers of one state send changes to the one that leads by TLS, on which each shows that it is one of them."""

import json
import socket
import ssl
import time

from lambda_client import client_of, created, refused
from scraped import until
from test_controllers import WAIT_S, cluster, services, store  # noqa: F401
from test_instances_tcp import authority, issued


def hears(port, context, name="server.penstock.internal"):
    """Whether what listens there speaks HTTP with who shows this."""
    with socket.create_connection(("127.0.0.1", port), 10) as stream:
        try:
            with context.wrap_socket(stream, server_hostname=name) as tls:
                assert tls.version() == "TLSv1.3"
                tls.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n")
                return tls.recv(100).startswith(b"HTTP/1.1 200")
        except (ssl.SSLError, ConnectionError):
            return False


def showing(folder, ca, issued):
    """A client that believes a CA, and shows a certificate and its key: all as PEM."""
    context = ssl.create_default_context(cadata=ca)
    if issued:
        (folder / "shown.pem").write_text("".join(issued))
        context.load_cert_chain(folder / "shown.pem")
    return context


def test_servers_hear_each_other_and_nobody_else(cluster, store, tmp_path):
    """By an authority that the first of them has made. Another name, another authority, no certificate and no TLS are nobody's."""
    cluster.start(2)
    leader, (follower,) = cluster.led()
    created(client_of(follower), "f")
    pem = json.loads(store.get(f"{cluster.prefix}/once/authority"))
    ca = (pem["certificate"], pem["key"])
    stranger = authority()
    for who, is_heard in [
        (issued(*ca, "server.penstock.internal"), True),
        (issued(*ca, "i-1.instance.penstock.internal"), False),
        (issued(*stranger, "server.penstock.internal"), False),
        (None, False),
    ]:
        assert hears(leader.others, showing(tmp_path, ca[0], who)) == is_heard, who
    with socket.create_connection(("127.0.0.1", leader.others), 10) as plain:
        plain.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: any\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")
    for server in cluster.servers:
        assert server.stop() == 0


def test_ones_own_authority_of_servers_is_replaced_while_they_run(cluster, store, tmp_path):
    first, second = authority(), authority()
    files = tmp_path / "ca.pem", tmp_path / "ca.key"
    files[0].write_text(first[0])
    files[1].write_text(first[1])
    cluster.start(2, *(option for key, file in zip(("ca_file", "ca_key_file"), files, strict=True) for option in ("--set", f"state.{key}={file}")))
    _, (follower,) = cluster.led()
    assert store.get(f"{cluster.prefix}/once/authority") is None
    client = client_of(follower)
    created(client, "f")
    # Both are believed first, then the other signs, then the first is forgotten.
    for count, (certificates, key) in enumerate([(first[0] + second[0], first[1]), (second[0] + first[0], second[1]), (second[0], second[1])]):
        files[1].write_text(key)
        files[0].write_text(certificates)

        def is_seen(server, count=count):
            return sum("the authority has changed" in line for line in server.log) > count

        until(lambda: all(is_seen(server) for server in cluster.servers), "both have read it", WAIT_S)
        client.create_alias(FunctionName="f", Name=f"a{count}", FunctionVersion="1")
    assert len(client.list_aliases(FunctionName="f")["Aliases"]) == 3


def test_where_nobody_says_a_word_no_change_waits(cluster):
    """An address that leads to something else: it accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        cluster.start(1, "--set", f"state.address=127.0.0.1:{mute.getsockname()[1]}")
        until(lambda: cluster.store.get(f"{cluster.prefix}/leader"), "it leads", WAIT_S)
        (follower,) = cluster.start(1)
        at = time.monotonic()
        with refused("ServiceUnavailableException", 503, "which does not answer"):
            client_of(follower, read_timeout=30).create_alias(FunctionName="f", Name="live", FunctionVersion="1")
        assert time.monotonic() - at < 20
