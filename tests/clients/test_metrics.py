"""Metrics and statistics: every request counted once, batches as they were, read by Prometheus's own programs."""

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import numpy
import pytest
import tritonclient.grpc as triton
from scraped import Scraped, until
from tritonclient.utils import InferenceServerException

from conftest import CACHE, ROOT, identity_repository


def tensor(rows, datatype="FP32"):
    values = numpy.ones((rows, 2), "f4")
    one = triton.InferInput("INPUT0", values.shape, datatype)
    if datatype == "FP32":
        one.set_data_from_numpy(values)
    else:
        one._raw_content = b"\0" * (rows * 2)  # fewer bytes than the shape says
    return [one]


def refused(infer):
    with pytest.raises(InferenceServerException) as caught:
        infer()
    return caught.value.status()


def quiet(server):
    """A scrape with nothing in flight."""
    nothing = "nothing is in flight"
    return until(lambda: (now := Scraped(server)).sum("penstock_requests_in_flight") == 0 and now, nothing)


def assert_books_are_whole(scraped, functions):
    for function in functions:
        received = scraped.sum("penstock_requests_received_total", function=function)
        ended = scraped.sum("penstock_requests_total", function=function)
        assert received == ended + scraped.sum("penstock_requests_in_flight", function=function)


# --- every request once


def test_every_request_is_counted_once(start, tmp_path):
    """Two slots, 10 ms a row: done, failed, shed, expired, cancelled and unknown, over both protocols."""
    repository = identity_repository(tmp_path, execute_delay_us_per_item=10_000, max_batch_size=200, count=2)
    server = start("--model-repository", repository, "--set", "environments.concurrency=2")
    with triton.InferenceServerClient(server.grpc) as client:
        # Expired: 1 s of work with 100 ms to do it in, told by the request, and nobody knows yet how long it takes.
        assert refused(lambda: client.infer("identity", tensor(100), timeout=100_000)) == "StatusCode.DEADLINE_EXCEEDED"
        for _ in range(5):
            client.infer("identity", tensor(1))
        for _ in range(3):
            body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]}]}
            request = urllib.request.Request(f"{server.url}/v2/models/identity/infer", json.dumps(body).encode())
            urllib.request.urlopen(request, timeout=10).close()
        # Failed: more rows than a batch may have; and a function that is not there.
        for _ in range(2):
            assert refused(lambda: client.infer("identity", tensor(201))) == "StatusCode.INVALID_ARGUMENT"
        for _ in range(4):
            assert refused(lambda: client.infer("nothing", tensor(1))) == "StatusCode.NOT_FOUND"
        # The same once it is known: refused when it comes.
        assert refused(lambda: client.infer("identity", tensor(100), timeout=100_000)) == "StatusCode.DEADLINE_EXCEEDED"
        quiet(server)
        # Cancelled, two that take all slots; shed, what comes meanwhile.
        calls = [client.async_infer("identity", tensor(200), lambda result, error: None) for _ in range(2)]
        until(lambda: Scraped(server).sum("penstock_requests_in_flight") == 2, "two are in flight")
        for _ in range(6):
            assert refused(lambda: client.infer("identity", tensor(1))) == "StatusCode.RESOURCE_EXHAUSTED"
        midway = Scraped(server)
        assert_books_are_whole(midway, ["identity", ""])
        assert midway.sum("penstock_requests_in_flight") == 2
        for call in calls:
            call.cancel()
        seen = quiet(server)
        client.infer("identity", tensor(1))
        seen = quiet(server)
        statistics = client.get_inference_statistics("identity", as_json=True)["model_stats"][0]["inference_stats"]

    assert seen.ended("identity") == {
        ("done", ""): 9,
        ("failed", "invalid_argument"): 2,
        ("expired", ""): 1,
        ("shed", "deadline_unmeetable"): 1,
        ("shed", "environment_concurrency"): 6,
        ("cancelled", ""): 2,
    }
    assert seen.ended("") == {("failed", "not_found"): 4}
    assert_books_are_whole(seen, ["identity", ""])
    assert seen.value("penstock_requests_received_total", function="identity") == 21
    # The same under Triton's names.
    of = {"model": "identity", "version": 1}
    assert seen.value("nv_inference_request_success", **of) == 9
    failures = {s.labels["reason"]: s.value for s in seen.matching("nv_inference_request_failure", **of)}
    assert failures == {"REJECTED": 8, "CANCELED": 2, "BACKEND": 0, "OTHER": 2}
    assert int(statistics["success"]["count"]) == 9
    assert int(statistics["fail"]["count"]) == 12
    # Only what is done has a duration, and each exactly one in every stage.
    assert seen.value("penstock_request_duration_seconds_count", function="identity") == 9
    stages = seen.matching("penstock_stage_duration_seconds_count", function="identity")
    assert {s.labels["stage"]: s.value for s in stages} == dict.fromkeys(
        ["prepare", "queue", "compute_input", "compute", "compute_output", "overhead"], 9
    )


