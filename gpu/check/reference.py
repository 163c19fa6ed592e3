"""What the device itself can do, by PyTorch, if it is there: copy bandwidth, matrix rate, and the same encoder on the same
weights. Called by run.py in a process of its own; prints one JSON object a line. Knows nothing of Penstock."""

import json
import math
import pathlib
import struct
import sys
import time

import torch
import torch.nn.functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def said(**values):
    print(json.dumps(values), flush=True)


def seconds_of(work, times):
    """Of one call, the median of `times`, after three to warm up."""
    for _ in range(3):
        work()
    taken = []
    for _ in range(times):
        wait()
        began = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]


def wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def ceilings():
    count = 2**30 if DEVICE == "cuda" else 2**26
    there, here = (torch.empty(count, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    seconds = seconds_of(lambda: there.copy_(here), 10)
    said(check="copy", what="device to device, read and written", bytes_per_s=2 * count / seconds)
    pinned = torch.empty(count // 4, dtype=torch.uint8, pin_memory=DEVICE == "cuda")
    seconds = seconds_of(lambda: there[: count // 4].copy_(pinned, non_blocking=True), 10)
    said(check="copy", what="pinned host to device", bytes_per_s=count / 4 / seconds)
    size = 8192 if DEVICE == "cuda" else 512
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        a, b = (torch.randn(size, size, dtype=dtype, device=DEVICE) for _ in range(2))
        seconds = seconds_of(lambda a=a, b=b: a @ b, 10)
        said(check="matrix", dtype=str(dtype), size=size, flop_per_s=2 * size**3 / seconds)


def weights(folder, dtype):
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    found = {}
    for name, tensor in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__" and tensor["dtype"] in kinds:
            begin, end = (8 + length + offset for offset in tensor["data_offsets"])
            raw = torch.frombuffer(bytearray(data[begin:end]), dtype=kinds[tensor["dtype"]])
            found[name] = raw.reshape(tensor["shape"]).to(DEVICE, dtype)
    return found


def encoder(folder, dtype):
    config, w = json.loads((folder / "config.json").read_text()), weights(folder, dtype)
    heads, layers, eps = (config[name] for name in ("num_attention_heads", "num_hidden_layers", "layer_norm_eps"))

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def forward(ids):
        rows, tokens = ids.shape
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:tokens]
        x = norm("embeddings.LayerNorm", x + w["embeddings.token_type_embeddings.weight"][0])
        for layer in range(layers):
            at = f"encoder.layer.{layer}"
            split = [linear(f"{at}.attention.self.{part}", x).view(rows, tokens, heads, -1).transpose(1, 2)
                     for part in ("query", "key", "value")]
            context = F.scaled_dot_product_attention(*split).transpose(1, 2).reshape(rows, tokens, -1)
            x = norm(f"{at}.attention.output.LayerNorm", linear(f"{at}.attention.output.dense", context) + x)
            wide = F.gelu(linear(f"{at}.intermediate.dense", x))
            x = norm(f"{at}.output.LayerNorm", linear(f"{at}.output.dense", wide) + x)
        return F.normalize(x.mean(1), dim=1)

    return forward


def encode(folder):
    shapes = [(1, 16), (32, 16), (128, 16), (32, 128), (64, 128)] if DEVICE == "cuda" else [(1, 16)]
    for dtype in (torch.float32, torch.float16):
        forward = encoder(folder, dtype)
        for rows, tokens in shapes:
            ids = torch.randint(1000, 30000, (rows, tokens), device=DEVICE)
            with torch.inference_mode():
                seconds = seconds_of(lambda ids=ids, forward=forward: forward(ids).cpu(), 20)
            said(check="pytorch", dtype=str(dtype), rows=rows, tokens=tokens, tokens_per_s=rows * tokens / seconds,
                 median_ms=seconds * 1e3)


if __name__ == "__main__":
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    said(check="device", name=name, torch=torch.__version__, finite=math.isfinite(torch.ones(1, device=DEVICE).sum().item()))
    ceilings()
    encode(pathlib.Path(sys.argv[1]))
