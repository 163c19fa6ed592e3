"""Takes out of ONNX Runtime's CUDA provider what one GPU generation does not run, so that it can be carried: 284 MB become some
tens when packed. Called by pack.py; needs `zstandard`.

Compiled kernels lie in the library's section `.nv_fatbin`, as one fat binary for each source file: a header (magic, version,
its size, the size of what follows) and for each generation an entry (kind, version, its header's size, the payload's size; at
byte 28 the generation), its payload an ELF file, mostly compressed by zstd. NVIDIA does not describe this format; what
is not as expected here is an error. Payloads of other generations, and of attention and expert kernels, which no graph here
has, become zeros; nothing moves. A kernel that is missing then fails when it is launched.
"""

import struct

import zstandard

MAGIC = 0xBA55ED50
ELF = b"\x7fELF"
# Parts of the names of kernels that are left out.
NOT_NEEDED = (b"flash", b"cutlass", b"kernel_mha", b"moe_gemv", b"fpA_intB")


def prune(library, generation):
    """`generation` as 90 for Hopper; the library's new bytes, and how many bytes of kernels are left."""
    data = bytearray(library)
    start, size = _section(data, ".nv_fatbin")
    kept, at, end = 0, start, start + size
    while at + 16 <= end:
        magic, _, header, length = struct.unpack_from("<IHHQ", data, at)
        if magic != MAGIC:
            at += 8  # fat binaries are aligned
            continue
        entry, at = at + header, at + header + length
        while entry < at:
            _, _, entry_header, payload_size = struct.unpack_from("<HHIQ", data, entry)
            (of,) = struct.unpack_from("<I", data, entry + 28)
            payload = slice(entry + entry_header, entry + entry_header + payload_size)
            if of == generation and not any(name in _elf(data[payload]) for name in NOT_NEEDED):
                kept += payload_size
            else:
                data[payload] = bytes(payload_size)
            entry = payload.stop
    if kept == 0:
        raise ValueError(f"no kernels for generation {generation} were found")
    return bytes(data), kept


def _elf(payload):
    found = bytes(payload) if payload[:4] == ELF else zstandard.ZstdDecompressor().decompressobj().decompress(bytes(payload))
    if found[:4] != ELF:
        raise ValueError("a fat binary's entry is not as expected")
    return found


def _section(data, wanted):
    (table,) = struct.unpack_from("<Q", data, 40)
    entry_size, count, names = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQ", data, table + index * entry_size) for index in range(count)]
    for name, _, _, _, offset, size in sections:
        begin = sections[names][4] + name
        if data[begin : data.index(0, begin)].decode() == wanted:
            return offset, size
    raise ValueError(f"there is no section {wanted}")
