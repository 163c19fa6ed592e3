#!/usr/bin/env python3
"""Checks everything on a machine with a GPU: `run.py RESULTS_FOLDER [--cpu]`. Needs Python 3.8, CUDA's libraries, no network.

Each result is written as it comes; a part that fails says so and the next goes on. It is meant to take less than eight minutes.
`--cpu` runs all of it without a GPU, shorter, to try the check itself; `--only PART,PART` runs some. What it writes: inventory.json,
kernels.jsonl (our kernels against their references, and by themselves), bare.jsonl (the forward pass without a server),
reference.jsonl (what the device can do, by PyTorch, if it is there), sweep.jsonl (closed loops against a server), server.json
(goldens, the path to the device, sharing, cold starts, faults, a device without memory, ONNX graphs), sanitizer.txt (by NVIDIA's
compute-sanitizer, if it is there), and summary.json, which says of each part whether it held.
"""

import argparse
import concurrent.futures
import glob
import json
import math
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
READY = re.compile(r"penstock ready http=(\S+) grpc=(\S+) metrics=(\S+)")
# All of it.
TIME_S = 8 * 60
# How long a server may take to get ready.
READY_S = 60
# Largest relative error of an embedding against the kernels' references: both round to half at the same places, in another order.
KERNEL_ERROR_MAX = 5e-3
# What a batch may take in its executor beside the same in a loop without a server.
OVER_BARE_MAX = 1.1
# Rows of the larger batch for which that is measured.
PATH_ROWS = 32
# How the names of our kernels begin.
OUR_KERNELS = ("embed", "add_norm", "activate", "attend", "pool")
# Largest error of a score of the graph, between 0 and 1.
SCORE_ERROR_MAX = 2e-3
# Device memory of a version with too little for a full batch: what a context takes, and 160 MiB for each of two workers.
TIGHT_BYTES = (768 + 320) << 20
# Least cosine against the float64 goldens, with weights in 16 bit.
COSINE_MIN = 0.999


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--cpu", action="store_true")
    parts = (inventory, kernels, goldens, bare, path, sweep, sharing, cold, faults, full, onnx, reference, sanitizer)
    parser.add_argument("--only", default=",".join(part.__name__ for part in parts))
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    check = Check(options.results, options.cpu)
    for part in (part for part in parts if part.__name__ in options.only.split(",")):
        began = time.monotonic()
        try:
            outcome = part(check)
        except Exception as error:
            outcome = f"failed: {type(error).__name__}: {error}"[:1000] + check.warnings()
        check.summary[part.__name__] = {"outcome": outcome, "seconds": round(time.monotonic() - began, 1)}
        check.write("summary.json", check.summary)
        print(f"{part.__name__}: {outcome} ({time.monotonic() - began:.1f} s)", flush=True)
    outcomes = [part["outcome"] for part in check.summary.values() if isinstance(part, dict)]
    # Without a GPU most is left out, and that is no failure.
    good = all(outcome.startswith("holds" if not options.cpu else ("holds", "left out")) for outcome in outcomes)
    return 0 if good else 1


