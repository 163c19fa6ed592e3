"""onnxruntime called in process: tokenize, pad to the longest row, run, pool. The ceiling of `embeddings`.

Called by `embeddings`. Its numbers are held to the goldens before any of its times is used.
"""

import collections
import hashlib
import json
import os
import time

import numpy
import onnx
import onnxruntime
import tokenizers

from . import encoder_graph
from .programs import CACHE, ROOT, Failed

FOLDER = CACHE / "models/minilm/1"
GOLDENS = ROOT / "models/bert/tests/goldens/minilm.json"
COSINE_MIN = 0.99999


def goldens():
    return json.loads(GOLDENS.read_text())


def check(who, texts, vectors):
    """Fails unless the vectors are those of the goldens; returns the lowest cosine."""
    known = {golden["text"]: golden["embedding"] for golden in goldens()}
    lowest = 1.0
    for text, vector in zip(texts, numpy.asarray(vectors, numpy.float64), strict=True):
        golden = numpy.asarray(known[text], numpy.float64)
        cosine = vector @ golden / (numpy.linalg.norm(vector) * numpy.linalg.norm(golden))
        lowest = min(lowest, cosine)
        if not cosine >= COSINE_MIN:
            raise Failed(f"{who}: the embedding of {text[:60]!r} has cosine {cosine:.7f} to the golden")
    return float(lowest)


class Encoder:
    """One session. `spinning`: whether its threads wait for work by spinning, as is onnxruntime's default."""

    def __init__(self, threads, spinning, optimised=None):
        self.spinning = spinning
        settings = json.loads((FOLDER / "sentence_bert_config.json").read_text())
        self.tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        self.tokenizer.enable_truncation(settings["max_seq_length"])
        self.tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        if not spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if optimised:
            options.optimized_model_filepath = str(optimised)
        # A ceiling is the fastest known way: on CPU, onnxruntime 1.32's fused SkipLayerNormalization makes this encoder
        # 2 to 10 % slower than Add and LayerNormalization, so this one fusion is left out.
        self.session = onnxruntime.InferenceSession(graph(), options, providers=["CPUExecutionProvider"],
                                                    disabled_optimizers=["SkipLayerNormFusion"])
        self.tokens = self.padded_tokens = 0

    def embed(self, texts):
        """`[texts, hidden]` FP32, mean over tokens, normalised. One batch, padded to its longest text."""
        rows = [encoded.ids for encoded in self.tokenizer.encode_batch_fast(texts)]
        longest = max(map(len, rows))
        ids = numpy.zeros((len(rows), longest), numpy.int64)
        mask = numpy.zeros((len(rows), longest), numpy.int64)
        for at, row in enumerate(rows):
            ids[at, :len(row)] = row
            mask[at, :len(row)] = 1
        self.tokens += sum(map(len, rows))
        self.padded_tokens += ids.size
        hidden, = self.session.run(None, {"input_ids": ids, "attention_mask": mask})
        real = mask[:, None, :].astype(numpy.float32)
        pooled = (real @ hidden)[:, 0] / real.sum(2)
        return pooled / numpy.linalg.norm(pooled, axis=1, keepdims=True)

    def lengths(self, texts):
        return [len(encoded.ids) for encoded in self.tokenizer.encode_batch_fast(texts)]

    def slice(self, texts, batch, seconds):
        """Batches in the order of the texts, round and round, until the time is over: (texts done, seconds taken)."""
        at, began, now = 0, time.perf_counter(), 0.0
        while now < seconds:
            self.embed([texts[(at + offset) % len(texts)] for offset in range(batch)])
            at, now = at + batch, time.perf_counter() - began
        return at, now


def graph():
    """The reference graph in the cache; built if its checkpoint or its source is another."""
    digest = hashlib.sha256(onnx.__version__.encode())
    for path in (encoder_graph.__file__, FOLDER / "config.json", FOLDER / "model.safetensors"):
        with open(path, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    path = CACHE / "bench" / f"minilm-{digest.hexdigest()[:16]}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        encoder_graph.build(FOLDER, unfinished)
        unfinished.replace(path)
    return str(path)


def describe(threads):
    """What the reference is, held to the goldens: nodes before and after the optimiser, and how many of what it fused."""
    optimised = CACHE / "bench" / f"optimised.{os.getpid()}.onnx"
    try:
        encoder = Encoder(threads, spinning=True, optimised=optimised)
        nodes = onnx.load(optimised, load_external_data=False).graph.node
    finally:
        optimised.unlink(missing_ok=True)
    fused = collections.Counter(node.op_type for node in nodes
                                if node.domain == "com.microsoft" or node.op_type == "LayerNormalization")
    texts = [golden["text"] for golden in goldens()]
    return {
        "version": onnxruntime.__version__,
        "threads": threads,
        "nodes": len(onnx.load(graph(), load_external_data=False).graph.node),
        "nodes_optimised": len(nodes),
        "fused": dict(fused.most_common()),
        "lowest_cosine_alone": check("the reference", texts, [encoder.embed([text])[0] for text in texts]),
        "lowest_cosine_together": check("the reference, batched", texts, encoder.embed(texts)),
    }
