"""Several servers share a state in etcd: changes go through any, all serve, one leads; and whatever is killed, stands still or falls behind, nothing is lost or doubled."""

import json
import os
import random
import re
import signal
import subprocess
import threading
import time

import boto3
import botocore.exceptions
import pytest
from etcd import certified, etcd, free_port
from lambda_client import REGION, adding, ask, client_of, create, created, gone, identity, invoke, payload, publish, refused, settled, statistics
from remote_services import KEYS, moto
from scraped import Scraped, until
from test_command_line import CONFIG, Shell

from conftest import PROGRAM, Server

BUCKET = "packages"
WAIT_S = 60
TAKEOVER_S = 5


@pytest.fixture(scope="module")
def services():
    with moto() as running:
        running.client("s3").create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture(scope="module")
def store():
    with etcd() as running:
        yield running


class Cluster:
    """Servers on one state, of a test's own."""

    def __init__(self, store, services, prefix, models):
        self.store, self.services, self.prefix, self.models, self.servers = store, services, prefix, models, []

    def start(self, count=1, *settings):
        return [self._start(*settings) for _ in range(count)]

    def _start(self, *settings):
        environment = self.services.environment | {
            "PENSTOCK_STATE_STORE": "etcd",
            "PENSTOCK_ETCD_ENDPOINTS": self.store.url,
            "PENSTOCK_ETCD_PREFIX": self.prefix,
            "PENSTOCK_PACKAGES_S3_BUCKET": BUCKET,
            "PENSTOCK_PACKAGES_S3_PREFIX": self.prefix,
        }
        port = free_port()
        listen = ("--set", f"state.listen=127.0.0.1:{port}")
        self.servers.append(Server("--model-repository", self.models, *listen, *settings, env=environment))
        self.servers[-1].others = port
        return self.servers[-1]

    def leader(self):
        """The server that leads, and the others; None while none does."""
        address = self.store.get(f"{self.prefix}/leader")
        leading = [server for server in self.servers if f"https://127.0.0.1:{server.others}" == address]
        return (leading[0], [server for server in self.servers if server not in leading]) if leading else None

    def led(self):
        return until(self.leader, "a server leads", WAIT_S)


@pytest.fixture
def cluster(store, services, request, tmp_path):
    (tmp_path / "models").mkdir()
    prefix = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    running = Cluster(store, services, f"tests/{prefix}", tmp_path / "models")
    yield running
    store.go_on()
    for server in running.servers:
        server.kill()


def answers(server, name, *values, **more):
    """What an invocation came to: its values, or None if it was refused."""
    try:
        return invoke(client_of(server), name, *values, **more)
    except botocore.exceptions.ClientError:
        return None


def all_answer(servers, name, wanted, **more):
    for server in servers:
        until(lambda server=server: answers(server, name, 1.5, **more) == wanted, f"{server.url} answers {wanted}", WAIT_S)


