"""Makes the small graphs beside this file. Needs: pip install onnx. Run it again only to change them."""
import pathlib

import numpy as np
from onnx import TensorProto as T, checker, helper, numpy_helper, save

HERE = pathlib.Path(__file__).parent
INFO = helper.make_tensor_value_info


def write(name, nodes, inputs, outputs, initializers=(), check=True):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if check:
        checker.check_model(model)
    save(model, HERE / f"{name}.onnx")


# Every datatype of the protocol, echoed.
TYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FLOAT16", "FLOAT", "DOUBLE",
         "BFLOAT16", "STRING"]
write("types",
      [helper.make_node("Identity", [f"in_{t}"], [f"out_{t}"]) for t in TYPES],
      [INFO(f"in_{t}", getattr(T, t), ["batch", 2]) for t in TYPES],
      [INFO(f"out_{t}", getattr(T, t), ["batch", 2]) for t in TYPES])
write("strings", [helper.make_node("Identity", ["words"], ["echo"])],
      [INFO("words", T.STRING, ["batch", 2])], [INFO("echo", T.STRING, ["batch", 2])])
write("fixed_batch", [helper.make_node("Add", ["x", "x"], ["y"])],
      [INFO("x", T.FLOAT, [1, 3])], [INFO("y", T.FLOAT, [1, 3])])
write("half", [helper.make_node("Cast", ["x"], ["single"], to=T.FLOAT), helper.make_node("Cast", ["x"], ["brain"], to=T.BFLOAT16)],
      [INFO("x", T.FLOAT16, ["batch", "n"])],
      [INFO("single", T.FLOAT, ["batch", "n"]), INFO("brain", T.BFLOAT16, ["batch", "n"])])
# The second dimension of the output is an expression of two open ones.
write("two_inputs", [helper.make_node("Concat", ["a", "b"], ["c"], axis=1)],
      [INFO("a", T.FLOAT, ["batch", "n"]), INFO("b", T.FLOAT, ["batch", "m"])],
      [INFO("c", T.FLOAT, ["batch", "n + m"])])
# Dimension 0 of the output looks like a batch and is not.
write("doubled", [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
      [INFO("x", T.FLOAT, ["batch", 2])], [INFO("y", T.FLOAT, ["rows", 2])])
write("gather", [helper.make_node("Gather", ["table", "index"], ["value"])],
      [INFO("index", T.INT64, ["batch", 1])], [INFO("value", T.FLOAT, ["batch", 1])],
      [numpy_helper.from_array(np.array([10, 20, 30, 40], np.float32), "table")])
write("optional", [helper.make_node("Mul", ["x", "scale"], ["y"])],
      [INFO("x", T.FLOAT, ["batch", 2]), INFO("scale", T.FLOAT, ["batch", 1])], [INFO("y", T.FLOAT, ["batch", 2])],
      [numpy_helper.from_array(np.array([[3]], np.float32), "scale")])
write("sequence",
      [helper.make_node("SplitToSequence", ["x"], ["pieces"]), helper.make_node("Identity", ["x"], ["echo"])],
      [INFO("x", T.FLOAT, ["batch", 2])],
      [helper.make_tensor_sequence_value_info("pieces", T.FLOAT, None), INFO("echo", T.FLOAT, ["batch", 2])])
# As large as the caller says.
write("zeros", [helper.make_node("ConstantOfShape", ["shape"], ["zeros"])],
      [INFO("shape", T.INT64, [1])], [INFO("zeros", T.FLOAT, ["n"])])
# The input itself is an output; the other is folded into a weight. Neither memory is the output's own.
write("through", [helper.make_node("ConstantOfShape", ["shape"], ["zeros"])],
      [INFO("x", T.FLOAT, ["batch", "n"])],
      [INFO("x", T.FLOAT, ["batch", "n"]), INFO("zeros", T.FLOAT, [8192])],
      [numpy_helper.from_array(np.array([8192], np.int64), "shape")])
write("unknown_op", [helper.make_node("NoSuchOperator", ["x"], ["y"])],
      [INFO("x", T.FLOAT, [1])], [INFO("y", T.FLOAT, [1])], check=False)

# Weights in a file of their own.
weights = np.arange(1, 5, dtype=np.float32)
tensor = numpy_helper.from_array(weights, "weights")
tensor.ClearField("raw_data")
tensor.data_location = T.EXTERNAL
for key, value in (("location", "external.bin"), ("offset", "0"), ("length", str(weights.nbytes))):
    entry = tensor.external_data.add()
    entry.key, entry.value = key, value
(HERE / "external.bin").write_bytes(weights.tobytes())
write("external", [helper.make_node("Add", ["x", "weights"], ["y"])],
      [INFO("x", T.FLOAT, ["batch", 4])], [INFO("y", T.FLOAT, ["batch", 4])], [tensor], check=False)
