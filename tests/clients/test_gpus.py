"""GPUs as a user sees them: a server that is told of another library than the driver's own, which answers from a recording.
`gpu/inventory/tests/recorded/nvml.c` says what a recording is."""

import os
import subprocess

import pytest
from conftest import CACHE, PROGRAM, ROOT
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