class Check:
    def __init__(self, results, cpu):
        self.results, self.cpu, self.log, self.server_found = results, cpu, [], {}
        self.until = time.monotonic() + TIME_S
        self.libraries = [] if cpu else libraries()
        packed = HERE / "packed.json"
        self.summary = {
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "packed": json.dumps(json.loads(packed.read_text())) if packed.exists() else "",
            "libraries": " ".join(self.libraries), "on": "cpu" if cpu else "gpu",
        }

    def write(self, name, value):
        (self.results / name).write_text(json.dumps(value, indent=1))

    def keep(self, part, found):
        self.server_found[part] = found
        self.write("server.json", self.server_found)

    def lines(self, name, command, timeout_s, more=False):
        """Runs a program that prints JSON lines, and keeps them, after those that are there if there are to be more."""
        # Into the file as it comes: what was known when the time was up is kept.
        with open(self.results / name, "a" if more else "w") as kept:
            done = subprocess.run([str(word) for word in command], env=self.environment(), stdout=kept, stderr=subprocess.PIPE,
                                  text=True, timeout=self.left(timeout_s))
        if done.returncode != 0:
            raise RuntimeError(f"{pathlib.Path(command[0]).name}: {done.stderr.strip()[-800:]}")
        return [json.loads(line) for line in (self.results / name).read_text().splitlines() if line.startswith("{")]

    def environment(self):
        path = ":".join([*self.libraries, os.environ.get("LD_LIBRARY_PATH", "")]).strip(":")
        return dict(os.environ, LD_LIBRARY_PATH=path)

    def left(self, seconds):
        """So many, or as many as are left of all."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise RuntimeError("no time is left")
        return min(seconds, left)

    def server(self, *arguments):
        self.left(READY_S)
        self.log = []
        return Server(self, *arguments)

    def warnings(self):
        """What the last server said that was not as it should be."""
        return "".join("\n" + line.strip() for line in self.log if '"level":"INFO"' not in line)[-2500:]


def libraries():
    """Folders of CUDA's libraries, where the loader would not find them by itself."""
    known = subprocess.run(["sh", "-c", "ldconfig -p 2>/dev/null"], capture_output=True, text=True).stdout
    found = []
    for name in ("libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libcudart.so.13", "libcufft.so.12", "libcudnn.so.9"):
        if name in known:
            continue
        places = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"]
        places += [folder for root in sys.path for folder in glob.glob(f"{root}/nvidia/*/lib")]
        found += [place for place in places if os.path.exists(f"{place}/{name}")][:1]
    return sorted(set(found))


