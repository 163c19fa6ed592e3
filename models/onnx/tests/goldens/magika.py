"""Makes magika.json: what Python's onnxruntime answers for inputs that a formula gives in both languages.

Needs: pip install onnxruntime numpy, and the model (models/catalog/fetch.py). Usage: magika.py MODEL.onnx
"""
import json
import pathlib
import sys

import numpy as np
import onnxruntime

SEEDS = [(1, 0), (3, 17), (7, 100), (31, 5), (64, 200), (255, 256)]

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
cases = []
for a, b in SEEDS:
    row = ((np.arange(2048) * a + b) % 257).astype(np.int32)[None]
    scores = session.run(["target_label"], {"bytes": row})[0][0]
    cases.append({"a": a, "b": b, "scores": [float(f"{score:.7g}") for score in scores]})
golden = {
    "what": "byte i of a row is (i * a + b) % 257; scores is target_label",
    "onnxruntime": onnxruntime.__version__,
    "cases": cases,
}
text = json.dumps(golden, separators=(",", ":")).replace('{"a"', '\n{"a"') + "\n"
pathlib.Path(__file__).with_suffix(".json").write_text(text)
