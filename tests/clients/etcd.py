"""An etcd of a test's own, unpacked by tests/tools.sh: a member that is alone, and can be stopped, killed and started again."""

import base64
import contextlib
import datetime
import ipaddress
import json
import signal
import socket
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scraped import until

from conftest import CACHE

PROGRAM = CACHE / "bin/etcd"


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Etcd:
    """`certificates` are of `certified`: then it speaks TLS, and asks for one."""

    def __init__(self, certificates=None):
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-etcd-")
        self._certificates, scheme = certificates, "https" if certificates else "http"
        self.url, self._peers = f"{scheme}://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        self.start()

    def start(self):
        command = [str(PROGRAM), "--name", "one", "--data-dir", f"{self._folder.name}/data", "--max-request-bytes", "10485760"]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", self._peers, "--initial-advertise-peer-urls", self._peers]
        command += ["--initial-cluster", f"one={self._peers}"]
        if self._certificates:
            command += ["--cert-file", self._certificates["certificate"], "--key-file", self._certificates["key"]]
            command += ["--client-cert-auth", "--trusted-ca-file", self._certificates["ca"]]
        with open(f"{self._folder.name}/log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

        def answers():
            assert self.process.poll() is None, open(f"{self._folder.name}/log").read()[-2000:]
            with contextlib.suppress(urllib.error.URLError, TimeoutError):
                return self.get("any") is None

        try:
            until(answers, "etcd answers", 30)
        except BaseException:
            self.kill()
            raise

    def stand_still(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def ask(self, path, body):
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body).encode())
        context = None
        if self._certificates:
            context = ssl.create_default_context(cafile=self._certificates["ca"])
            context.load_cert_chain(self._certificates["certificate"], self._certificates["key"])
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return json.loads(answer.read())

    def get(self, key):
        """The value of a key; None if there is none."""
        found = self.ask("kv/range", {"key": base64.b64encode(key.encode()).decode()}).get("kvs", [])
        return base64.b64decode(found[0]["value"]).decode() if found else None

    def compact(self):
        """Forgets all history."""
        revision = self.ask("kv/range", {"key": base64.b64encode(b"any").decode()})["header"]["revision"]
        self.ask("kv/compaction", {"revision": revision, "physical": True})


def certified(folder):
    """An authority, and a certificate of it for 127.0.0.1, in files: {"ca", "certificate", "key"}."""
    now = datetime.datetime.now(datetime.timezone.utc)

    def sign(name, key, issuer, by, *extensions):
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(by, hashes.SHA256())

    def named(name):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

    authority_key, own_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = sign(named("authority"), authority_key, named("authority"), authority_key, x509.BasicConstraints(True, None))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    uses = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH])
    own = sign(named("own"), own_key, named("authority"), authority_key, address, uses)
    pem = serialization.Encoding.PEM
    key = own_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = {"ca": ca.public_bytes(pem), "certificate": own.public_bytes(pem), "key": key}
    for name, content in files.items():
        (folder / f"{name}.pem").write_bytes(content)
    return {name: str(folder / f"{name}.pem") for name in files}


@contextlib.contextmanager
def etcd(certificates=None):
    assert PROGRAM.is_file(), f"{PROGRAM} is not there: run tests/tools.sh etcd"
    running = Etcd(certificates)
    try:
        yield running
    finally:
        running.go_on()
        running.kill()