def test_a_wrong_request_is_counted_once_wherever_it_is_found_wrong(start, tmp_path):
    """What the door refuses never gets to a function and is counted under none; what the model refuses is the
    function's."""
    server = start("--model-repository", identity_repository(tmp_path), "--set", "limits.message_bytes=65536")

    def post(path, body, status, headers=None):
        request = urllib.request.Request(server.url + path, body, headers or {})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == status

    with triton.InferenceServerClient(server.grpc) as client:
        assert refused(lambda: client.infer("identity", tensor(1, "INT64"))) == "StatusCode.INVALID_ARGUMENT"
        assert refused(lambda: client.infer("identity", tensor(9))) == "StatusCode.INVALID_ARGUMENT"
        assert refused(lambda: client.infer("identity", tensor(9000))) == "StatusCode.RESOURCE_EXHAUSTED"
    post("/v2/models/identity/infer", b"{", 400)
    post("/v2/models/identity/infer", b"{}", 400, {"Inference-Header-Content-Length": "9"})
    post("/v2/models/nothing/infer", b"{}", 404)
    post("/v2/models/identity/infer", bytes(70_000), 413)
    post("/v1/embeddings", b'{"model":"nothing","input":"a"}', 404)
    post("/v1/embeddings", b'{"model":"identity","input":"a"}', 400)
    post("/v1/embeddings", b'{"input":', 400)
    post("/nothing", b"{}", 404)  # no inference, so not counted
    seen = quiet(server)
    assert_books_are_whole(seen, ["identity", ""])
    assert seen.ended("identity") == {("failed", "invalid_argument"): 1}
    assert seen.ended("") == {("failed", "invalid_argument"): 5, ("failed", "too_large"): 2, ("failed", "not_found"): 2}


# --- batches