class Server:
    def __init__(self, check, *arguments):
        sets = ["listen.http=127.0.0.1:0", "listen.grpc=127.0.0.1:0", "listen.metrics=127.0.0.1:0",
                "devices.interval_ms=200"]
        # On the CPU it wants ONNX Runtime's library, from this machine's cache.
        on_gpu = [f"cache_dir={HERE}", f"devices.library_path={':'.join(check.libraries)}"]
        sets += ["devices.use=none"] if check.cpu else on_gpu
        command = [str(HERE / "bin/penstock"), "serve", *(word for value in sets for word in ("--set", value)), *map(str, arguments)]
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.log = check.log
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()
        late = threading.Timer(READY_S, self.process.kill)
        late.start()
        line = self.process.stdout.readline()
        late.cancel()
        found = READY.search(line)
        if found is None:
            self.end()
            raise RuntimeError("the server did not get ready: " + "".join(self.log)[-800:])
        self.http, self.grpc, self.metrics = found.groups()
        self.ready_s = time.monotonic() - began

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def environments(self):
        pids = set()
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            pids |= {int(pid) for pid in (task / "children").read_text().split()}
        return sorted(pids)

    def post(self, path, body, timeout_s=60):
        """Status and body."""
        request = urllib.request.Request(f"http://{self.http}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def embed(self, model, texts):
        text = {"name": "text", "datatype": "BYTES", "shape": [len(texts), 1], "data": texts}
        status, body = self.post(f"/v2/models/{model}/infer", {"inputs": [text]})
        if status != 200:
            raise RuntimeError(f"{status} {body}")
        (output,) = body["outputs"]
        width = output["shape"][1]
        return [output["data"][row * width : (row + 1) * width] for row in range(len(texts))]

    def index(self):
        return self.post("/v2/repository/index", {})[1]

    def gauge(self, name):
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{")]
        return sum(values) / len(values) if values else None

    def device(self):
        """Where the environments said they run."""
        return sorted({found.group(1) for line in self.log for found in [re.search(r'"device":"([^"]+)"', line)] if found})


def load(server, folder, model, *options, seconds=3, scheme="embeddings"):
    file = pathlib.Path(folder) / f"{model}-{time.monotonic_ns()}.json"
    address = server.http if scheme == "embeddings" else server.grpc
    command = [HERE / "bin/penstock-loadtest", "run", "--target", f"{scheme}://{address}", "--model", model,
               "--seconds", seconds, "--drain", 30, "--json", file, *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=seconds * 4 + 60)
    if done.returncode != 0:
        raise RuntimeError(f"the generator: {done.stderr.strip()[-500:]}")
    return json.loads(file.read_text())["steps"]


# --- the parts


def inventory(check):
    seen = {}
    for name, command in (("penstock devices", [HERE / "bin/penstock", "devices"]), ("nvidia-smi", ["nvidia-smi"]),
                          ("nvidia-smi -q", ["nvidia-smi", "-q"]), ("uname", ["uname", "-a"]), ("lscpu", ["lscpu"])):
        if shutil.which(str(command[0])) is None:
            continue
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
        seen[name] = (done.stdout + done.stderr).splitlines()[:400]
    check.write("inventory.json", seen)
    gpus = [line for line in seen["penstock devices"] if line.startswith("device  gpu")]
    check.summary["gpus"] = "; ".join(gpus)
    return f"holds: {len(gpus)} seen" if gpus or check.cpu else "failed: no GPU was seen"


def kernels(check):
    if check.cpu:
        return "left out: there is no GPU"
    lines = check.lines("kernels.jsonl", [HERE / "bin/penstock-kernel-check", 15], 90)
    agree = [line for line in lines if line["check"] == "kernels"]
    worst = max(line["relative_error"] for line in agree)
    passes = [line for line in lines if line["check"] == "pass"]
    good = worst < KERNEL_ERROR_MAX and all(line["finite"] for line in agree) and all(line["as_alone"] for line in passes)
    most = max(line["tokens_per_s"] for line in passes)
    phases = {(line["rows"], line["lanes"]): line for line in lines if line["check"] == "phases"}
    # Enough to be given kernel by kernel, and not enough to fill the device.
    one, two = phases[64, 1], phases[64, 2]
    # Copies that waited for the other lane's work to end would be long.
    copies = all(two[copy] < 5 * one[copy] for copy in ("copy_in_ms", "copy_out_ms"))
    good = good and copies and two["copying_while_another_computes"] > 0.5 and two["computing"] > one["computing"]
    beside = f"{two['copying_while_another_computes']:.0%} of copying, work on the device {one['computing']:.0%} to {two['computing']:.0%} of the time"
    return f"{'holds' if good else 'failed'}: relative error up to {worst:.1e}, at most {most:.0f} tokens/s; two lanes of 64 x 128: beside the other's work {beside}"


def bare(check):
    if check.cpu:
        return "left out: the program is linked against the driver's library"
    program = [HERE / "bin/penstock-bare-forward", HERE / "models/minilm/1"]
    lines = check.lines("bare.jsonl", [*program, 15], 120)
    most = max(line["tokens_per_s"] for line in lines if line["check"] == "forward")
    # In 32 bit by candle: the driver compiles its kernels first, which takes eight seconds.
    lines = check.lines("bare.jsonl", [*program, 3, "candle"], 120, more=True)
    worst = min(line["min_cosine"] for line in lines if line["check"] == "agree")
    return f"{'holds' if worst > COSINE_MIN else 'failed'}: least cosine {worst:.7f}, at most {most:.0f} tokens/s"


def sanitizer(check):
    """Memory that kernels must not touch, and what our own do to each other in shared memory. (racecheck takes how cuBLAS's
    kernels wait for copies for races, as seen on an H200: those are counted and not judged.)"""
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None or check.cpu:
        return "left out: there is no compute-sanitizer"
    said = {}
    for tool, end in (("memcheck", "ERROR SUMMARY: "), ("racecheck", "RACECHECK SUMMARY: ")):
        command = [program, "--tool", tool, str(HERE / "bin/penstock-kernel-check"), "0"]
        done = subprocess.run(command, env=check.environment(), capture_output=True, text=True, timeout=check.left(90))
        said[tool] = done.stdout + done.stderr
        (check.results / "sanitizer.txt").write_text("\n".join(f"{name}:\n{text}" for name, text in said.items()))
        if end not in said[tool]:
            return f"failed: {tool} came to no end: {said[tool][-300:]}"
    hazards = re.findall(r"access at (\w+)", said["racecheck"])
    ours = sorted({name for name in hazards if name.startswith(OUR_KERNELS)})
    clean = "ERROR SUMMARY: 0 errors" in said["memcheck"] and not ours
    return f"{'holds' if clean else 'failed'}: hazards in {ours or 'none'} of ours and {len(set(hazards))} others; memcheck " \
           + re.search(r"ERROR SUMMARY: .*", said["memcheck"])[0].lower()


def reference(check):
    if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode != 0:
        return "left out: there is no PyTorch"
    lines = check.lines("reference.jsonl", [sys.executable, HERE / "reference.py", HERE / "models/minilm/1"], 150)
    return f"holds: {len(lines)} figures"


def goldens(check):
    texts = json.loads((HERE / "goldens.json").read_text())
    with check.server("--model-repository", HERE / "models") as server:
        together = server.embed("minilm", [golden["text"] for golden in texts])
        alone = [server.embed("minilm", [golden["text"]])[0] for golden in texts]
        cosines = [cosine(found, golden["embedding"]) for found, golden in zip(together, texts)]
        singles = [cosine(a, b) for a, b in zip(together, alone)]
        first_s = server.ready_s
        found = {"device": server.device(), "ready_s": first_s, "memory": memory(), "cosines": cosines,
                 "together_and_alone": singles, "index": server.index(), "log": [line for line in server.log if "ready" in line or "WARN" in line][:20]}
    check.keep("goldens", found)
    by_candle = any("our kernels cannot run this encoder" in line for line in server.log)
    on_gpu = check.cpu or not by_candle and any(device.startswith(("GPU", "MIG")) for device in found["device"])
    good = min(cosines) >= COSINE_MIN and min(singles) > 0.99999 and on_gpu
    return f"{'holds' if good else 'failed'}: least cosine {min(cosines):.6f}, on {found['device']}, ready in {first_s:.2f} s"


def memory():
    """Device memory by process, as the driver counts it."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-compute-apps=name,used_memory", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.splitlines()


def cosine(a, b):
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))  # noqa: E731
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def sweep(check):
    """Closed loops: lengths and numbers in flight, with how busy the GPU was."""
    kept = open(check.results / "sweep.jsonl", "w")
    best = 0.0
    loads = (1, 8) if check.cpu else (1, 8, 32, 128, 512)
    with check.server("--model-repository", HERE / "models", "--set", "environments.concurrency=4096") as server, \
            tempfile.TemporaryDirectory() as folder, kept:
        for tokens in ("16", "128", "lognormal:8-256"):
            for flight in loads:
                busy, stop = [], threading.Event()
                watching = threading.Thread(target=watch, args=(server, busy, stop))
                watching.start()
                (step,) = load(server, folder, "minilm", "--tokens", tokens, "--closed", flight, seconds=1 if check.cpu else 3)
                stop.set()
                watching.join()
                if not step["goodput_rps"]:
                    raise RuntimeError(f"nothing was served: {step['outcomes']}; {server.index()}")
                line = {"tokens": tokens, "in_flight": flight, "requests_per_s": step["throughput_rps"],
                        "latency_ms": step["latency"], "generator_cpu_percent": step["generator_cpu_percent"],
                        "gpu_busy": sorted(busy)[len(busy) // 2] if busy else None}
                best = max(best, line["gpu_busy"] or 0)
                kept.write(json.dumps(line) + "\n")
                kept.flush()
    return f"{'holds' if best >= 0.6 or check.cpu else 'failed'}: GPU busy up to {best:.0%} (aim 60 %)"


def path(check):
    """What a batch takes in its environment's executor, from tokens to tensors, over the bare forward pass of the same batch (the
    hand-over, turns and the link are outside): one row at a time, where the worker rests between them, and batches of many
    without a pause, on one worker."""
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        repository = pathlib.Path(folder) / "models"
        shutil.copytree(HERE / "models/minilm", repository / "minilm")
        (repository / "minilm/config.pbtxt").write_text(f"max_batch_size: {PATH_ROWS} instance_group [ {{ count: 1 }} ]\n")
        with check.server("--model-repository", repository) as server:
            for tokens in (16, 128):
                for rows, flight in ((1, 1), (PATH_ROWS, 4 * PATH_ROWS)):
                    before = of_batches(server, rows)
                    load(server, folder, "minilm", "--tokens", tokens, "--closed", flight, seconds=1 if check.cpu else 3)
                    costs.append(path_cost(check, rows, tokens, before, of_batches(server, rows)))
    check.keep("path", costs)
    told = ", ".join(f"{cost['rows']} x {cost['tokens']} {cost['over_bare']:.2f} (rested {cost['over_bare_rested']:.2f})" for cost in costs if cost["over_bare"])
    # One at a time against a loop that rests as well.
    over = [cost["over_bare_rested" if cost["rows"] == 1 else "over_bare"] for cost in costs]
    good = all(value is None or value <= OVER_BARE_MAX for value in over)
    return f"{'holds' if good or check.cpu else 'failed'}: over the bare pass {told}"


def of_batches(server, rows):
    """Batches of so many rows so far, and what they took in the environment: from tokens to tensors."""
    with urllib.request.urlopen(f"http://{server.http}/v2/models/minilm/stats", timeout=10) as answer:
        (stats,) = json.loads(answer.read())["model_stats"]
    for batch in stats["batch_stats"]:
        if int(batch["batch_size"]) == rows:
            ns = sum(int(batch[step]["ns"]) for step in ("compute_input", "compute_infer", "compute_output"))
            return int(batch["compute_infer"]["count"]), ns
    return 0, 0


def path_cost(check, rows, tokens, before, after):
    if after[0] == before[0]:
        raise RuntimeError(f"no batch of {rows} rows ran")
    each_ms = (after[1] - before[1]) / (after[0] - before[0]) / 1e6
    file = check.results / "bare.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    ours = [line for line in lines if (line.get("rows"), line.get("tokens")) == (rows, tokens)][:1]
    bare_ms = {name: line[name] for line in ours for name in ("mean_ms", "rested_mean_ms")}
    over = {name: each_ms / ms for name, ms in bare_ms.items()}
    return {"rows": rows, "tokens": tokens, "batches": after[0] - before[0], "environment_mean_ms": each_ms, "bare": bare_ms,
            "over_bare": over.get("mean_ms"), "over_bare_rested": over.get("rested_mean_ms")}


def watch(server, busy, stop):
    while not stop.wait(0.2):
        value = server.gauge("nv_gpu_utilization")
        if value is not None:
            busy.append(value)


def sharing(check):
    """Two functions on one device: alone, then together."""
    seconds = 1 if check.cpu else 5
    with tempfile.TemporaryDirectory() as folder:
        repository = pathlib.Path(folder) / "models"
        for name in ("first", "second"):
            shutil.copytree(HERE / "models/minilm", repository / name)
        with check.server("--model-repository", repository) as server:
            run = lambda name: load(server, folder, name, "--tokens", "16", "--closed", 32, seconds=seconds)[0]["throughput_rps"]  # noqa: E731
            alone = run("first")
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                together = list(pool.map(run, ("first", "second")))
            found = {"alone_rps": alone, "together_rps": together, "device": server.device()}
    check.keep("sharing", found)
    placed = check.cpu or all(device.startswith(("GPU", "MIG")) for device in found["device"])
    fair = placed and min(together) > 0.6 * max(together)
    return f"{'holds' if fair else 'failed'}: {alone:.0f}/s alone, {together[0]:.0f}/s and {together[1]:.0f}/s together"


def cold(check):
    """Starts of a model of 91 MB: its weights in 32 bit again, as they are usually published."""
    with tempfile.TemporaryDirectory() as folder:
        repository = pathlib.Path(folder) / "models"
        shutil.copytree(HERE / "models/minilm", repository / "minilm")
        size = widen(repository / "minilm/1/model.safetensors")
        starts = []
        for _ in range(2 if check.cpu else 4):
            with check.server("--model-repository", repository) as server:
                server.embed("minilm", ["Hello."])
                (ready,) = [json.loads(line) for line in list(server.log) if "environment ready" in line]
                starts.append({"server_ready_s": server.ready_s, "load_ms": ready["load_ms"], "warmup_ms": ready["warmup_ms"]})
    check.keep("cold", {"bytes": size, "starts": starts})
    spawned = sorted(start["load_ms"] + start["warmup_ms"] for start in starts)
    return f"{'holds' if spawned[len(spawned) // 2] < 1000 else 'failed'}: {size / 1e6:.0f} MB, {spawned} ms of loading and warming up (aim 1000)"


def widen(file):
    """Weights in 32 bit, from those in 16; the bytes of the file."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body, out, at = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :], [], 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        values = bytes(body[begin:end])
        if tensor["dtype"] == "F16":
            count = len(values) // 2
            values = struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", values))
            tensor["dtype"] = "F32"
        tensor["data_offsets"] = [at, at + len(values)]
        out.append(values)
        at += len(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(out))
    return file.stat().st_size


def faults(check):
    """A kill under load, more memory than there is, and a context that is broken for good in one of two environments."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = pathlib.Path(folder) / "models"
        shutil.copytree(HERE / "models/minilm", repository / "minilm")
        shutil.copytree(HERE / "models/minilm", repository / "huge")
        (repository / "huge/config.pbtxt").write_text(
            'instance_group [ { kind: KIND_GPU } ]\nparameters { key: "penstock.device_memory_bytes" value { string_value: "%d" } }\n' % (1 << 45))
        with check.server("--model-repository", repository, "--model-control-mode", "explicit", "--load-model", "minilm") as server:
            status, body = server.post("/v2/repository/models/huge/load", {})
            found["too_much"] = {"status": status, "answer": body}
            found["before"] = server.embed("minilm", ["Still there?"])[0]
            (pid,) = server.environments()
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                loading = pool.submit(load, server, folder, "minilm", "--tokens", "16", "--closed", 16, seconds=4)
                time.sleep(2)
                killed = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                while True:
                    try:
                        server.embed("minilm", ["back?"])
                        break
                    except RuntimeError:
                        if time.monotonic() - killed > 30:
                            raise
                        time.sleep(0.005)
                found["served_again_s"] = time.monotonic() - killed
                (step,) = loading.result()
            found["outcomes"] = step["outcomes"]
            found["last"] = server.embed("minilm", ["Still there?"])[0]
            if not check.cpu:
                found["broken_context"] = broken_context(server, repository)
    check.keep("faults", found)
    refused = "device memory" in json.dumps(found["too_much"]) or check.cpu
    if not check.cpu:
        broken = found["broken_context"]
        refused = refused and broken["status"] >= 500 and broken["others_kept_their_process"] and broken["served_again_s"] < 30
    refused = refused and any(outcome["class"] == "ok" for outcome in found["outcomes"])
    refused = refused and cosine(found["before"], found["last"]) > 0.99999
    # While there is no environment callers are refused; nobody may be left without an answer, or with a wrong one.
    refused = refused and all(outcome["class"] in ("ok", "shed") for outcome in found["outcomes"])
    return f"{'holds' if refused else 'failed'}: served again {found['served_again_s']:.2f} s after a kill, {found['outcomes']}"


def broken_context(server, repository):
    """A kernel stops with an error that stays: its environment ends and comes back, and the other one does not notice."""
    folder = repository / "breaks"
    (folder / "1").mkdir(parents=True)
    tensor = '{ name: "%s" data_type: TYPE_UINT8 dims: [ 1 ] }'
    (folder / "config.pbtxt").write_text(
        'backend: "identity" max_batch_size: 1 instance_group [ { kind: KIND_GPU } ]\n'
        f'input [ {tensor % "INPUT0"} ] output [ {tensor % "OUTPUT0"} ]\n'
        'parameters { key: "device_fault_on_first_byte" value { string_value: "66" } }\n')
    server.post("/v2/repository/models/breaks/load", {})
    before = set(server.environments())
    ask = lambda byte: server.post("/v2/models/breaks/infer", {  # noqa: E731
        "inputs": [{"name": "INPUT0", "datatype": "UINT8", "shape": [1, 1], "data": [byte]}]})
    found = {"before": ask(1)[0]}
    found["status"], found["answer"] = ask(66)
    began = time.monotonic()
    while ask(1)[0] != 200 and time.monotonic() - began < 30:
        server.embed("minilm", ["and the other?"])
        time.sleep(0.01)
    found["served_again_s"] = time.monotonic() - began
    found["others_kept_their_process"] = len(before & set(server.environments())) == 1
    return found


def full(check):
    """No memory left on the device: refused with the reason, and loaded once there is some."""
    if check.cpu or subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode != 0:
        return "left out: there is nothing that fills a GPU"
    fill = "import torch; free = torch.cuda.mem_get_info()[0]; x = torch.empty(free - (200 << 20), dtype=torch.uint8, device='cuda'); " \
           "torch.cuda.synchronize(); print('full', flush=True); input()"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = pathlib.Path(folder) / "models"
        shutil.copytree(HERE / "models/minilm", repository / "minilm")
        (repository / "minilm/config.pbtxt").write_text("instance_group [ { kind: KIND_GPU } ]\n")
        filling = subprocess.Popen([sys.executable, "-c", fill], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        late = threading.Timer(check.left(60), filling.kill)
        late.start()
        try:
            if filling.stdout.readline().strip() != "full":
                raise RuntimeError("the device could not be filled")
            with check.server("--model-repository", repository) as server:
                found["while_full"] = server.index()
                filling.communicate("\n", timeout=30)
                freed = time.monotonic()
                while server.index()[0]["state"] != "READY":
                    if time.monotonic() - freed > 40:
                        raise RuntimeError(f"it did not come back: {server.index()}")
                    time.sleep(0.05)
                found["ready_again_s"] = time.monotonic() - freed
                found["answer"] = server.embed("minilm", ["Is there room?"])[0][:4]
        finally:
            late.cancel()
            filling.kill()
    check.keep("full", found)
    told = found["while_full"][0].get("reason", "")
    good = found["while_full"][0]["state"] != "READY" and "MEMORY" in told.upper()
    return f"{'holds' if good else 'failed'}: {told[:160]!r}, ready {found['ready_again_s']:.1f} s after there was room"


def onnx(check):
    """A graph by ONNX Runtime's CUDA provider: right, alike alone and together, within its memory, and back after a kill."""
    library = HERE / "lib/cuda/libonnxruntime.so"
    if not library.exists():
        return "left out: ONNX Runtime's CUDA provider is not here"
    cases = json.loads((HERE / "magika.json").read_text())["cases"]
    rows = [[(at * case["a"] + case["b"]) % 257 for at in range(2048)] for case in cases]
    seconds, found = 1 if check.cpu else 4, {}
    on_cpu = ("--set", f"onnxruntime.library={library}", "--set", "devices.use=none")
    with tempfile.TemporaryDirectory() as folder:
        repository = pathlib.Path(folder) / "models"
        shutil.copytree(HERE / "models/magika", repository / "magika")
        with check.server("--model-repository", repository, *on_cpu) as server:
            found["cpu"] = scored(server, cases, rows)
            found["cpu"]["load"] = of_graph(server, folder, 64, seconds)
        if not check.cpu:
            on_gpu(check, pathlib.Path(folder), repository, cases, rows, found)
    check.keep("onnx", found)
    which = found["cpu" if check.cpu else "gpu"]
    good = which["worst"] < SCORE_ERROR_MAX and which["together_and_alone"] < SCORE_ERROR_MAX
    good = good and (check.cpu or all(device.startswith(("GPU", "MIG")) for device in which["device"]))
    told = "" if check.cpu else f", {max(load['requests_per_s'] for load in which['loads']):.0f}/s"
    return f"{'holds' if good else 'failed'}: scores off by {which['worst']:.1e}{told}; on the CPU by {found['cpu']['worst']:.1e}, {found['cpu']['load']['requests_per_s']:.0f}/s"


def on_gpu(check, folder, repository, cases, rows, found):
    for name, more in (("magika", ""), ("tight", 'parameters { key: "penstock.device_memory_bytes" value { string_value: "%d" } }\n' % TIGHT_BYTES)):
        shutil.copytree(HERE / "models/magika", repository / name, dirs_exist_ok=True)
        config = (HERE / "models/magika/config.pbtxt").read_text().replace('name: "magika"', f'name: "{name}"')
        (repository / name / "config.pbtxt").write_text(config + "instance_group [ { kind: KIND_GPU } ]\n" + more)
    with check.server("--model-repository", repository, "--model-control-mode", "explicit", "--load-model", "magika") as server:
        found["gpu"] = {**scored(server, cases, rows), "device": server.device(), "memory": memory()}
        found["gpu"]["loads"] = [of_graph(server, folder, flight, 4) for flight in (1, 64, 512)]
        (pid,) = server.environments()
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        while classify(server, "magika", rows[:1])[0] != 200:
            if time.monotonic() - began > 30:
                raise RuntimeError(f"it did not come back: {server.index()}")
            time.sleep(0.01)
        found["served_again_s"] = time.monotonic() - began
        found["tight_load"] = server.post("/v2/repository/models/tight/load", {})
        before, found["tight"] = set(server.environments()), []
        for count in (1, 8, 64):
            status, body = classify(server, "tight", (rows * 11)[:count])
            found["tight"].append([count, status, body.get("error", "")[:300]])
        found["kept_their_process"] = before == set(server.environments())
        found["after"] = scored(server, cases, rows)
        found["log"] = [line for line in server.log if '"level":"INFO"' not in line or "ready" in line][:12]


def classify(server, model, rows):
    """Status and body."""
    flat = [value for row in rows for value in row]
    return server.post(f"/v2/models/{model}/infer", {"inputs": [
        {"name": "bytes", "datatype": "INT32", "shape": [len(rows), 2048], "data": flat}]})


def scored(server, cases, rows):
    """The largest error of a score: against the goldens, and of a row among others against itself alone."""
    def scores(rows):
        status, body = classify(server, "magika", rows)
        if status != 200:
            raise RuntimeError(f"{status} {body}")
        values = body["outputs"][0]["data"]
        return [values[at : at + 214] for at in range(0, len(values), 214)]

    off = lambda some, others: max(abs(a - b) for one, other in zip(some, others) for a, b in zip(one, other))  # noqa: E731
    together = scores(rows)
    return {"worst": off(together, [case["scores"] for case in cases]),
            "together_and_alone": off(together, [scores([row])[0] for row in rows])}


def of_graph(server, folder, flight, seconds):
    (step,) = load(server, folder, "magika", "--input-name", "bytes", "--datatype", "INT32", "--tensor-bytes", 8192, "--closed", flight,
                   seconds=seconds, scheme="grpc")
    if not step["goodput_rps"]:
        raise RuntimeError(f"nothing was served: {step['outcomes']}")
    return {"in_flight": flight, "requests_per_s": step["throughput_rps"], "latency_ms": step["latency"], "outcomes": step["outcomes"]}


if __name__ == "__main__":
    sys.exit(main())