def test_what_is_changed_through_one_is_served_by_all(cluster):
    servers = cluster.start(3)
    leader, followers = cluster.led()
    clients = [client_of(server) for server in servers]
    for number, client in enumerate(clients):
        created(client, f"f{number}", adding(number + 1))
        clients[number - 1].create_alias(FunctionName=f"f{number}", Name="live", FunctionVersion="1")
    for number in range(3):
        all_answer(servers, f"f{number}", ("1", [1.5 + number + 1]), Qualifier="live")
        assert all([f["FunctionName"] for f in client.list_functions()["Functions"]] == ["f0", "f1", "f2"] for client in clients)

    # A second version, brought up through one and made the live one through another; then some of all else that there is.
    one, other = (client_of(server) for server in followers)
    one.update_function_code(FunctionName="f0", ZipFile=adding(10))
    assert publish(other, "f0") == "2"
    one.update_alias(FunctionName="f0", Name="live", FunctionVersion="2")
    all_answer(servers, "f0", ("2", [11.5]), Qualifier="live")
    one.delete_function(FunctionName="f0", Qualifier="1")
    for server in servers:
        gone(client_of(server), "f0", "1")
        until(lambda server=server: answers(server, "f0", 1.5, Qualifier="1") is None, "it is served no more", WAIT_S)
    scaling = {"MinExecutionEnvironments": 0, "MaxExecutionEnvironments": 0}
    other.put_function_scaling_config(FunctionName="f1", Qualifier="1", FunctionScalingConfig=scaling)
    assert settled(one, "f1", "1")["State"] == "Deactivated"
    for server in servers:
        until(lambda server=server: answers(server, "f1", 1.5, Qualifier="1") is None, "it rests", WAIT_S)
    other.delete_function(FunctionName="f2")
    for server in servers:
        gone(client_of(server), "f2")
        until(lambda server=server: answers(server, "f2", 1.5, Qualifier="1") is None, "it is gone", WAIT_S)
        index = lambda server=server: {entry["name"] for entry in json.loads(ask(server, "POST", "/v2/repository/index")[2])}
        until(lambda: index() == {"f0", "f1"}, "it is in no index", WAIT_S)

    # `$LATEST.PUBLISHED` is replaced everywhere, a version that does not come up nowhere.
    create(one, "latest", adding(1), PublishTo="LATEST_PUBLISHED")
    settled(one, "latest", "$LATEST.PUBLISHED")
    all_answer(servers, "latest", ("$LATEST.PUBLISHED", [2.5]))
    other.update_function_code(FunctionName="latest", ZipFile=adding(2), PublishTo="LATEST_PUBLISHED")
    all_answer(servers, "latest", ("$LATEST.PUBLISHED", [3.5]))
    # Nothing comes back with a server that has nothing but the store and the bucket.
    (late,) = cluster.start()
    all_answer([late], "f0", ("2", [11.5]), Qualifier="live")
    assert all(server.stop() == 0 for server in [late, *followers])
    # One that ends gives its place up at once.
    (late,) = cluster.start()
    at = time.monotonic()
    assert leader.stop() == 0
    cluster.servers.remove(leader)
    client_of(late, attempts=5).create_alias(FunctionName="f0", Name="next", FunctionVersion="2")
    assert time.monotonic() - at < WAIT_S
    assert late.stop() == 0, "".join(late.log[-50:])


def test_invocations_that_are_kept_run_where_it_is_led(cluster):
    servers = cluster.start(2)
    leader, (follower,) = cluster.led()
    client = client_of(follower)
    created(client, "f")
    all_answer(servers, "f", ("1", [1.5]), Qualifier="1")
    before = {server: statistics(server, "f")[0] for server in servers}
    for n in range(10):
        assert client.invoke(FunctionName="f", Qualifier="1", InvocationType="Event", Payload=payload(n))["StatusCode"] == 202
    until(lambda: statistics(leader, "f")[0] - before[leader] == 10, "all of them run there", WAIT_S)
    assert statistics(follower, "f")[0] == before[follower]


class Changes(threading.Thread):
    """Makes changes one after the other, through servers of its choice, each again until it is answered for; what was answered is in `done`."""

    def __init__(self, servers, change, seed):
        super().__init__(daemon=True)
        self.clients = {server: client_of(server, connect_timeout=2, read_timeout=20) for server in servers}
        self.change, self.random, self.done, self.failed, self.ended = change, random.Random(seed), {}, [], threading.Event()

    def run(self):
        try:
            for number in range(100_000):
                again = False
                while not self.ended.is_set():
                    server, began = self.random.choice(list(self.clients)), time.monotonic()
                    try:
                        answer = self.change(self.clients[server], number, again)
                    except botocore.exceptions.ClientError as error:
                        # A refusal that says that it may be tried again.
                        if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                            raise
                        again = True
                        time.sleep(0.05)
                    except (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError):
                        again = True
                        time.sleep(0.05)
                    else:
                        self.done[number] = (answer, began, time.monotonic())
                        break
                if self.ended.is_set():
                    return
        except Exception as error:  # whatever it is, the test is to show it
            self.failed.append(error)

    def end(self):
        self.ended.set()
        self.join(60)
        assert not self.is_alive() and not self.failed, self.failed


