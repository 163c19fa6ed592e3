"""The `openai` SDK as it comes from its package: embeddings, models, errors, overload."""

import asyncio
import base64
import concurrent.futures
import json
import logging
import re
import urllib.error
import urllib.request

import numpy
import openai
import pytest
import tokenizers
from scraped import Scraped, until

from conftest import CACHE, ROOT

GOLDENS = [
    golden
    for golden in json.loads((ROOT / "models/bert/tests/goldens/minilm.json").read_text())
    if golden["text"]  # like OpenAI's, this door refuses empty texts
]
TEXTS = [golden["text"] for golden in GOLDENS]
EXPECTED = numpy.array([golden["embedding"] for golden in GOLDENS])


def client_of(server, **options):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", **{"max_retries": 0, "timeout": 60} | options)


def only(name):
    """Options to load one of the demo models."""
    return "--model-control-mode", "explicit", "--load-model", name


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer():
    (folder,) = (CACHE / "models/minilm").glob("*/tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    return tokenizer


def embed(client, inputs, **options):
    """Vectors in order, and the tokens they were said to have."""
    answer = client.embeddings.create(model="minilm", input=inputs, **options)
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    assert (answer.object, answer.model) == ("list", "minilm")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens
    return numpy.array([one.embedding for one in answer.data]), answer.usage.prompt_tokens


def assert_same(vectors, expected, least=0.99999):
    assert vectors.shape == expected.shape
    cosines = (vectors * expected).sum(axis=1) / numpy.linalg.norm(vectors, axis=1) / numpy.linalg.norm(expected, axis=1)
    assert cosines.min() >= least
    assert numpy.abs(numpy.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize("options", [{}, {"encoding_format": "base64"}, {"encoding_format": "float"}], ids=str)
def test_a_list_of_texts_gives_the_golden_vectors(client, options):
    answer = client.embeddings.create(model="minilm", input=TEXTS, **options)
    vectors = [one.embedding for one in answer.data]
    if options.get("encoding_format") == "base64":  # asked for by name, the SDK hands it on as it came
        vectors = [numpy.frombuffer(base64.b64decode(one), "<f4") for one in vectors]
    assert_same(numpy.array(vectors), EXPECTED)
    assert answer.usage.prompt_tokens == sum(golden["tokens"] for golden in GOLDENS)


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: f"{golden['tokens']} tokens")
def test_one_text_gives_its_golden_vector(client, golden):
    vectors, tokens = embed(client, golden["text"])
    assert_same(vectors, numpy.array([golden["embedding"]]))
    assert tokens == golden["tokens"]


def test_token_ids_give_the_vectors_of_their_texts(client, tokenizer):
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    assert [len(one) for one in ids] == [golden["tokens"] for golden in GOLDENS]
    vectors, tokens = embed(client, ids)
    assert_same(vectors, EXPECTED)
    assert tokens == sum(map(len, ids))
    vectors, tokens = embed(client, ids[0], encoding_format="float")
    assert_same(vectors, EXPECTED[:1])
    assert tokens == len(ids[0])


def test_both_encodings_carry_the_same_numbers(client):
    as_base64, _ = embed(client, TEXTS[0])  # what the SDK asks for when it is not told
    as_float, _ = embed(client, TEXTS[0], encoding_format="float")
    assert (as_base64.astype("f4") == as_float.astype("f4")).all()


def test_the_size_of_the_vectors_can_only_be_their_own(client):
    assert embed(client, "a", dimensions=384)[0].shape == (1, 384)
    with pytest.raises(openai.BadRequestError, match="384") as caught:
        embed(client, "a", dimensions=128)
    assert caught.value.param == "dimensions"


def test_2048_inputs_are_answered_in_order(client):
    """Three tokens each, all different."""
    ids = [[101, 2000 + place, 102] for place in range(2048)]
    vectors, tokens = embed(client, ids)
    assert vectors.shape == (2048, 384)
    assert tokens == 3 * 2048
    for place in (0, 1, 31, 32, 1023, 1024, 2047):
        assert_same(vectors[place : place + 1], embed(client, ids[place])[0])
    # No two of them are one: an answer in another's place would be seen.
    similar = vectors @ vectors.T - numpy.eye(2048)
    assert similar.max() < 0.99999


def test_2049_inputs_are_refused(client):
    with pytest.raises(openai.BadRequestError, match="2048") as caught:
        embed(client, ["a"] * 2049)
    assert caught.value.param == "input"
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("arguments", "param", "words"),
    [
        ({"input": ""}, "input", "empty"),
        ({"input": []}, "input", "empty"),
        ({"input": ["a", ""]}, "input", "empty"),
        ({"input": [[]]}, "input", "empty"),
        ({"input": 3}, "input", "string"),
        ({"input": {"text": "a"}}, "input", "string"),
        ({"input": ["a", 3]}, "input", "string"),
        ({"input": [1, "a"]}, "input", "token id"),
        ({"input": [1.5]}, "input", "token id"),
        ({"input": [-1]}, "input", "token id"),
        ({"input": [101, 999_999, 102]}, "input", "999999"),
        ({"input": None}, "input", "string"),
        ({"dimensions": "many"}, "dimensions", "whole number"),
        ({"dimensions": 0}, "dimensions", "1 or more"),
        ({"encoding_format": "int8"}, "encoding_format", "base64"),
        ({"model": 3}, "model", "string"),
        ({"extra_body": {"truncate": "no"}}, "truncate", "true or false"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_member_is_named(client, arguments, param, words):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": "minilm", "input": "a"} | arguments)
    error = caught.value
    assert (error.param, error.type) == (param, "invalid_request_error")
    assert words in error.body["message"]


def test_too_long_a_text_is_cut_or_refused(client, tokenizer):
    text = "penstock " * 400
    vectors, tokens = embed(client, text)
    assert tokens == 256
    assert_same(vectors, embed(client, tokenizer.encode(text).ids)[0])
    with pytest.raises(openai.BadRequestError, match="256") as caught:
        embed(client, text, extra_body={"truncate": False})
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("model", ["nothing-like-it", "minilm:7", "no/such"])
def test_an_unknown_model_is_not_found(client, model):
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model=model, input="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert model in caught.value.body["message"]


def test_a_model_without_embeddings_says_so(client):
    with pytest.raises(openai.BadRequestError, match="embeddings") as caught:
        client.embeddings.create(model="magika", input="a")
    assert caught.value.param == "model"


def test_models_are_listed_and_retrieved(client):
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"identity", "magika", "minilm"}
    one = client.models.retrieve("minilm")
    assert one == listed["minilm"]
    assert (one.object, one.owned_by) == ("model", "penstock")
    assert one.created > 1_700_000_000
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nothing-like-it")
    assert caught.value.code == "model_not_found"


def plain(url, **options):
    """Status, headers and body of a request that no SDK would make."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, **options), timeout=10) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/v1/chat/completions", {"data": b"{}"}, 404),
        ("/v1/nothing", {}, 404),
        ("/v1/embeddings", {}, 405),
        ("/v1/models", {"data": b"{}"}, 405),
        ("/v1/embeddings", {"data": b'{"model":'}, 400),
        ("/v1/embeddings", {"data": b"\xff\xfe"}, 400),
        ("/v1/embeddings", {"data": b"[]"}, 400),
        ("/v1/embeddings", {"data": b'{"input":"a"}'}, 400),
    ],
)
def test_every_error_has_the_shape_of_openai(server, path, options, status):
    found, headers, body = plain(server.url + path, **options)
    assert (found, headers["content-type"]) == (status, "application/json")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert headers["x-request-id"]
    assert headers["server-timing"]


def test_too_large_a_body_is_413_in_the_same_shape(start):
    server = start(*only("identity"), "--set", "limits.message_bytes=65536")
    with client_of(server) as client, pytest.raises(openai.APIStatusError) as caught:
        embed(client, "a" * 70_000)
    assert caught.value.status_code == 413
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert "65536" in caught.value.body["message"]


def test_the_sdk_comes_back_when_it_was_told_to(start, caplog):
    """One slot, a burst of four: the SDK's own retries bring all of them through, each after the wait it was told."""
    server = start(*only("minilm"), "--set", "environments.concurrency=1")
    told = []

    def note(response):
        if response.status_code != 200:
            told.append((response.status_code, response.headers))

    web = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    caplog.set_level(logging.INFO, logger="openai._base_client")
    with client_of(server, max_retries=50, http_client=web) as client:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda place: embed(client, [TEXTS[place % len(TEXTS)]] * 20), range(4)))
    for place, (vectors, _) in enumerate(answers):
        assert_same(vectors, EXPECTED[[place % len(TEXTS)] * 20])
    assert told, "four at once over one slot"
    for status, headers in told:
        assert status == 429
        assert headers["x-penstock-shed-reason"] == "environment_concurrency"
        assert int(headers["retry-after"]) >= 1
        assert int(headers["x-amz-retry-after"]) >= 1
    waits = [float(wait) for wait in re.findall(r"Retrying request in ([\d.]+) seconds", caplog.text)]
    assert sorted(waits) == sorted(int(headers["x-amz-retry-after"]) / 1000 for _, headers in told)
    scraped = Scraped(server)
    assert scraped.ended("minilm") == {("done", ""): 4, ("shed", "environment_concurrency"): len(told)}


