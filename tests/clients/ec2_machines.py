"""What EC2 has beside its API: machines. Each instance that moto lists runs its own user data, in name spaces of its own, until it is powered off
or ended; metadata tell it who it is. What moto does not keep of a request is noted on the way there."""

import base64
import contextlib
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request

from ec2_services import KEYS, REGION

from conftest import PROGRAM

BUCKET, KEY = "penstock-agents", "penstock"
# What the script finds on an image of Amazon Linux; the rest it finds here.
SYSTEMCTL = """#!/bin/bash
[ "$1" = poweroff ] && touch "$MACHINE/off"
exit 0
"""
SYSTEMD_RUN = """#!/bin/bash
input=/dev/null
while [[ "$1" == --* ]]; do
    case "$1" in --property=StandardInput=file:*) input="${1#--property=StandardInput=file:}" ;; esac
    shift
done
(setsid "$@" < "$input" > "$MACHINE/agent.log" 2>&1; touch "$MACHINE/off") &
exit 0
"""


OVERRIDE = re.compile(r"(LaunchTemplateConfigs\.1\.Overrides)\.(\d+)\.(.+)")


def refused(override):
    """How EC2 tells that a fleet had nothing of what one of its overrides names."""
    return (
        "<item><errorCode>InsufficientInstanceCapacity</errorCode><errorMessage>There is no capacity in this zone.</errorMessage>"
        f"<launchTemplateAndOverrides><overrides><instanceType>{override['InstanceType']}</instanceType>"
        f"<subnetId>{override['SubnetId']}</subnetId></overrides></launchTemplateAndOverrides><lifecycle>on-demand</lifecycle></item>"
    )