def alias(prefix):
    def change(client, number, again):
        try:
            client.create_alias(FunctionName="f", Name=f"{prefix}{number}", FunctionVersion="1", Description=str(number))
        except client.exceptions.ResourceConflictException:
            # What was not answered for had been done.
            assert again, "nobody else makes it"

    return change


def version(client, number, _again):
    client.update_function_configuration(FunctionName="g", Description=f"number {number}")
    found = client.publish_version(FunctionName="g")
    assert found["Description"] == f"number {number}"
    return found["Version"]


def event(client, number, _again):
    answer = client.invoke(FunctionName="f", Qualifier="1", InvocationType="Event", Payload=payload(number))
    return answer["ResponseMetadata"]["RequestId"]


def all_of(call, key, **more):
    """All pages."""
    found, marker = [], None
    while True:
        page = call(**more, **({"Marker": marker} if marker else {}))
        found += page[key]
        marker = page.get("NextMarker")
        if not marker:
            return found


def test_a_killed_leader_is_followed_by_another_and_no_change_is_lost_or_doubled(cluster, tmp_path):
    servers = cluster.start(3)
    leader, followers = cluster.led()
    client = client_of(leader)
    created(client, "f")
    create(client, "g", identity("g"))
    client.put_function_event_invoke_config(
        FunctionName="f", Qualifier="1", DestinationConfig={"OnSuccess": {"Destination": "arn:aws:sqs:us-east-1:000000000000:ends"}}
    )
    queues = cluster.services.client("sqs")
    url = queues.create_queue(QueueName="ends")["QueueUrl"]
    all_answer(servers, "f", ("1", [1.5]), Qualifier="1")
    streams = [Changes(servers, alias(letter), seed) for seed, letter in enumerate("ab")]
    streams += [Changes(servers, version, 7), Changes(servers, event, 8)]
    for stream in streams:
        stream.start()
    until(lambda: all(len(stream.done) >= 5 for stream in streams[:2]) and len(streams[2].done) >= 3, "changes are made", WAIT_S)

    at = time.monotonic()
    leader.process.send_signal(signal.SIGKILL)
    leader.process.wait(10)
    # What began after its end is another's doing.
    dead = time.monotonic()
    acted = lambda stream: [when - at for _, began, when in list(stream.done.values()) if began > dead]
    first = until(lambda: min((one for stream in streams[:2] for one in acted(stream)), default=None), "another acts", WAIT_S)
    print(f"another acted {first:.2f} s after the leader was killed")
    until(lambda: all(len(acted(stream)) >= 5 for stream in streams[:2]) and len(acted(streams[2])) >= 2, "and goes on", WAIT_S)
    for stream in streams:
        stream.end()
    assert first < TAKEOVER_S
    cluster.servers.remove(leader)
    next_leader, _ = cluster.led()
    assert next_leader in followers
    assert [Scraped(one).value("penstock_controller_leads") for one in followers] == [float(one is next_leader) for one in followers]

    for client in map(client_of, followers):
        found = [(one["Name"], one["Description"]) for one in all_of(client.list_aliases, "Aliases", FunctionName="f")]
        assert len(found) == len(set(name for name, _ in found)), "each is there once"
        for stream, letter in zip(streams, "ab"):
            wanted = {(f"{letter}{number}", str(number)) for number in stream.done}
            # The last one may not have been answered for.
            more = {one for one in found if one[0].startswith(letter)} - wanted
            assert wanted <= set(found) and len(more) <= 1, (wanted - set(found), more)
        versions = [one for one in all_of(client.list_versions_by_function, "Versions", FunctionName="g") if one["Version"] != "$LATEST"]
        told = {number: answer for number, (answer, _, _) in streams[2].done.items()}
        said = {one["Version"]: one["Description"] for one in versions}
        assert all(said[told_version] == f"number {number}" for number, told_version in told.items()), "none is lost"
        assert len(set(said.values())) == len(said), "none is doubled"
        assert sorted(map(int, said)) == list(range(1, len(said) + 1)) and len(said) - len(told) <= 1
    # What the killed one had begun is finished by the other, and served by all.
    for number in said:
        assert settled(client, "g", number, WAIT_S)["State"] == "Active"
    all_answer(followers, "g", (max(said, key=int), [1.5]), Qualifier=max(said, key=int))

    # Every invocation that was kept has run, and its end was told.
    kept, ended = {answer for answer, _, _ in streams[3].done.values()}, set()

    def told_of():
        for message in queues.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            ended.add(json.loads(message["Body"])["requestContext"]["requestId"])
            queues.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return kept <= ended

    until(told_of, "all ends are told", WAIT_S)
    print({letter: len(stream.done) for letter, stream in zip(["a", "b", "versions", "events"], streams)}, "changes")


