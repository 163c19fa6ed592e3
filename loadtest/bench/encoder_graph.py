"""The reference encoder as an ONNX graph, written from a checkpoint in standard operators, as an exporter writes BERT.

Called by `reference`. It owes nothing to the server: no file of models/bert is read, and the optimiser of ONNX Runtime
finds the patterns it fuses (attention, layer normalisation, GELU). Shapes: input_ids and attention_mask [batch, tokens]
INT64 in, last_hidden_state [batch, tokens, hidden] FP32 out.
"""

import json
import math

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

OPSET = 17
MASKED = -10000.0


class Graph:
    """Nodes and weights as they are added; names are given in order."""

    def __init__(self, weights):
        self.weights, self.nodes, self.initializers, self.known = weights, [], [], {}
        self.shapes = []

    def node(self, operator, *inputs, **attributes):
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def value(self, name, array):
        if name not in self.known:
            self.known[name] = name
            self.initializers.append(numpy_helper.from_array(numpy.asarray(array, order="C"), name))
        return name

    def weight(self, name, transposed=False):
        array = self.weights[name].astype(numpy.float32)
        return self.value(name + (".T" if transposed else ""), array.T if transposed else array)

    def integers(self, *values):
        return self.value("i64_" + "_".join(map(str, values)), numpy.array(values, numpy.int64))

    def number(self, value):
        return self.value(f"f32_{value}", numpy.array(value, numpy.float32))

    def shaped(self, name, *shape):
        """Says what shape inference cannot find out, as an exporter does; without it the optimiser fuses less."""
        self.shapes.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", *shape]))
        return name

    def linear(self, name, hidden):
        product = self.node("MatMul", hidden, self.weight(f"{name}.weight", transposed=True))
        return self.node("Add", product, self.weight(f"{name}.bias"))

    def normalised(self, name, hidden, epsilon):
        centred = self.node("Sub", hidden, self.node("ReduceMean", hidden, axes=[-1], keepdims=1))
        square = self.node("Pow", centred, self.number(2.0))
        variance = self.node("ReduceMean", square, axes=[-1], keepdims=1)
        deviation = self.node("Sqrt", self.node("Add", variance, self.number(epsilon)))
        scaled = self.node("Mul", self.node("Div", centred, deviation), self.weight(f"{name}.weight"))
        return self.node("Add", scaled, self.weight(f"{name}.bias"))

    def gelu(self, hidden):
        erf = self.node("Erf", self.node("Div", hidden, self.number(math.sqrt(2.0))))
        return self.node("Mul", self.node("Mul", hidden, self.node("Add", erf, self.number(1.0))), self.number(0.5))


def build(folder, destination):
    """Writes the graph of a Hugging Face folder to a file; returns its number of nodes."""
    config = json.loads((folder / "config.json").read_text())
    if config["hidden_act"] != "gelu" or config["position_embedding_type"] != "absolute":
        raise ValueError(f"{folder / 'config.json'}: the reference knows GELU and absolute positions")
    graph = Graph(load_file(folder / "model.safetensors"))
    hidden = _embeddings(graph, config)
    mask = _mask(graph)
    for layer in range(config["num_hidden_layers"]):
        hidden = _layer(graph, config, f"encoder.layer.{layer}", hidden, mask)
    graph.nodes.append(helper.make_node("Identity", [hidden], ["last_hidden_state"], name="last_hidden_state"))
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
           for name in ("input_ids", "attention_mask")]
    shape = ["batch", "tokens", config["hidden_size"]]
    out = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape)]
    whole = helper.make_graph(graph.nodes, "bert", ids, out, graph.initializers, value_info=graph.shapes)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save_model(model, destination)
    return len(graph.nodes)


def _embeddings(graph, config):
    words = graph.node("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    shape = graph.node("Shape", "input_ids")
    length = graph.node("Unsqueeze", graph.node("Gather", shape, graph.value("second", numpy.array(1))), graph.integers(0))
    every = graph.value("every_position", numpy.arange(config["max_position_embeddings"], dtype=numpy.int64)[None])
    positions = graph.node("Slice", every, graph.integers(0), length, graph.integers(1))
    positions = graph.node("Gather", graph.weight("embeddings.position_embeddings.weight"), positions)
    first = graph.node("ConstantOfShape", shape, value=helper.make_tensor("zero", TensorProto.INT64, [1], [0]))
    types = graph.node("Gather", graph.weight("embeddings.token_type_embeddings.weight"), first)
    total = graph.node("Add", graph.node("Add", words, types), positions)
    graph.shaped(total, config["hidden_size"])
    return graph.normalised("embeddings.LayerNorm", total, config["layer_norm_eps"])


def _mask(graph):
    """[batch, 1, 1, tokens]: 0 where there is a token and a large negative number where there is none."""
    wide = graph.node("Unsqueeze", graph.node("Unsqueeze", "attention_mask", graph.integers(1)), graph.integers(2))
    real = graph.node("Cast", wide, to=TensorProto.FLOAT)
    return graph.node("Mul", graph.node("Sub", graph.number(1.0), real), graph.number(MASKED))


def _layer(graph, config, name, hidden, mask):
    heads, width, epsilon = config["num_attention_heads"], config["hidden_size"], config["layer_norm_eps"]

    def heads_of(projection, order):
        projected = graph.linear(f"{name}.attention.self.{projection}", hidden)
        return graph.node("Transpose", graph.node("Reshape", projected, graph.integers(0, 0, heads, width // heads)),
                          perm=order)

    query, key, value = (heads_of("query", [0, 2, 1, 3]), heads_of("key", [0, 2, 3, 1]),
                         heads_of("value", [0, 2, 1, 3]))
    scores = graph.node("Div", graph.node("MatMul", query, key), graph.number(math.sqrt(width // heads)))
    shares = graph.node("Softmax", graph.node("Add", scores, mask), axis=-1)
    context = graph.node("Transpose", graph.node("MatMul", shares, value), perm=[0, 2, 1, 3])
    context = graph.node("Reshape", context, graph.integers(0, 0, width))
    attended = graph.node("Add", graph.linear(f"{name}.attention.output.dense", context), hidden)
    attended = graph.normalised(f"{name}.attention.output.LayerNorm", attended, epsilon)
    wide = graph.gelu(graph.linear(f"{name}.intermediate.dense", attended))
    total = graph.node("Add", graph.linear(f"{name}.output.dense", wide), attended)
    return graph.normalised(f"{name}.output.LayerNorm", total, epsilon)
