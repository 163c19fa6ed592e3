"""`penstock plan`, as a person or a script runs it: no server, no machine."""

import json
import subprocess
import xml.dom.minidom

import pytest

from conftest import PROGRAM, ROOT

TIMEOUT_S = 60
TRACE = ROOT / "server/plan/traces/azure-llm-2023-code.csv"
PRICES = """
region = "nowhere"
[[types]]
name = "one"
vcpu = 3
memory_mib = 8192
architecture = "x86_64"
on_demand_usd_per_hour = 36.0
source = "made up"
date = "2026-01-01"
"""


def plan(*arguments):
    command = [str(PROGRAM), "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)


def report(*arguments):
    done = plan(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_recorded_hour_is_told_as_a_table_as_json_and_as_a_picture(tmp_path):
    picture = tmp_path / "plan.svg"
    options = ["--trace", TRACE, "--device-memory-mib", 20000, "--vcpu", 2, "--memory-mib", 8192, "--allow", "g6.*"]
    done = plan(*options, "--plot", picture)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["FROM", "REQ/S", "OFFERED"] and lines[1].startswith("0:00:00")
    assert any(line.startswith("requests") and "8819 in 0:57:" in line for line in lines)
    assert any(line.startswith("cost") and "an hour" in line for line in lines)
    assert "AzurePublicDataset" in done.stderr
    drawn = xml.dom.minidom.parse(str(picture))
    assert len(drawn.getElementsByTagName("polyline")) == 8
    told = report(*options)
    totals = told["totals"]
    assert totals["requests"] == 8819 == totals["done"] + totals["shed"] + totals["expired"]
    assert {one["name"] for one in totals["by_type"]} <= {"g6.xlarge", "g6.2xlarge", "g6.12xlarge", "g6.48xlarge"}
    least, most = told["ceilings"]["least"]["total_usd"], told["ceilings"]["run_peak"]["total_usd"]
    assert least < told["cost"]["total_usd"] < most
    assert sum(point["received"] for point in told["series"]["points"]) == 8819
    assert told == report(*options), "the same input gives the same"
    assert told != report(*options, "--scale", 2)


def test_prices_are_those_of_the_file(tmp_path):
    table = tmp_path / "prices.toml"
    table.write_text(PRICES)
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,service_ms\n0,1000\n99,1000\n")
    told = report("--trace", trace, "--prices", table, "--management-fee-percent", 15, "--fee-per-million", 500000)
    # A hundredth of a dollar a second for 100 s, 15 % of it, and half a dollar for each of two.
    assert told["cost"]["instances_usd"] == pytest.approx(1.0)
    assert told["cost"]["management_fee_usd"] == pytest.approx(0.15)
    assert told["cost"]["total_usd"] == pytest.approx(2.15)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--trace <FILE>|--synthetic <SHAPE>"]),
        (["--trace", "/nowhere"], ["--trace /nowhere", "cannot be read"]),
        (["--trace", ROOT / "README.md"], ["line 1", "# Penstock", "seconds,service_ms"]),
        (["--synthetic", "wave:rate=1"], ["--synthetic", "wave:rate=1", "constant:rate=R,seconds=S"]),
        (["--synthetic", "constant:rate=1,seconds=1", "--slots", "0"], ["--slots", "found 0", "1 to 65536"]),
        (["--synthetic", "constant:rate=1,seconds=1", "--rate", "spot"], ["--rate", "spot", "on-demand"]),
        (["--synthetic", "constant:rate=1,seconds=1", "--rate", "free"], ["--rate", "free", "savings-plan"]),
        (["--synthetic", "constant:rate=1,seconds=1", "--allow", "x9.*"], ["--allow", "x9.*", "g6.*"]),
        (["--synthetic", "constant:rate=1,seconds=1", "--prices", ROOT / "Cargo.toml"], ["--prices", "Cargo.toml", "line"]),
    ],
)
def test_what_is_wrong_is_told_with_what_is_right(arguments, words):
    done = plan(*arguments)
    assert done.returncode == 64 and done.stdout == ""
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_picture_that_cannot_be_written_is_no_wrong_option():
    done = plan("--synthetic", "constant:rate=1,seconds=1", "--plot", "/nowhere/plan.svg", "--json")
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "Local" and "--plot" in error["message"]