def test_what_is_served_goes_on_without_etcd_and_changes_are_refused(cluster, store):
    servers = cluster.start(2)
    client = client_of(servers[0])
    created(client, "f")
    client.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    all_answer(servers, "f", ("1", [1.5]), Qualifier="live")
    store.stand_still()
    refusals = 0
    until_s = time.monotonic() + 8
    while time.monotonic() < until_s:
        for server in servers:
            assert invoke(client_of(server), "f", 1.5, Qualifier="live") == ("1", [1.5])
        status, _, body = ask(servers[refusals % 2], "DELETE", "/2015-03-31/functions/f/aliases/live")
        assert status in (500, 503), body
        refusals += 1
    with refused("ServiceUnavailableException", 503, "No server leads at the moment") as answer:
        client.create_alias(FunctionName="f", Name="other", FunctionVersion="1")
    assert answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    with refused("ServiceUnavailableException", 503, "the store cannot be reached"):
        client.list_functions()
    store.go_on()
    cluster.led()
    # A client that tries again need not know of it.
    patient = client_of(servers[1], attempts=10)
    patient.create_alias(FunctionName="f", Name="other", FunctionVersion="1")
    all_answer(servers, "f", ("1", [1.5]), Qualifier="other")

    store.kill()
    assert [answers(server, "f", 1.5, Qualifier="other") for server in servers] == [("1", [1.5])] * 2
    store.start()
    patient.create_alias(FunctionName="f", Name="third", FunctionVersion="1")
    all_answer(servers, "f", ("1", [1.5]), Qualifier="third")
    assert all(server.stop() == 0 for server in servers)


def test_one_that_has_fallen_behind_serves_the_newest(cluster, store):
    cluster.start(2)
    leader, (follower,) = cluster.led()
    client = client_of(leader)
    created(client, "f", adding(1))
    all_answer([follower], "f", ("1", [2.5]), Qualifier="1")
    follower.process.send_signal(signal.SIGSTOP)
    try:
        client.update_function_code(FunctionName="f", ZipFile=adding(2))
        publish(client, "f")
        for n in range(200):
            client.tag_resource(Resource=client.get_function(FunctionName="f")["Configuration"]["FunctionArn"], Tags={"n": str(n)})
        client.create_alias(FunctionName="f", Name="live", FunctionVersion="2")
        store.compact()
    finally:
        follower.process.send_signal(signal.SIGCONT)
    all_answer([follower], "f", ("2", [3.5]), Qualifier="live")


def test_signed_changes_are_sent_on_with_their_signatures(cluster, tmp_path):
    id, secret = "AKIAOPERATOR00000000", "secret-of-the-operator"
    (tmp_path / "keys.toml").write_text(f'[[keys]]\nid = "{id}"\nsecret = "{secret}"\nscope = "operate"\n')
    cluster.start(2, "--set", f"auth.keys_file={tmp_path}/keys.toml")
    _, (follower,) = cluster.led()
    client = boto3.client("lambda", endpoint_url=follower.url, region_name=REGION, aws_access_key_id=id, aws_secret_access_key=secret)
    created(client, "f")
    status, _, body = ask(follower, "DELETE", "/2015-03-31/functions/f")
    assert status == 403, body
    client.delete_function(FunctionName="f")
    gone(client, "f")


