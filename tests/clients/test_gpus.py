"""GPUs as a user sees them: a server that is told of another library than the driver's own, which answers from a recording.
`gpu/inventory/tests/recorded/nvml.c` says what a recording is. What is placed on such a GPU is `identity`, which takes no time
of a device, in the plain executable."""

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import time

import numpy
import pytest
import tritonclient.grpc as triton
from conftest import CACHE, PROGRAM, ROOT, identity_repository
from scraped import Scraped, until

RECORDED = ROOT / "gpu/inventory/tests/recorded"
FIRST = "GPU-11111111-aaaa-bbbb-cccc-000000000001"
SECOND = "GPU-22222222-aaaa-bbbb-cccc-000000000002"


class Driver:
    """The stand-in for the driver's library, and what it says."""

    def __init__(self, folder):
        self.library = folder / "libnvidia-ml.so.1"
        self.recording = folder / "recording.txt"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", self.library, RECORDED / "nvml.c"], check=True)
        self.says((RECORDED / "two-h200.txt").read_text())

    def says(self, text):
        new = self.recording.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.recording)


@pytest.fixture
def driver(tmp_path):
    return Driver(tmp_path)


def devices(library):
    environment = os.environ | {"PENSTOCK_CACHE_DIR": str(CACHE), "PENSTOCK_NVML": str(library)}
    return subprocess.run([PROGRAM, "devices"], env=environment, capture_output=True, text=True, timeout=60)


def test_devices_are_printed(driver):
    ended = devices(driver.library)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = [line.strip() for line in ended.stdout.splitlines()]
    assert "driver  580.159.04 (CUDA 13.0)" in lines
    assert (f"device  gpu 0: NVIDIA H200, compute 9.0, 140.4 GiB, 139.4 GiB free, 37 % busy, 41 °C, 120 W, {FIRST}"
            in lines)
    assert any(SECOND in line and "1 uncorrected memory errors" in line for line in lines)
    assert "slice NVIDIA H200 MIG 1g.18gb, 17.8 GiB, MIG-22222222-aaaa-bbbb-cccc-000000000011" in lines


def test_what_is_broken_is_a_warning_and_hurts_nothing(driver):
    driver.says("driver none\n")
    ended = devices(driver.library)
    assert ended.returncode == 0
    assert "warning: NVIDIA's driver is there and does not work: the kernel's module is not loaded" in ended.stderr
    assert "cpu" in ended.stdout and "gpu" not in ended.stdout
    driver.says(driver_with(lost=True))
    ended = devices(driver.library)
    assert ended.returncode == 0 and FIRST in ended.stdout and SECOND not in ended.stdout
    assert "device 1: the GPU has fallen off the bus" in ended.stderr


def driver_with(lost=False, xid=""):
    text = (RECORDED / "two-h200.txt").read_text()
    if lost:
        text = text.replace("0 1 NVIDIA H200\n", "0 1 NVIDIA H200\nlost\n")
    return text + xid


def test_a_server_reads_them_and_tells_of_faults(driver, start):
    server = start("--model-control-mode", "explicit", "--set", "devices.interval_ms=100",
                   env={"PENSTOCK_NVML": str(driver.library)})

    def told(name, **labels):
        return [sample.value for sample in Scraped(server).matching(name, **labels)]

    def becomes(value, name, **labels):
        until(lambda: told(name, **labels) == [value], f"{name} {labels} is {value}")

    becomes(0.37, "nv_gpu_utilization", gpu_uuid=FIRST)
    assert told("nv_gpu_memory_used_bytes", gpu_uuid=FIRST) == [1024 * 2**20]
    assert told("nv_gpu_memory_total_bytes", gpu_uuid=FIRST) == [143771 * 2**20]
    assert told("nv_gpu_utilization", gpu_uuid=SECOND) == []
    driver.says(driver_with().replace(" 37 41 ", " 99 80 "))
    becomes(0.99, "nv_gpu_utilization", gpu_uuid=FIRST)
    becomes(80, "penstock_gpu_temperature_celsius", gpu_uuid=FIRST)
    driver.says(driver_with(xid=f"xid {FIRST} 31\nxid {SECOND} 79\n"))
    becomes(1, "penstock_gpu_faults_total", gpu_uuid=FIRST, xid="31", **{"class": "program"})
    becomes(1, "penstock_gpu_faults_total", gpu_uuid=SECOND, xid="79", **{"class": "device"})
    until(lambda: any("a GPU has failed" in line and SECOND in line for line in server.log), "it is in the log")
    driver.says(driver_with(lost=True))
    becomes(0, "penstock_gpu_answers", gpu_uuid=SECOND)
    becomes(1, "penstock_gpu_answers", gpu_uuid=FIRST)


