"""Times a model's calls on zeros with Python's onnxruntime: time_model.py MODEL.onnx THREADS. See time_model.rs."""
import sys
import time

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
TYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
for rows in (1, 8, 32):
    feed = {i.name: np.zeros([rows] + [d if isinstance(d, int) else 1 for d in i.shape[1:]], TYPES[i.type])
            for i in session.get_inputs()}
    times, began = [], time.perf_counter()
    while len(times) < 10 or time.perf_counter() - began < 3:
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    times.sort()
    print(f"rows {rows:>3} {times[len(times) // 2] * 1e6:9.1f} us a call, fastest {times[0] * 1e6:9.1f}")
