#!/usr/bin/env python3
"""Packs what a machine with a GPU needs to check everything there into one file: `pack.py OUT_FOLDER [onnx]`. `make gpu-check`
and `make gpu-check-onnx` call it.

In it: the executables (stripped), the encoder's folder with its weights rounded to float16 (nearest, ties to even),
the goldens, and run.py. With `onnx` in place of the encoder: a graph, and ONNX Runtime with its CUDA provider for one generation
of GPUs (prune.py), which both together would be too large. It is told how large it is, and that it must be below LIMIT: such machines are lent with a limit on
what is carried. xz and not zstd, because Python's own library reads it: the machine may have neither program.
"""

import array
import io
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_BYTES = 60 * 2**20
# Whose kernels the packed CUDA provider has: Hopper's.
GENERATION = 90
CACHE = pathlib.Path(os.environ.get("PENSTOCK_CACHE_DIR") or pathlib.Path.home() / ".cache/penstock")
PROGRAMS = ("release/penstock", "release/penstock-loadtest", "cuda/release/penstock-environment-cuda",
            "cuda/release/penstock-bare-forward", "cuda/release/penstock-kernel-check")
# What the encoder reads of its folder, beside the weights.
MODEL_FILES = ("config.json", "tokenizer.json", "sentence_bert_config.json", "modules.json", "1_Pooling/config.json")


def main():
    out = pathlib.Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    (out / "bin").mkdir(parents=True)
    for program in PROGRAMS:
        file = out / "bin" / pathlib.Path(program).name
        subprocess.run(["strip", "-o", file, ROOT / "target" / program], check=True)
    facts = graph(out) if sys.argv[2:] == ["onnx"] else encoder(out)
    for name in ("run.py", "reference.py"):
        shutil.copyfile(ROOT / "gpu/check" / name, out / name)
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    facts = {"commit": commit.stdout.strip(), **facts}
    (out / "packed.json").write_text(json.dumps(facts, indent=1))
    packed = out.with_suffix(".tar.xz")
    with tarfile.open(packed, "w:xz", preset=6) as archive:
        archive.add(out, out.name)
    size = packed.stat().st_size
    print(f"{packed}: {size / 2**20:.1f} MiB (limit {LIMIT_BYTES / 2**20:.0f})")
    only = " --only inventory,onnx" if sys.argv[2:] == ["onnx"] else ""
    print(f"there: tar xf {packed.name} && python3 {out.name}/run.py RESULTS_FOLDER{only}")
    return 0 if size <= LIMIT_BYTES else f"{packed} is larger than {LIMIT_BYTES / 2**20:.0f} MiB"


def encoder(out):
    source, model = CACHE / "models/minilm/1", out / "models/minilm/1"
    for name in MODEL_FILES:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, model / name)
    largest = halve(source / "model.safetensors", model / "model.safetensors")
    shutil.copyfile(ROOT / "models/bert/tests/goldens/minilm.json", out / "goldens.json")
    return {"weights": "float16, rounded to nearest, ties to even", "largest_rounding_error": largest}


def graph(out):
    from prune import prune

    shutil.copytree(CACHE / "models/magika", out / "models/magika", symlinks=False)
    shutil.copyfile(ROOT / "models/onnx/tests/goldens/magika.json", out / "magika.json")
    libraries = out / "lib/cuda"
    libraries.mkdir(parents=True)
    for name in ("libonnxruntime.so", "libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
        shutil.copyfile(CACHE / "lib/cuda" / name, libraries / name)
    provider = libraries / "libonnxruntime_providers_cuda.so"
    pruned, kept = prune(provider.read_bytes(), GENERATION)
    provider.write_bytes(pruned)
    return {"cuda_provider": f"kernels for generation {GENERATION} only, without attention and experts: {kept} bytes of them"}


def halve(source, target):
    """Rewrites a safetensors file with float32 as float16; the largest error of a weight."""
    data = source.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
    rewritten, out, largest = {}, io.BytesIO(), 0.0
    for name, tensor in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [0])[0]):
        if name == "__metadata__":
            rewritten[name] = tensor
            continue
        begin, end = tensor["data_offsets"]
        bytes_ = bytes(body[begin:end])
        if tensor["dtype"] == "F32":
            values = array.array("f", bytes_)
            bytes_ = struct.pack(f"<{len(values)}e", *values)
            back = struct.unpack(f"<{len(values)}e", bytes_)
            largest = max(largest, max(map(abs, map(float.__sub__, values, back)), default=0.0))
        start = out.tell()
        out.write(bytes_)
        dtype = "F16" if tensor["dtype"] == "F32" else tensor["dtype"]
        rewritten[name] = {"dtype": dtype, "shape": tensor["shape"], "data_offsets": [start, out.tell()]}
    text = json.dumps(rewritten, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(struct.pack("<Q", len(text)) + text + out.getvalue())
    return largest


if __name__ == "__main__":
    sys.exit(main())