def test_batches_are_counted_as_they_ran(start, tmp_path):
    """One by one: each request is its own batch. Then four that waited together: one batch of four."""
    server = start("--model-repository", identity_repository(tmp_path, execute_delay_us_per_item=100_000))
    of = {"model": "identity", "version": 1}
    with triton.InferenceServerClient(server.grpc) as client:
        for rows in (3, 5, 1):
            client.infer("identity", tensor(rows))
        seen = quiet(server)
        assert seen.value("nv_inference_count", **of) == 9
        assert seen.value("nv_inference_exec_count", **of) == 3
        assert seen.value("nv_inference_request_success", **of) == 3
        assert bucket_counts(seen, "penstock_batch_items") == {"1": 1, "4": 1, "8": 1}
        assert seen.value("penstock_batch_items_sum", function="identity") == 9
        # Eight rows occupy the only worker for 0.8 s, long enough for the gauge to show it.
        answers = []
        client.async_infer("identity", tensor(8), lambda result, error: answers.append(error))
        until(lambda: Scraped(server).sum("penstock_busy_workers", function="identity") == 1, "the worker is busy")
        for _ in range(4):
            client.async_infer("identity", tensor(1), lambda result, error: answers.append(error))
        until(lambda: len(answers) == 5, "five answers")
        assert answers == [None] * 5
        seen = quiet(server)
        statistics = client.get_inference_statistics("identity", as_json=True)["model_stats"][0]
    assert seen.value("nv_inference_count", **of) == 21
    assert seen.value("nv_inference_exec_count", **of) == 5
    assert seen.value("nv_inference_request_success", **of) == 8
    assert bucket_counts(seen, "penstock_batch_items") == {"1": 1, "4": 2, "8": 2}
    assert seen.value("penstock_batch_items_sum", function="identity") == 21
    # A batch's time counts once for the workers, and once for each request in Triton's sum.
    busy_us = 1e6 * seen.value("penstock_batch_duration_seconds_sum", function="identity", stage="compute")
    assert seen.value("penstock_batch_duration_seconds_count", function="identity", stage="compute") == 5
    assert 2_100_000 <= busy_us < 2_600_000
    infer_us = seen.value("nv_inference_compute_infer_duration_us", **of)
    assert infer_us - busy_us == pytest.approx(3 * 400_000, rel=0.1)
    # The statistics API says the same.
    assert int(statistics["inference_count"]) == 21
    assert int(statistics["execution_count"]) == 5
    sizes = {int(batch["batch_size"]): int(batch["compute_infer"]["count"]) for batch in statistics["batch_stats"]}
    assert sizes == {1: 1, 3: 1, 4: 1, 5: 1, 8: 1}
    in_batches = sum(int(batch["compute_infer"]["ns"]) for batch in statistics["batch_stats"])
    assert in_batches / 1000 == pytest.approx(busy_us, abs=5)


def bucket_counts(scraped, name):
    """What fell into each bucket of a histogram, not cumulated; zeros left out."""
    counts, below = {}, 0
    for sample in scraped.matching(f"{name}_bucket", function="identity"):
        counts[sample.labels["le"]] = sample.value - below
        below = sample.value
    return {bound: count for bound, count in counts.items() if count}


def test_the_statistics_api_says_what_the_metrics_say(server):
    with triton.InferenceServerClient(server.grpc) as client:
        client.infer("identity", tensor(3))
        seen = quiet(server)
        over_grpc = client.get_inference_statistics(as_json=True)["model_stats"]
    with urllib.request.urlopen(f"{server.url}/v2/models/stats", timeout=10) as response:
        over_http = json.load(response)["model_stats"]
    assert {one["name"] for one in over_http} == {"identity", "magika", "minilm"}
    for stats in over_grpc + over_http:
        of = {"model": stats["name"], "version": stats["version"]}
        assert int(stats.get("inference_count", 0)) == seen.value("nv_inference_count", **of)
        assert int(stats.get("execution_count", 0)) == seen.value("nv_inference_exec_count", **of)
        stages = stats["inference_stats"]
        success = int(stages.get("success", {}).get("count", 0))
        assert success == seen.value("nv_inference_request_success", **of)
        for stage, metric in [
            ("success", "request"),
            ("queue", "queue"),
            ("compute_input", "compute_input"),
            ("compute_infer", "compute_infer"),
            ("compute_output", "compute_output"),
        ]:
            us = int(stages.get(stage, {}).get("ns", 0)) / 1000
            assert us == pytest.approx(seen.value(f"nv_inference_{metric}_duration_us", **of), abs=1)
        failures = seen.sum("nv_inference_request_failure", **of)
        assert int(stages.get("fail", {}).get("count", 0)) == failures


def test_tokens_and_padding(start):
    """Of embeddings: tokens as the tokenizer counts them, and never fewer with padding than without."""
    options = ("--model-control-mode", "explicit", "--load-model", "minilm")
    server = start(*options)
    goldens = json.loads((ROOT / "models/bert/tests/goldens/minilm.json").read_text())
    with triton.InferenceServerClient(server.grpc) as client:
        texts = triton.InferInput("text", [len(goldens), 1], "BYTES")
        texts.set_data_from_numpy(numpy.array([[golden["text"].encode()] for golden in goldens], dtype=object))
        client.infer("minilm", [texts])
    seen = quiet(server)
    tokens = sum(golden["tokens"] for golden in goldens)
    assert seen.value("penstock_tokens_total", function="minilm") == tokens
    assert seen.value("penstock_batch_tokens_sum", function="minilm") == tokens
    padded = seen.value("penstock_padded_tokens_total", function="minilm")
    assert tokens <= padded <= len(goldens) * max(golden["tokens"] for golden in goldens)
    assert seen.value("penstock_batch_items_sum", function="minilm") == len(goldens)
    batches = seen.value("penstock_batch_items_count", function="minilm")
    assert seen.value("penstock_batch_tokens_count", function="minilm") == batches
    assert seen.value("nv_inference_exec_count", model="minilm") == batches
    assert seen.value("nv_inference_count", model="minilm") == len(goldens)