# --- placement


ONE_GPU = f"driver 580.159.04 13000\ngpu {FIRST} 81920 0 0 30 70000 700000 0 0 0 NVIDIA H100 80GB HBM3\n"
GIB = 2**30


@pytest.fixture
def serve(driver, start, tmp_path):
    """Starts a server with functions on the GPUs of a recording: `serve(recording, name=dict(options), ...)`."""

    def serve(recording, *arguments, program=PROGRAM, **functions):
        driver.says(recording)
        for name, options in functions.items():
            identity_repository(tmp_path / "models", name, **{"group": "kind: KIND_GPU", **options})
        server = start("--model-repository", tmp_path / "models", "--model-control-mode", "explicit", *arguments,
                       env={"PENSTOCK_NVML": str(driver.library), "PENSTOCK_DEVICES_PROGRAM": str(program)})
        server.client = triton.InferenceServerClient(server.grpc)
        return server

    return serve


def state(server, name):
    models = server.client.get_model_repository_index(as_json=True).get("models", [])
    (model,) = [model for model in models if model["name"] == name]
    return model.get("state"), model.get("reason", "")


def load(server, name):
    """The reason, if it cannot be loaded."""
    try:
        server.client.load_model(name)
    except triton.InferenceServerException as error:
        return str(error)
    return None


def is_of(server, pid, name):
    """Whether a process is an environment of this function, as the log has it."""
    ready = [json.loads(line) for line in server.log if "environment ready" in line]
    return any((line["pid"], line["function"]) == (pid, f"{name}:1") for line in ready)


def gib(number):
    return {"penstock.device_memory_bytes": number * GIB}


def visible(server):
    """`CUDA_VISIBLE_DEVICES` of every environment, sorted."""

    def environ(pid):
        try:
            return open(f"/proc/{pid}/environ").read().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return None  # it has just ended

    variables = [each for pid in server.environments() if (each := environ(pid)) is not None]
    found = [dict(v.split("=", 1) for v in each if v).get("CUDA_VISIBLE_DEVICES") for each in variables]
    return sorted(found, key=str)


def test_memory_is_given_out_once_and_refused_with_the_arithmetic(serve):
    server = serve(ONE_GPU, a=gib(50), b=gib(20), c=gib(40))
    assert [load(server, "a"), load(server, "b")] == [None, None]
    assert visible(server) == [FIRST, FIRST]
    reason = load(server, "c")
    expected = ("c:1 asks for 40.00 GiB of device memory; GPU 0 has 80.00 GiB, less 0.50 GiB kept free, less 50.00 GiB of "
                "a:1, less 20.00 GiB of b:1: 9.50 GiB left")
    assert expected in reason
    assert state(server, "c") == ("UNAVAILABLE", expected)
    # It comes as soon as there is room.
    server.client.unload_model("a")
    until(lambda: state(server, "c")[0] == "READY", "c is served")
    assert visible(server) == [FIRST, FIRST]


def test_a_killed_environment_gets_its_place_again(serve):
    server = serve(ONE_GPU, a=gib(70))
    assert load(server, "a") is None
    (pid,) = server.environments()
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.environments() not in ([], [pid]) and state(server, "a")[0] == "READY", "a is served again")
    assert visible(server) == [FIRST]


