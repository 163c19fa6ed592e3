"""Instances over TCP: each side shows a certificate, of one's own authority if there is one, which may change while all runs."""

import datetime
import pathlib
import socket
import ssl
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from lambda_client import client_of, created, identity, invoke
from scraped import until
from test_instances import LOCAL, QUICK, WAIT_S, instances
from test_lambda_scaling import environments, scaled

from conftest import PROGRAM, Server, identity_repository


def authority(days=1):
    """A certificate that may sign others, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "us")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, start + datetime.timedelta(days=2 + days))
    builder = builder.add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    encoding = serialization.Encoding.PEM
    pem = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    return builder.sign(key, hashes.SHA256()).public_bytes(encoding).decode(), pem


def issued(certificate, key, name):
    """A certificate with a name, signed by an authority, and its key: all as PEM."""
    signer = serialization.load_pem_private_key(key.encode(), None)
    issuer = x509.load_pem_x509_certificate(certificate.encode()).subject
    own = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer, x509.Name([]), own.public_key(), x509.random_serial_number(), now - datetime.timedelta(1), now + datetime.timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), False)
    pem = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(), pem


@pytest.fixture
def files(tmp_path):
    return tmp_path / "ca.pem", tmp_path / "ca.key"


def settings(files):
    own = (f"instances.ca_file={files[0]}", f"instances.ca_key_file={files[1]}") if files else ()
    return [option for setting in (*LOCAL, *QUICK, "instances.transport=tcp", *own) for option in ("--set", setting)]


def listens(pid):
    """Where a process listens, over TCP."""
    inodes = set()
    for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink()) if descriptor.is_symlink() else ""
        inodes |= {target[8:-1]} if target.startswith("socket:[") else set()
    rows = [line.split() for line in pathlib.Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    own = [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
    return [(socket.inet_ntoa(bytes.fromhex(address.split(":")[0])[::-1]), int(address.split(":")[1], 16)) for address in own]


def test_ones_own_authority_signs_and_is_replaced_while_all_runs(files, tmp_path):
    first, second = authority(), authority()
    files[0].write_text(first[0])
    files[1].write_text(first[1])
    models = identity_repository(tmp_path / "models", "own")
    server = Server("--model-repository", models, *settings(files))
    try:
        client = client_of(server)
        created(client, "f", identity())
        (own, *_) = instances(server)
        ((host, port),) = listens(own["Pid"])
        assert host == "127.0.0.1"
        # Who shows nothing is nobody; who the instance is can be seen.
        context = ssl.create_default_context(cadata=first[0])
        with socket.create_connection((host, port)) as stream, context.wrap_socket(stream, server_hostname=f"{own['InstanceId']}.instance.penstock.internal") as tls:
            assert tls.version() == "TLSv1.3"
            with pytest.raises((ssl.SSLError, ConnectionError)):
                tls.sendall(b"\0\0\0\0")
                if tls.recv(1) == b"":
                    raise ConnectionError
        files[1].write_text(second[1])
        files[0].write_text(second[0] + first[0])
        until(lambda: any("the authority has changed" in line for line in server.log), "it is seen", WAIT_S)
        scaled(client, "f", 3, 3)
        until(lambda: environments(server, "f") == 3, "new ones come", WAIT_S)
        assert own["InstanceId"] in {one["InstanceId"] for one in instances(server)}, "and the old ones stay"
        # Then nobody needs the first any more.
        files[0].write_text(second[0])
        changed = "the authority has changed"
        until(lambda: sum(changed in line for line in server.log) == 2, "it is seen again", WAIT_S)
        scaled(client, "f", 4, 4)
        until(lambda: environments(server, "f") == 4, "and more", WAIT_S)
        assert invoke(client, "f", 1.5, Qualifier="1") == ("1", [1.5])
        # What is wrong is not taken, and said.
        files[1].write_text("no key")
        until(lambda: any("expected a key in PEM" in line and str(files[1]) in line for line in server.log), "it is said", WAIT_S)
        scaled(client, "f", 5, 5)
        until(lambda: environments(server, "f") == 5, "what was before holds", WAIT_S)
        assert not any("an instance is gone" in line and "lost" in line for line in server.log)
    finally:
        server.stop()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda file, key: key.unlink(), "ca.key: No such file"),
        (lambda file, key: key.write_text(authority()[1]), "it is not the key of the first certificate"),
        (lambda file, key: file.write_text("nothing"), "ca.pem: expected a certificate in PEM"),
        (lambda file, key: [one.write_text(text) for one, text in zip((file, key), authority(days=-1), strict=True)], "was good until"),
    ],
)
def test_a_wrong_authority_is_told_before_anything_is_served(files, change, words):
    for one, text in zip(files, authority(), strict=True):
        one.write_text(text)
    change(*files)
    started = subprocess.run([PROGRAM, "serve", *settings(files)], capture_output=True, text=True, timeout=30, env={"HOME": str(files[0].parent)})
    assert started.returncode != 0 and "instances.ca_file" in started.stderr and words in started.stderr, started.stderr


@pytest.mark.parametrize(
    "setting, words",
    [
        ("instances.ca_file=/a", "instances.ca_key_file is missing"),
        ("instances.ca_key_file=/a", "instances.ca_file is missing"),
        ("instances.listen=0.0.0.0:0", "instances.advertise is missing"),
        ("instances.listen=192.0.2.1:0", "instances.listen: 192.0.2.1:0"),
    ],
)
def test_settings_that_do_not_go_together_are_told(tmp_path, setting, words):
    started = subprocess.run([PROGRAM, "serve", *settings(None), "--set", setting], capture_output=True, text=True, timeout=30, env={"HOME": str(tmp_path)})
    assert started.returncode != 0 and words in started.stderr, started.stderr