def test_a_request_with_many_inputs_is_admitted_whole_or_not_at_all(start):
    """A queue of 100 items that is not empty takes none of 500; an empty one takes them all."""
    server = start(*only("minilm"), "--set", "environments.queue_items=100", "--set", "environments.batch_tokens=1600")
    long = [101] + [2000] * 98 + [102]

    async def occupied_and_not():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            occupying = asyncio.create_task(client.embeddings.create(model="minilm", input=[long] * 2048))
            while not Scraped(server).sum("penstock_queue_items", function="minilm") > 100:
                assert not occupying.done()
                await asyncio.sleep(0.01)
            for _ in range(3):
                with pytest.raises(openai.RateLimitError) as caught:
                    await client.embeddings.create(model="minilm", input=[[101, 102]] * 500)
                assert caught.value.response.headers["x-penstock-shed-reason"] == "queue_items"
                assert caught.value.code == "rate_limit_exceeded"
            assert not occupying.done()
            occupying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await occupying

    asyncio.run(occupied_and_not())
    settled = until(
        lambda: (now := Scraped(server)).ended("minilm").get(("cancelled", "")) == 1 and now,
        "the request whose caller left is counted as cancelled",
    )
    assert settled.ended("minilm") == {("cancelled", ""): 1, ("shed", "queue_items"): 3}

    def idle():
        now = Scraped(server)
        return not now.sum("penstock_queue_items") and not now.sum("penstock_busy_workers") and now

    # Every item that ran had the length of the request that was let in: of the others not one was computed.
    before = until(idle, "the queue is empty again")
    assert before.sum("penstock_tokens_total") == len(long) * before.sum("penstock_batch_items_sum")
    with client_of(server) as client:
        vectors, _ = embed(client, [[101, 102]] * 500)
    assert vectors.shape == (500, 384)