def test_a_gpu_that_fails_gets_nobody_else(serve, driver):
    """What runs there goes on as long as it can; its next life is elsewhere. One that only was silent is used again."""
    two = f"{ONE_GPU}gpu {SECOND} 81920 0 0 30 70000 700000 0 0 0 NVIDIA H100 80GB HBM3\n"
    server = serve(two, "--set", "devices.interval_ms=100", a=gib(10), b=gib(60), c=gib(60))
    assert load(server, "a") is None and visible(server) == [FIRST]
    granted = lambda uuid: [s.value for s in Scraped(server).matching("penstock_gpu_memory_granted_bytes", gpu_uuid=uuid)]
    until(lambda: (granted(FIRST), granted(SECOND)) == ([10 * GIB], [0]), "what is given out is told")
    driver.says(f"{two}xid {FIRST} 79\n")
    until(lambda: any("a GPU has failed" in line for line in server.log), "the fault is in the log")
    (pid,) = server.environments()
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.environments() not in ([], [pid]) and state(server, "a")[0] == "READY", "a is served again")
    assert visible(server) == [SECOND]
    assert load(server, "b") is None and visible(server) == [SECOND, SECOND]
    assert "GPU 0 is not used: it has failed (Xid 79); GPU 1 has 80.00 GiB" in load(server, "c")

    server = serve(two, "--set", "devices.interval_ms=100", a=gib(70), b=gib(70))
    assert load(server, "a") is None and visible(server) == [FIRST]
    driver.says(f"{two}lost\n")
    until(lambda: any("a GPU does not answer" in line for line in server.log), "its silence is in the log")
    assert "GPU 1 is not used: " in load(server, "b")
    driver.says(two)
    until(lambda: state(server, "b")[0] == "READY", "b is served once it answers")


def test_what_is_measured_counts(serve):
    """`device_memory_bytes` is what identity says it takes, once it is warm."""
    small = {"device_memory_bytes": 10 * GIB, **gib(50)}
    large = {"device_memory_bytes": 90 * GIB, **gib(1)}
    server = serve(ONE_GPU, a=small, b=gib(60), c=large)
    assert [load(server, "a"), load(server, "b")] == [None, None]
    # A life that ends keeps its place and its measure: 50 GiB, as it was asked for at first, are not there any more.
    (pid,) = [pid for pid in server.environments() if is_of(server, pid, "a")]
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(server.environments()) == 2 and pid not in server.environments() and state(server, "a")[0] == "READY",
          "a is served again")
    server.client.unload_model("b")
    reason = load(server, "c")
    assert "it takes more device memory than it was given: c:1, which has 1.00 GiB, asks for 89.00 GiB" in reason
    assert state(server, "a")[0] == "READY"


def test_gpus_are_chosen_by_index_and_slices_are_places(serve):
    server = serve(driver_with(), a={"group": "gpus: [ 0 ]"}, b={"group": "gpus: [ 1 ]", **gib(60)},
                   c={"group": "gpus: [ 1 ]", **gib(16)}, d={"group": "gpus: [ 7 ]"})
    assert [load(server, name) for name in "abc"] == [None, None, None]
    assert visible(server) == [FIRST, "MIG-22222222-aaaa-bbbb-cccc-000000000010",
                               "MIG-22222222-aaaa-bbbb-cccc-000000000011"]
    assert "on one of GPUs [7], and there is none of these (GPUs here: 0, 1)" in load(server, "d")


def test_what_demands_a_gpu_does_not_run_without_one(serve):
    server = serve("driver none\n", gpu={}, either={"group": "kind: KIND_AUTO"})
    text = "instance_group: it is to run on a GPU and cannot: this machine has no GPU that answers"
    assert text in load(server, "gpu")
    assert text in state(server, "gpu")[1]
    assert load(server, "either") is None and visible(server) == [None]
    server = serve(ONE_GPU, "--set", "devices.use=none", gpu={})
    assert text in load(server, "gpu")
    server = serve(ONE_GPU, program="/nowhere/environment", gpu={})
    assert "there is no /nowhere/environment (devices.program)" in load(server, "gpu")


