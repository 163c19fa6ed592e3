"""The demo models' numbers, asked for by tritonclient, against independent references: alone, and among strangers."""

import asyncio
import json

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tokenizers import Tokenizer

from conftest import CACHE, ROOT

MODULES = {"grpc": (tritonclient.grpc, tritonclient.grpc.aio), "http": (tritonclient.http, tritonclient.http.aio)}
GOLDENS = json.loads((ROOT / "models/bert/tests/goldens/minilm.json").read_text())
TEXTS = [golden["text"] for golden in GOLDENS]
EMBEDDINGS = np.array([golden["embedding"] for golden in GOLDENS])
ALL_IN_S = 120


@pytest.fixture(params=MODULES)
def ask(request, server):
    """`ask([(model, {input: array}), …], outputs=None)`: all at the same time; the results in the order asked."""
    module, aio = MODULES[request.param]
    address = getattr(server, request.param)

    def tensor(name, array):
        datatype = {"int32": "INT32", "int64": "INT64", "float32": "FP32", "object": "BYTES"}[array.dtype.name]
        return module.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)

    def outputs(wanted):
        return wanted and [module.InferRequestedOutput(name, class_count=count) for name, count in wanted.items()]

    def ask_all(calls, wanted=None):
        async def together():
            async with aio.InferenceServerClient(address) as client:
                asked = [
                    client.infer(model, [tensor(*item) for item in inputs.items()], outputs=outputs(wanted))
                    for model, inputs in calls
                ]
                return await asyncio.wait_for(asyncio.gather(*asked), ALL_IN_S)

        return asyncio.run(together())

    return ask_all


def text(*rows):
    return np.array([[row.encode()] for row in rows], np.object_)


