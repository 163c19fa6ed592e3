"""Load that steps up and doubles, an instance that is killed, a quiet spell and the first request after it, as one plot: `make demo-scaling`.

Instances are processes of this machine (instances.provider=local). Each environment serves one request at a time, in 50 ms, so that what is
asked of the machine is little and what is asked of the scaler is much. Writes reports/scaling.svg and reports/scaling.md; about two minutes.
Every request has to be answered or refused with a reason, and be in the server's books, else the exit code is 1; times never fail.

PENSTOCK_PROGRAM names another program.
"""

import asyncio
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
os.environ.setdefault("PENSTOCK_PROGRAM", str(ROOT / "target/release/penstock"))
sys.path[:0] = [str(HERE / "demo"), str(ROOT / "tests"), str(ROOT / "tests/clients")]

import aiohttp  # noqa: E402
import curves  # noqa: E402
from scraped import Scraped  # noqa: E402

from conftest import Server, identity_repository  # noqa: E402

SERVICE_S = 0.05
CONCURRENCY = 4
# Seconds from the beginning, and requests a second from then on.
LOAD = [(0, 10), (10, 60), (25, 120), (40, 10), (55, 0)]
KILL_AT_S = 34
# Everything has to be given back by then.
REST_UNTIL_S = 120
SETTINGS = {
    "instances.provider": "local", "instances.vcpu": 3, "instances.vcpu_max": 48, "instances.empty_s": 2, "environments.threads": 1,
    "environments.concurrency": CONCURRENCY, "scaling.down_after_s": 5, "scaling.idle_s": 5, "scaling.interval_ms": 250,
}
MODEL = {"penstock.environments": "0", "penstock.environments_max": "16", "execute_delay_us": str(int(SERVICE_S * 1e6)), "max_batch_size": "1"}
BODY = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5]}],
                   "parameters": {"timeout": 5_000_000}}).encode()


class Run:
    """One server, its clients, and what was seen of both."""

    def __init__(self, server):
        self.server, self.began = server, time.monotonic()
        self.requests, self.samples = [], []

    def now(self):
        return time.monotonic() - self.began

    async def one(self, session):
        at = self.now()
        try:
            async with session.post(f"{self.server.url}/v2/models/own/infer", data=BODY) as answer:
                await answer.read()
                status, reason = answer.status, answer.headers.get("x-penstock-shed-reason")
        except aiohttp.ClientError as error:
            status, reason = 0, type(error).__name__
        self.requests.append({"at": at, "took": self.now() - at, "status": status, "reason": reason})
        return self.requests[-1]

    async def offer(self, session):
        """Poisson arrivals at the rates of LOAD, whatever becomes of those that came before."""
        arrivals, under_way = random.Random(7), set()
        for (start, rate), (end, _) in zip(LOAD, LOAD[1:]):
            at = start
            while rate and (at := at + arrivals.expovariate(rate)) < end:
                await asyncio.sleep(max(0, at - self.now()))
                task = asyncio.create_task(self.one(session))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def watch(self, session):
        while True:
            async with session.get(f"{self.server.url}/2026-11-26/instances") as answer:
                instances = (await answer.json())["Instances"]
            ready = [one for one in instances if one["State"] == "Ready"]
            environments = sum(sum(one["Environments"].values()) for one in ready)
            self.samples.append({"at": self.now(), "instances": len(instances), "ready": len(ready), "environments": environments,
                                 "vcpu": sum(one["VCpu"] for one in instances)})
            await asyncio.sleep(0.2)

    async def kill_one(self, session):
        """The instance that has the most environments."""
        await asyncio.sleep(KILL_AT_S - self.now())
        async with session.get(f"{self.server.url}/2026-11-26/instances") as answer:
            instances = (await answer.json())["Instances"]
        lost, pid = max((sum(one["Environments"].values()), one["Pid"]) for one in instances)
        os.kill(pid, signal.SIGKILL)
        return self.now(), lost


async def story(run):
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        watching = asyncio.create_task(run.watch(session))
        print(f"load: {', '.join(f'{rate}/s from {start} s' for start, rate in LOAD)}; an instance is killed at {KILL_AT_S} s", flush=True)
        _, (killed_at, lost) = await asyncio.gather(run.offer(session), run.kill_one(session))
        print("quiet: everything is given back", flush=True)
        while run.now() < REST_UNTIL_S and (run.samples[-1]["instances"] or run.samples[-1]["environments"]):
            await asyncio.sleep(0.2)
        rested = run.samples[-1]
        # So that it is seen in the plot.
        await asyncio.sleep(3)
        first = await run.one(session)
        print(f"the first request after it: {first['status']} in {first['took']:.2f} s", flush=True)
        await asyncio.sleep(10)
        burst_at = run.now()
        burst = await asyncio.gather(*[run.one(session) for _ in range(1000)])
        print("1,000 at once: " + ", ".join(f"{count} {name}" for name, count in ends(burst).items()), flush=True)
        watching.cancel()
        return {"killed_at": killed_at, "lost": lost, "rested": rested, "first": first, "burst_at": burst_at, "burst": burst}


