#!/usr/bin/env python3
"""Puts a CUDA toolkit into the cache, and prints its folder: `toolkit.py CACHE`. Needs Python 3.8, pip and a C compiler.

The wheels in toolkit.txt, verified by their hashes, are unpacked side by side. What cudarc links and no wheel here has
(the driver's library, cuBLAS) is linked against stubs: libraries of the right name with every function that cudarc
declares, each of which says that there is no device (CUDA_ERROR_NO_DEVICE). A machine with a GPU has the real ones. A
complete toolkit is left as it is.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
# What is linked by which name, and where cudarc declares its functions.
STUBS = {
    "cuda": ("libcuda.so.1", "driver"),
    "cublas": ("libcublas.so.13", "cublas"),
    "cublasLt": ("libcublasLt.so.13", "cublaslt"),
}
DECLARED = re.compile(r"^ +fn (cu[A-Za-z0-9_]+)\s*\(", re.MULTILINE)


def main():
    cache = pathlib.Path(sys.argv[1])
    wanted = hashlib.sha256((HERE / "toolkit.txt").read_bytes()).hexdigest()[:12]
    folder = cache / f"cuda-{wanted}"
    if not (folder / "ok").exists():
        shutil.rmtree(folder, ignore_errors=True)
        say(f"fetching NVIDIA's compiler (265 MB) into {folder}")
        fetch(folder)
    stub(folder)
    (folder / "ok").touch()
    print(folder / "nvidia/cu13")


def say(text):
    print(text, file=sys.stderr, flush=True)


def fetch(folder):
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--require-hashes", "--only-binary", ":all:", "--dest", wheels, "--requirement", HERE / "toolkit.txt"]
    if subprocess.run(command).returncode != 0:
        sys.exit("the toolkit cannot be fetched: is the package index in reach? (pip's own words are above)")
    for wheel in sorted(wheels.iterdir()):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
            for member in archive.infolist():
                mode = member.external_attr >> 16
                if mode & 0o111:
                    os.chmod(folder / member.filename, mode & 0o7777)
    shutil.rmtree(wheels)
    toolkit = folder / "nvidia/cu13"
    for program in [*(toolkit / "bin").iterdir(), *(toolkit / "nvvm/bin").iterdir()]:
        if program.is_file():
            program.chmod(0o755)
    (toolkit / "lib64").symlink_to("lib")
    for library in list((toolkit / "lib").glob("*.so.*")):
        plain = library.with_name(library.name.split(".so.")[0] + ".so")
        if not plain.exists():
            plain.symlink_to(library.name)


def stub(folder):
    """Of the functions that the locked cudarc declares, so that another cudarc gets others."""
    source = cudarc()
    stubs = folder / "nvidia/cu13/lib/stubs"
    stubs.mkdir(exist_ok=True)
    for name, (soname, module) in STUBS.items():
        text = "".join(path.read_text() for path in sorted((source / "src" / module / "sys").glob("*.rs")))
        functions = sorted(set(DECLARED.findall(text)))
        if not functions:
            sys.exit(f"{source}: cudarc declares no functions of {name} where they were looked for")
        code = stubs / f"{name}.c"
        lines = "// To link against: a machine with a GPU has the real one. Each says that there is no device.\n"
        lines += "".join(f"int {function}(void) {{ return 100; }}\n" for function in functions)
        library = stubs / f"lib{name}.so"
        if library.exists() and code.exists() and code.read_text() == lines:
            continue
        # The source is the sign that the library is made of it, so it is put there last.
        new = code.with_name(f"new-{code.name}")
        new.write_text(lines)
        subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", library, new], check=True)
        new.rename(code)
        # For who starts the executable here, to see what it says without a GPU.
        (stubs / soname).unlink(missing_ok=True)
        (stubs / soname).symlink_to(library.name)


def cudarc():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--manifest-path", HERE / "Cargo.toml"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    (package,) = [package for package in found["packages"] if package["name"] == "cudarc"]
    return pathlib.Path(package["manifest_path"]).parent


if __name__ == "__main__":
    main()