class Note(http.server.BaseHTTPRequestHandler):
    """Passes requests on, and notes the user data of an order by its tag. In subnets that are bare nothing can be had: overrides there are answered
    with an error each, as EC2 does, and the others are passed on."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked, errors = dict(urllib.parse.parse_qsl(body.decode("utf-8", "replace"))), ""
        if asked.get("Action") == "CreateFleet":
            orders = [asked[key.removesuffix("Key") + "Value"] for key, value in asked.items() if value == "penstock:order"]
            self.server.user_data[orders[0]] = asked["LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateSpecificationUserData"]
            self.server.fleets.append(asked)
            body, errors = self.without_bare(asked, body)
            if body is None:
                empty = "<fleetId>fleet-00000000-0000-0000-0000-000000000000</fleetId><fleetInstanceSet/>"
                return self.tell(200, f'<CreateFleetResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">{errors}{empty}</CreateFleetResponse>'.encode())
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "content-length", "connection")}
        request = urllib.request.Request(self.server.upstream + self.path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.tell(answer.status, answer.read().replace(b"<fleetId>", errors.encode() + b"<fleetId>", 1), answer.headers)
        except urllib.error.HTTPError as error:
            self.tell(error.code, error.read(), error.headers)

    def without_bare(self, asked, body):
        """What is left to ask for, if anything, and what is said of the rest."""
        overrides, others = {}, {}
        for key, value in asked.items():
            found = OVERRIDE.fullmatch(key)
            if found:
                overrides.setdefault(int(found[2]), {})[found[3]] = value
            else:
                others[key] = value
        bare = [one for one in overrides.values() if one["SubnetId"] in self.server.bare]
        left = [one for _, one in sorted(overrides.items()) if one["SubnetId"] not in self.server.bare]
        self.server.refused += len(bare)
        if not bare:
            return body, ""
        errors = f"<errorSet>{''.join(map(refused, bare))}</errorSet>"
        for number, one in enumerate(left, 1):
            others |= {f"LaunchTemplateConfigs.1.Overrides.{number}.{key}": value for key, value in one.items()}
        return (urllib.parse.urlencode(others).encode() if left else None), errors

    def tell(self, status, body, headers=()):
        self.send_response(status)
        for key in ("Content-Type", "x-amzn-RequestId"):
            if key in headers:
                self.send_header(key, headers[key])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Metadata(http.server.BaseHTTPRequestHandler):
    """Instance metadata, version 2."""

    def do_PUT(self):
        self.tell(200, "token")

    def do_GET(self):
        machine, path = self.server.machine, self.path.removeprefix("/latest/")
        if self.headers.get("X-aws-ec2-metadata-token") != "token":
            return self.tell(401, "")
        told = {
            "dynamic/instance-identity/document": {
                "instanceId": machine.id,
                "privateIp": machine.address,
                "instanceType": machine.listed["InstanceType"],
                "availabilityZone": machine.listed["Placement"]["AvailabilityZone"],
                "region": REGION,
            },
            "meta-data/spot/instance-action": machine.notice,
        }.get(path)
        return self.tell(200, json.dumps(told)) if told else self.tell(404, "")

    def tell(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def listening(handler, address="127.0.0.1", **attributes):
    server = http.server.ThreadingHTTPServer((address, 0), handler)
    server.__dict__.update(attributes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def url_of(server):
    return f"http://{server.server_address[0]}:{server.server_port}"


class Machine:
    """`address` is its own, on the loopback interface."""

    def __init__(self, listed, script, folder, tools, s3_url, address):
        self.id, self.listed, self.notice, self.address = listed["InstanceId"], listed, None, address
        self.folder = folder / self.id
        self.folder.mkdir()
        self.metadata = listening(Metadata, address, machine=self)
        (self.folder / "user-data.sh").write_bytes(script)
        own = {"MACHINE": str(self.folder), "AWS_EC2_METADATA_SERVICE_ENDPOINT": url_of(self.metadata), "PATH": f"{tools}:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(tools)}
        keys = {"AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"], "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"], "AWS_ENDPOINT_URL": s3_url}
        # A disk of its own where the script and the agent write.
        mounts = "mount -t tmpfs tmpfs /opt && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && "
        # Without root, one that is root in a name space of its own alone.
        own_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        command = ["unshare", *own_root, "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "bash", "-c"]
        command += [mounts + 'bash "$MACHINE/user-data.sh"; while [ ! -e "$MACHINE/off" ]; do sleep 0.1; done']
        with open(self.folder / "console.log", "w") as console:
            self.process = subprocess.Popen(command, env=own | keys, stdout=console, stderr=console, start_new_session=True)

    def log(self):
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')}" for file in sorted(self.folder.glob("*.log")))

    def end(self):
        self.process.kill()
        self.process.wait()
        self.metadata.shutdown()


class Machines:
    """Starts what moto lists, and ends what it lists no more; what is powered off is terminated, as instances are that say so. `vcpu_most` is the most
    that was alive at once."""

    def __init__(self, cloud, folder, vcpu_of):
        self.cloud, self.folder, self.vcpu_of, self.machines, self.seen, self.vcpu_most = cloud, folder, vcpu_of, {}, {}, 0
        self.note = listening(Note, upstream=cloud.url, user_data={}, fleets=[], bare=set(), refused=0)
        self.url = url_of(self.note)
        tools = folder / "tools"
        tools.mkdir()
        for name, text in (("systemctl", SYSTEMCTL), ("systemd-run", SYSTEMD_RUN)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        aws = pathlib.Path(os.sys.executable).parent / "aws"
        (tools / "aws").write_text(f'#!/bin/bash\nexec {os.sys.executable} {aws} "$@"\n')
        (tools / "aws").chmod(0o755)
        self.tools = tools
        self._stop, self.failure = threading.Event(), None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def publish(self):
        """Puts the agent's program where instances find it; what the setting says."""
        import hashlib

        import boto3

        small = self.folder / "penstock"
        shutil.copy(PROGRAM, small)
        subprocess.run(["strip", small], check=True)
        content = small.read_bytes()
        s3 = boto3.client("s3", endpoint_url=self.cloud.direct, region_name=REGION, **KEYS)
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key=KEY, Body=content)
        return f"s3://{BUCKET}/{KEY} {hashlib.sha256(content).hexdigest()}"

    def _run(self):
        try:
            self._follow()
        except Exception as error:  # noqa: BLE001, told by whoever stops it
            self.failure = error

    def _follow(self):
        while not self._stop.is_set():
            alive = self.cloud.alive()
            self.vcpu_most = max(self.vcpu_most, sum(self.vcpu_of(one["InstanceType"]) for one in alive.values()))
            for name, listed in alive.items():
                orders = [tag["Value"] for tag in listed.get("Tags", []) if tag["Key"] == "penstock:order"]
                if name not in self.seen and orders:
                    script = base64.b64decode(self.note.user_data[orders[0]])
                    address = f"127.1.{len(self.seen) // 200}.{1 + len(self.seen) % 200}"
                    self.machines[name] = self.seen[name] = Machine(listed, script, self.folder, self.tools, self.cloud.direct, address)
            for name in [name for name in self.machines if name not in alive]:
                self.machines.pop(name).end()
            for name, machine in list(self.machines.items()):
                if (machine.folder / "off").exists() or machine.process.poll() is not None:
                    self.cloud.ec2.terminate_instances(InstanceIds=[name])
            time.sleep(0.2)

    def stop(self):
        self._stop.set()
        self._thread.join()
        assert self.failure is None, self.failure
        for machine in self.machines.values():
            machine.end()
        self.note.shutdown()

    def logs(self):
        return "\n".join(f"=== {name} {one.listed['InstanceType']}\n{one.log()}" for name, one in self.seen.items())
