"""A canary under load from ghz: an alias at 90 to 10 splits within one percent, then all moves to the new version and back,
and no request fails."""

import json
import subprocess
import urllib.request

import pytest
from lambda_client import client_of, create, identity, settled

from conftest import CACHE, ROOT, Server, identity_repository

GHZ = CACHE / "bin/ghz"
CALLS, SHARE, WITHIN = 20_000, 0.1, 0.01


@pytest.fixture
def two_versions(tmp_path):
    subprocess.run([ROOT / "tests/tools.sh", "ghz"], check=True)
    running = Server("--model-repository", identity_repository(tmp_path / "models", "own"))
    client = client_of(running)
    create(client, "canary", identity("one"))
    client.publish_version(FunctionName="canary")
    client.update_function_code(FunctionName="canary", ZipFile=identity("two"))
    client.publish_version(FunctionName="canary")
    assert [settled(client, "canary", version)["State"] for version in ("1", "2")] == ["Active", "Active"]
    client.create_alias(FunctionName="canary", Name="live", FunctionVersion="1",
                        RoutingConfig={"AdditionalVersionWeights": {"2": SHARE}})
    yield running, client
    running.kill()


def load(server, calls, folder, wait=True):
    request = {"model_name": "canary:live",
               "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": ["1", "1"], "contents": {"fp32_contents": [1.0]}}]}
    settings = {"insecure": True, "call": "inference.GRPCInferenceService.ModelInfer", "data": request, "total": calls,
                "concurrency": 8, "timeout": "20s"}
    file = folder / f"{calls}.json"
    file.write_text(json.dumps(settings))
    running = subprocess.Popen([GHZ, "--config", file, "--format", "json", server.grpc], stdout=subprocess.PIPE, text=True)
    return all_answered(running, calls) if wait else running


def all_answered(running, calls):
    report = json.loads(running.communicate(timeout=120)[0])
    assert report["statusCodeDistribution"] == {"OK": calls}


def served(server):
    """Requests done, by version."""
    with urllib.request.urlopen(f"{server.url}/v2/models/canary/stats", timeout=10) as answer:
        return {entry["version"]: entry["inference_count"] for entry in json.load(answer)["model_stats"]}


def test_a_canary_is_split_moved_and_rolled_back_without_a_failure(two_versions, tmp_path):
    server, client = two_versions
    before = served(server)
    load(server, CALLS, tmp_path)
    after = served(server)
    share = (after["2"] - before["2"]) / CALLS
    assert after["1"] - before["1"] + after["2"] - before["2"] == CALLS
    assert abs(share - SHARE) <= WITHIN, f"version 2 had {share:.4f} of {CALLS} calls"

    running = load(server, 10_000, tmp_path, wait=False)
    client.update_alias(FunctionName="canary", Name="live", FunctionVersion="2", RoutingConfig={"AdditionalVersionWeights": {}})
    client.update_alias(FunctionName="canary", Name="live", FunctionVersion="1")
    client.update_alias(FunctionName="canary", Name="live", FunctionVersion="2")
    all_answered(running, 10_000)
    before = served(server)
    load(server, 500, tmp_path)
    after = served(server)
    assert (after["1"] - before["1"], after["2"] - before["2"]) == (0, 500)
    client.update_alias(FunctionName="canary", Name="live", FunctionVersion="1")
    load(server, 500, tmp_path)
    assert served(server)["1"] - after["1"] == 500