# --- Prometheus's own programs


@pytest.fixture(scope="module")
def prometheus_folder():
    subprocess.run([ROOT / "tests/tools.sh", "prometheus"], check=True)
    return CACHE / "bin"


def test_the_text_is_prometheus_text(server):
    with triton.InferenceServerClient(server.grpc) as client:
        client.infer("identity", tensor(1))
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as response:
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    seen = Scraped(server)
    for family in seen.families.values():
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family.name
    names = [(s.name, tuple(sorted(s.labels.items()))) for s in seen.samples]
    assert len(names) == len(set(names)), "no sample twice"
    assert {f"nv_inference_{name}" for name in ("count", "exec_count", "pending_request_count")} <= {n for n, _ in names}
    for sample in seen.samples:
        if sample.name.endswith("_bucket") and sample.labels["le"] == "+Inf":
            labels = {k: v for k, v in sample.labels.items() if k != "le"}
            assert sample.value == seen.value(sample.name.removesuffix("_bucket") + "_count", **labels)


def test_promtool_finds_it_right(server, prometheus_folder):
    checked = subprocess.run(
        [prometheus_folder / "promtool", "check", "metrics"],
        input=Scraped(server).text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode in (0, 3), "3: valid, with remarks on names"
    # The names of Triton do not follow Prometheus's conventions, and stay as they are.
    remarks = [one for one in (checked.stdout + checked.stderr).splitlines() if not one.startswith("nv_inference_")]
    assert remarks == []


def test_a_real_prometheus_scrapes_it(server, prometheus_folder, tmp_path, unused_port):
    (tmp_path / "prometheus.yml").write_text(
        "global: { scrape_interval: 1s, scrape_timeout: 1s }\n"
        "scrape_configs:\n"
        "  - job_name: penstock\n"
        f"    static_configs: [ {{ targets: [ '{server.metrics}' ] }} ]\n"
    )
    subprocess.run(
        [prometheus_folder / "promtool", "check", "config", tmp_path / "prometheus.yml"], check=True, capture_output=True
    )
    with triton.InferenceServerClient(server.grpc) as client:
        for _ in range(3):
            client.infer("identity", tensor(2))
    expected = quiet(server).value("nv_inference_count", model="identity")
    command = [
        prometheus_folder / "prometheus",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{unused_port}",
    ]
    log = open(tmp_path / "prometheus.log", "w+")
    scraper = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:

        def ask(query):
            """The value of a query with one series; None while there is none."""
            assert scraper.poll() is None, (tmp_path / "prometheus.log").read_text()
            url = f"http://127.0.0.1:{unused_port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
            try:
                with urllib.request.urlopen(url, timeout=5) as response:
                    result = json.load(response)["data"]["result"]
            except OSError:
                return None
            return float(result[0]["value"][1]) if len(result) == 1 else None

        until(lambda: ask('up{job="penstock"}') == 1, "it is scraped", 30)
        until(lambda: ask('nv_inference_count{model="identity"}') == expected, "what was counted is there")
        assert ask("sum(penstock_requests_received_total)") == ask(
            "sum(penstock_requests_total) + sum(penstock_requests_in_flight)"
        )
        assert ask("penstock_environments_ready{function='identity'}") == 1
        median = "histogram_quantile(0.5, sum by (le) (penstock_request_duration_seconds_bucket{function='identity'}))"
        assert 0 < ask(median) < 1
    finally:
        scraper.terminate()
        scraper.wait(20)
        log.close()


@pytest.fixture
def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