def test_deploying_by_way_of_one_that_follows(cluster, tmp_path):
    cluster.start(2)
    leader, (follower,) = cluster.led()
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "config.pbtxt").write_text(CONFIG)
    shell = Shell(follower.url, AWS_ACCESS_KEY_ID="any", AWS_SECRET_ACCESS_KEY="any")
    assert shell.json("deploy", folder, "--name", "f", "--runtime", "onnx")["Version"] == "1"
    all_answer([leader, follower], "f", ("1", [1.5]), Qualifier="live")


def test_an_etcd_that_asks_for_certificates(cluster, tmp_path):
    files = certified(tmp_path)
    with etcd(files) as store:
        cluster.store = store
        settings = {"ca": "etcd.ca_file", "certificate": "etcd.certificate_file", "key": "etcd.key_file"}
        (server,) = cluster.start(1, *(word for name, key in settings.items() for word in ("--set", f"{key}={files[name]}")))
        assert cluster.led() == (server, [])
        created(client_of(server), "f")
        assert server.stop() == 0


def test_an_etcd_that_asks_for_a_password(cluster, tmp_path):
    (tmp_path / "password").write_text("word\n")
    with etcd() as store:
        cluster.store = store
        store.ask("auth/user/add", {"name": "root", "password": "word"})
        store.ask("auth/role/add", {"name": "root"})
        store.ask("auth/user/grant", {"user": "root", "role": "root"})
        store.ask("auth/enable", {})
        with pytest.raises(AssertionError, match="etcd.endpoints: etcd cannot be reached at .*user name is empty"):
            cluster.start()
        (server,) = cluster.start(1, "--set", "etcd.user=root", "--set", f"etcd.password_file={tmp_path}/password")
        created(client_of(server, attempts=5), "f")
        assert server.stop() == 0


def test_a_leader_that_hangs_keeps_no_change_waiting(cluster):
    cluster.start(2)
    leader, (follower,) = cluster.led()
    client = client_of(follower, read_timeout=30)
    created(client, "f")
    leader.process.send_signal(signal.SIGSTOP)
    try:
        at = time.monotonic()
        with refused("ServiceUnavailableException", 503, "leads no more; it may have been made"):
            client.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
        assert time.monotonic() - at < 20
        client_of(follower, attempts=5).create_alias(FunctionName="f", Name="other", FunctionVersion="1")
        assert cluster.leader()[0] is follower
    finally:
        leader.process.send_signal(signal.SIGCONT)
    # What it is given when it goes on it sends on.
    client_of(leader, attempts=5).create_alias(FunctionName="f", Name="third", FunctionVersion="1")
    names = {one["Name"] for one in client.list_aliases(FunctionName="f")["Aliases"]}
    assert {"other", "third"} <= names <= {"live", "other", "third"}


def test_a_server_that_does_not_reach_etcd_says_so(tmp_path):
    settings = {"state.store": "etcd", "etcd.endpoints": "http://127.0.0.1:1", "packages.s3_bucket": BUCKET, "data_dir": f"{tmp_path}/state"}
    settings |= {f"listen.{door}": "127.0.0.1:0" for door in ("http", "grpc", "metrics")}
    command = [PROGRAM, "serve", *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | KEYS, timeout=60)
    assert ended.returncode == 1 and "etcd.endpoints: etcd cannot be reached at http://127.0.0.1:1" in ended.stderr, ended.stderr
    command += ["--set", "packages.s3_bucket="]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | KEYS, timeout=60)
    assert ended.returncode == 64 and "packages.s3_bucket: nothing found, and state.store is etcd" in ended.stderr, ended.stderr