def ids_of(*rows):
    """Ids and mask as the model's own tokenizer gives them, padded with zeros to the longest."""
    tokenizer = Tokenizer.from_file(str(CACHE / "models/minilm/1/tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    encoded = [tokenizer.encode(row).ids for row in rows]
    longest = max(map(len, encoded))
    ids = np.array([row + [0] * (longest - len(row)) for row in encoded], np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in encoded], np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def assert_same_direction(found, right):
    assert found.dtype == np.float32 and found.shape == right.shape
    found = found.astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cosines = (found * right).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(right, axis=1)
    assert (cosines >= 0.99999).all(), cosines


def test_minilm_alone(ask):
    for row, right in zip(TEXTS, EMBEDDINGS):
        for inputs in ({"text": text(row)}, ids_of(row)):
            (result,) = ask([("minilm", inputs)])
            assert_same_direction(result.as_numpy("embedding"), right[None])


def test_minilm_in_one_request(ask):
    by_text, by_ids = ask([("minilm", {"text": text(*TEXTS)}), ("minilm", ids_of(*TEXTS))])
    assert_same_direction(by_text.as_numpy("embedding"), EMBEDDINGS)
    assert_same_direction(by_ids.as_numpy("embedding"), EMBEDDINGS)


def test_minilm_among_strangers(ask):
    strangers = [("minilm", {"text": text("word " * length)}) for length in (1, 3, 8, 20, 50, 120)]
    own = [("minilm", inputs) for row in TEXTS for inputs in ({"text": text(row)}, ids_of(row))]
    pair = [("minilm", {"text": text(TEXTS[9], TEXTS[4])})]
    results = ask(own + strangers + pair)
    for index in range(len(TEXTS)):
        for result in results[2 * index : 2 * index + 2]:
            assert_same_direction(result.as_numpy("embedding"), EMBEDDINGS[index : index + 1])
    assert_same_direction(results[-1].as_numpy("embedding"), EMBEDDINGS[[9, 4]])


@pytest.fixture(scope="module")
def session():
    return onnxruntime.InferenceSession(
        str(CACHE / "models/magika/1/model.onnx"), providers=["CPUExecutionProvider"]
    )


def rows_of(contents):
    """The bytes of contents as magika wants them."""
    rows = np.full((len(contents), 2048), 256, np.int32)
    for row, content in zip(rows, contents):
        first, last = content.lstrip()[:1024], content.rstrip()[-1024:]
        row[: len(first)] = list(first)
        row[2048 - len(last) :] = list(last)
    return rows


@pytest.fixture(scope="module")
def long_rows():
    """Contents that fill a row, whose scores do not depend on how many rows run together."""
    random = np.random.default_rng(42)
    code = b"".join(b"def f%d(x):\n    return x + %d\n\n" % (i, i) for i in range(200))
    page = b"<html><body>" + b"".join(b"<p>paragraph %d</p>\n" % i for i in range(200))
    return rows_of([code, page, random.bytes(4096), b"%PDF-1.7\n" + random.bytes(3000)])


@pytest.fixture(scope="module")
def short_rows():
    """Contents that leave most of a row constant. The graph's first layer norm computes a variance as E[x²] - E[x]²,
    which cancels there, so that the order of onnxruntime's sums shows: it is one for a single row, and another for two
    rows and more, whatever the others are.
    """
    return rows_of([b"", b"\x7fELF" + bytes(200), b"<html><body>" + b"text " * 400, b'{"a": [1, 2, 3]}', b"GIF89a"])


def scores_alone(session, rows):
    return np.concatenate([session.run(["target_label"], {"bytes": row[None]})[0] for row in rows])


def scores_together(session, rows):
    return np.concatenate([session.run(["target_label"], {"bytes": np.stack([row, row])})[0][:1] for row in rows])


def distance(result, right):
    found = result.as_numpy("target_label")
    assert found.dtype == np.float32 and found.shape == right.shape
    return abs(found - right).max()


def test_magika_alone(ask, session, long_rows, short_rows):
    rows = np.concatenate([long_rows, short_rows])
    for row, right in zip(rows, scores_alone(session, rows)):
        (result,) = ask([("magika", {"bytes": row[None]})])
        assert distance(result, right[None]) <= 1e-5


def test_magika_in_one_request_and_among_strangers(ask, session, long_rows, short_rows):
    rows = np.concatenate([long_rows, short_rows])
    alone, together = scores_alone(session, rows), scores_together(session, rows)
    assert abs(alone - together)[: len(long_rows)].max() <= 1e-5
    singles = [("magika", {"bytes": row[None]}) for row in rows]
    *single, pair, every = ask(singles + [("magika", {"bytes": rows[[6, 1]]}), ("magika", {"bytes": rows})])
    for index, result in enumerate(single):  # nobody knows whether it met the others
        right = alone[index : index + 1], together[index : index + 1]
        assert min(distance(result, right[0]), distance(result, right[1])) <= 1e-5
    assert distance(pair, together[[6, 1]]) <= 1e-5
    assert distance(every, together) <= 1e-5


def test_magika_as_classes(ask, session, long_rows):
    labels = (CACHE / "models/magika/labels.txt").read_text().splitlines()
    scores = scores_alone(session, long_rows)
    (result,) = ask([("magika", {"bytes": long_rows})], {"target_label": 3})
    classes = result.as_numpy("target_label")
    assert classes.shape == (len(long_rows), 3)
    for found, row in zip(classes, scores):
        for place, entry in enumerate(found):
            value, index, label = (entry.decode() if isinstance(entry, bytes) else entry).split(":")
            assert label == labels[int(index)] and len(value.split(".")[1]) == 6
            assert abs(float(value) - row[int(index)]) <= 1e-5
            # The score of this place, whichever of two nearly equal classes comes first.
            assert abs(np.sort(row)[::-1][place] - row[int(index)]) <= 1e-5
        assert np.argmax(row) == int((found[0].decode() if isinstance(found[0], bytes) else found[0]).split(":")[1])


def test_more_classes_than_there_are(ask, long_rows):
    (result,) = ask([("magika", {"bytes": long_rows[:1]})], {"target_label": 1000})
    assert result.as_numpy("target_label").shape == (1, 214)
