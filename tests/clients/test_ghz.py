"""`ghz` as it comes from its package, over reflection: no proto files. The scenarios are those of the load tests."""

import base64
import json
import subprocess

import pytest
from scraped import Scraped, until

from conftest import CACHE, ROOT, identity_repository

GHZ = CACHE / "bin/ghz"
SCENARIOS = ROOT / "loadtest/scenarios"


@pytest.fixture(scope="module", autouse=True)
def ghz_is_installed():
    subprocess.run([ROOT / "tests/tools.sh", "ghz"], check=True)


def ghz(server, count, scenario=None, **changes):
    """Runs ghz with a scenario file, by count in place of its duration. Returns its JSON report."""
    settings = json.loads((SCENARIOS / f"{scenario}.json").read_text()) if scenario else {"insecure": True}
    for key in ("duration", "duration-stop", "data-file"):
        settings.pop(key, None)
    settings |= {"total": count, "timeout": "20s"} | changes
    file = server.scenario_folder / "scenario.json"
    file.write_text(json.dumps(settings))
    command = [GHZ, "--config", file, "--format", "json", server.grpc]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture
def quick(server, tmp_path):
    """The demo server, and a place for scenario files."""
    server.scenario_folder = tmp_path
    return server


def assert_all_answered(report, count):
    assert report["count"] == count
    assert report["statusCodeDistribution"] == {"OK": count}
    assert not report["errorDistribution"]
    assert report["rps"] > 0


@pytest.mark.parametrize("scenario", ["ghz-identity-16b", "ghz-identity-16b-paced"])
def test_unary(quick, scenario):
    before = Scraped(quick).ended("identity").get(("done", ""), 0)
    assert_all_answered(ghz(quick, 500, scenario=scenario), 500)
    assert Scraped(quick).ended("identity")[("done", "")] == before + 500


def test_unary_64_kib(quick):
    request = {
        "model_name": "identity",
        "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": ["1", "16384"]}],
        "raw_input_contents": [base64.b64encode(bytes(65536)).decode()],
    }
    assert_all_answered(ghz(quick, 100, scenario="ghz-identity-64kib", data=request), 100)


def test_streaming(quick):
    """Each call is a stream of sixteen requests; every one is answered and counted."""
    before = Scraped(quick).ended("identity").get(("done", ""), 0)
    report = ghz(quick, 25, scenario="ghz-identity-stream")
    assert_all_answered(report, 25)
    assert Scraped(quick).ended("identity")[("done", "")] == before + 25 * 16


def test_text_through_typed_contents(quick):
    """A person's call, bytes as base64, to a model with weights."""
    request = {
        "model_name": "minilm",
        "inputs": [
            {
                "name": "text",
                "datatype": "BYTES",
                "shape": [1, 1],
                "contents": {"bytes_contents": [base64.b64encode(b"A penstock is the gated pipe").decode()]},
            }
        ],
    }
    call = "inference.GRPCInferenceService.ModelInfer"
    assert_all_answered(ghz(quick, 20, call=call, data=request, concurrency=4), 20)


def test_health_and_metadata(quick):
    for method, request in [
        ("grpc.health.v1.Health.Check", {"service": "minilm"}),
        ("inference.GRPCInferenceService.ModelMetadata", {"name": "magika"}),
        ("inference.GRPCInferenceService.RepositoryIndex", {}),
    ]:
        assert_all_answered(ghz(quick, 10, call=method, data=request, concurrency=2), 10)


def test_errors_are_told_apart(quick):
    report = ghz(quick, 16, scenario="ghz-identity-16b", data={"model_name": "nothing"})
    assert report["statusCodeDistribution"] == {"NotFound": 16}


def test_a_deadline_shorter_than_the_model(start, tmp_path):
    """Every call runs into ghz's timeout; on the server none is left, and none is counted as done."""
    server = start("--model-repository", identity_repository(tmp_path, execute_delay_us=400_000))
    server.scenario_folder = tmp_path
    report = ghz(server, 12, scenario="ghz-identity-16b", timeout="100ms", concurrency=4, connections=2)
    assert report["count"] == 12
    assert report["statusCodeDistribution"] == {"DeadlineExceeded": 12}
    seen = until(lambda: (now := Scraped(server)).sum("penstock_requests_in_flight") == 0 and now, "nothing in flight")
    ended = seen.ended("identity")
    assert set(ended) <= {("expired", ""), ("cancelled", ""), ("shed", "deadline_unmeetable")}
    assert sum(ended.values()) == seen.sum("penstock_requests_received_total", function="identity") <= 12
