"""A version that dies at every start: said in the index, tried again ever more rarely, and of no harm to others."""

import time

import grpc

from callers import environment_pids, log_count, request, settled_books, stub, total, until
from conftest import CACHE, identity_repository
from tritonclient.grpc import service_pb2 as pb

WATCHED_S = 3


def test_environment_that_never_starts(start, tmp_path):
    identity_repository(tmp_path, "fine")
    model = tmp_path / "starved"
    (model / "1").mkdir(parents=True)
    for file in (CACHE / "models/minilm/1").iterdir():
        (model / "1" / file.name).symlink_to(file.resolve())
    limit = 'parameters { key: "penstock.memory_limit_bytes" value: { string_value: "67108864" } }\n'
    # candle holds the weights in memory of its own; the limit does not count what is mapped from files.
    engine = 'parameters { key: "penstock.engine" value: { string_value: "candle" } }\n'
    (model / "config.pbtxt").write_text(f'name: "starved"\nbackend: "bert"\nmax_batch_size: 8\n{limit}{engine}')

    began = time.monotonic()
    server = start("--model-repository", tmp_path)
    [fine] = environment_pids(server, "fine")
    caller = stub(server)
    index = {model.name: model for model in caller.RepositoryIndex(pb.RepositoryIndexRequest()).models}
    print(index["starved"])
    assert index["fine"].state == "READY"
    assert index["starved"].state == "UNAVAILABLE" and index["starved"].reason, index
    error = caller.ModelInfer.future(request("starved")).exception(timeout=5)
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    assert index["starved"].reason in error.details()

    until(lambda: time.monotonic() > began + WATCHED_S, WATCHED_S + 5)
    restarts = total(server, "penstock_environment_restarts_total", function="starved")
    # Pauses of 50, 100, 200, 400, 800, 1600 ms: six fit, fewer where starting itself takes long.
    assert 1 <= restarts <= 7, restarts
    assert environment_pids(server, "fine") == [fine]
    caller.ModelInfer(request("fine"), timeout=5)
    assert log_count(server, "environment ready") == 1
    settled_books(server, "starved")