def ends(requests):
    counted = {}
    for request in requests:
        name = "done" if request["status"] == 200 else f"{request['status']} {request['reason']}"
        counted[name] = counted.get(name, 0) + 1
    return dict(sorted(counted.items(), key=lambda one: -one[1]))


def told(server, run, seen):
    """In seconds, as the log has it: from each step up of the load to the first decision for more; from there to the first environment that was
    ready then; from the killing of an instance to as many being ready as it had; from the decision for the first environment after the quiet spell
    to the answer of the request that wanted it."""
    wall = time.time() - run.now()
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    at = lambda line: curves.seconds(line["timestamp"]) - wall  # noqa: E731
    more = [at(line) for line in lines if line["message"] == "environments" and line["to"] > line["from"]]
    ready = sorted(at(line) for line in lines if line["message"] == "environment ready")
    after = lambda times, since: next((one for one in times if since is not None and one >= since), None)  # noqa: E731
    less = lambda one, other: None if one is None or other is None else one - other  # noqa: E731
    again = [one for one in ready if one >= seen["killed_at"]][:seen["lost"]]
    steps = [start for (_, before), (start, rate) in zip(LOAD, LOAD[1:]) if rate > before]
    decided = [after(more, start) for start in steps]
    first = seen["first"]
    return {
        "decided": [less(at, start) for at, start in zip(decided, steps)],
        "ready": [less(after(ready, at), at) for at in decided],
        "back": again[-1] - seen["killed_at"] if seen["lost"] and len(again) == seen["lost"] else None,
        "answered": less(first["at"] + first["took"], after(more, first["at"])),
    }


def rotation(folder):
    """All instances are replaced, again and again, under load: how many were, and what became of the requests."""
    settings = SETTINGS | {"instances.max_age_s": 3}
    server = start(folder, settings, MODEL | {"penstock.environments": "4", "penstock.environments_max": "4"})
    run = Run(server)

    async def steady():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            arrivals, tasks = random.Random(8), []
            while run.now() < 20:
                await asyncio.sleep(arrivals.expovariate(30))
                tasks.append(asyncio.create_task(run.one(session)))
            await asyncio.gather(*tasks)

    asyncio.run(steady())
    aged = Scraped(server).sum("penstock_instance_events_total", event="aged")
    server.stop()
    return int(aged), ends(run.requests)


def start(folder, settings, model):
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return Server("--model-repository", identity_repository(folder, "own", **model), *options)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server = start(folder / "first", SETTINGS, MODEL)
        run = Run(server)
        seen = asyncio.run(story(run))
        booked = Scraped(server).ended("own")
        times = told(server, run, seen)
        server.stop()
        print("rotation: every instance is replaced at 3 s, for 20 s at 30/s", flush=True)
        aged, rotated = rotation(folder / "second")
        print(f"{aged} instances replaced: " + ", ".join(f"{count} {name}" for name, count in rotated.items()), flush=True)
    unanswered = [one for one in run.requests if one["status"] == 0]
    wrong = []
    if unanswered:
        wrong.append(f"{len(unanswered)} requests were not answered: {unanswered[0]['reason']}")
    if sum(booked.values()) != len(run.requests):
        wrong.append(f"{len(run.requests)} requests were sent, {sum(booked.values()):.0f} are in the books")
    if set(rotated) != {"done"}:
        wrong.append(f"a rotation failed requests: {rotated}")
    if seen["rested"]["instances"]:
        wrong.append(f"{seen['rested']['instances']} instances were kept for nobody")
    if max(one["vcpu"] for one in run.samples) > SETTINGS["instances.vcpu_max"]:
        wrong.append("there were more vCPU than there may be")
    figures = curves.figures(run, seen, SERVICE_S, times, (aged, rotated), ends)
    (HERE / "reports/scaling.svg").write_text(curves.draw(run, seen, SERVICE_S, LOAD))
    (HERE / "reports/scaling.md").write_text(figures)
    print(figures)
    print("\n".join(wrong) or "every request was answered or refused with a reason, and is in the books", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