def test_what_cannot_be_loaded_on_a_gpu_runs_on_the_cpu_unless_it_demands_one(serve, tmp_path):
    """The plain executable, which is built without CUDA, in the place of the one for GPUs."""
    (tmp_path / "models").mkdir()
    for name in ("minilm", "demanding"):
        shutil.copytree(CACHE / "models/minilm", tmp_path / "models" / name)
    (tmp_path / "models/demanding/config.pbtxt").write_text("instance_group [ { kind: KIND_GPU } ]")
    text = "it is to run on a GPU, and this executable is built without CUDA"
    server = serve(ONE_GPU)
    assert text in load(server, "demanding")
    assert load(server, "minilm") is None
    assert any("it runs on the CPU" in line and text in line for line in server.log)
    assert visible(server) == [None]
    (tmp_path / "models/minilm/config.pbtxt").write_text(
        'parameters { key: "penstock.device_memory_bytes" value { string_value: "%d" } }' % (100 * GIB))
    server = serve(ONE_GPU)
    assert load(server, "minilm") is None, "no GPU here will ever have so much"
    assert visible(server) == [None]
    server = serve(ONE_GPU, program="/nowhere/environment")
    assert load(server, "minilm") is None, "nothing demands a GPU"
    until(lambda: any("a version runs on the CPU" in line for line in server.log), "a warning says why")


def test_functions_on_one_gpu_take_turns(serve):
    """21 batches of 50 ms of three functions, two at once: nothing can be faster than half their sum."""
    options = {"execute_delay_us": 50_000, "max_batch_size": 1, **gib(1)}
    server = serve(ONE_GPU, a=options, b=options, c=options)
    assert [load(server, name) for name in "abc"] == [None] * 3
    tensor = triton.InferInput("INPUT0", [1, 1], "FP32")
    tensor.set_data_from_numpy(numpy.zeros((1, 1), dtype=numpy.float32))
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(21) as pool:
        list(pool.map(lambda n: server.client.infer("abc"[n % 3], [tensor]), range(21)))
    assert time.monotonic() - began >= 21 * 0.050 / 2


def test_onnx_graphs_go_where_their_library_can(serve, tmp_path):
    """On a GPU they need ONNX Runtime's part for CUDA; here it is missing, and then it is there and does not load."""
    (tmp_path / "models").mkdir()
    for name in ("magika", "demanding"):
        shutil.copytree(CACHE / "models/magika", tmp_path / "models" / name, ignore=shutil.ignore_patterns("config.pbtxt"))
    (tmp_path / "models/demanding/config.pbtxt").write_text("instance_group [ { kind: KIND_GPU } ]")
    server = serve(ONE_GPU, "--set", f"onnxruntime.library={CACHE}/lib/libonnxruntime.so")
    assert "there is no libonnxruntime_providers_cuda.so beside " in load(server, "demanding")
    assert load(server, "magika") is None and visible(server) == [None]
    assert any("a version runs on the CPU" in line and "libonnxruntime_providers_cuda.so" in line for line in server.log)

    (tmp_path / "lib").mkdir()
    shutil.copy(CACHE / "lib/libonnxruntime.so", tmp_path / "lib/libonnxruntime.so")
    (tmp_path / "lib/libonnxruntime_providers_cuda.so").write_text("not a library")
    server = serve(ONE_GPU, "--set", f"onnxruntime.cuda_library={tmp_path}/lib/libonnxruntime.so")
    reason = load(server, "demanding")
    assert "demanding/1/model.onnx" in reason and "CUDA" in reason
    assert load(server, "magika") is None and visible(server) == [None]
    assert any("a version cannot be loaded on a GPU: it runs on the CPU" in line for line in server.log)


# --- what is linked


def test_the_plain_program_links_no_device_library():
    linked = subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=True).stdout.lower()
    assert "libc.so" in linked
    for name in ("cuda", "nvidia", "nvml", "cublas", "curand", "nvrtc"):
        assert name not in linked
