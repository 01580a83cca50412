"""Spoilt files: bytes changed, cut, doubled, moved; header fields set to what nobody should write."""

import gzip
import random
import struct
import zlib

EXTREMES = [0, 1, -1, 2, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"), 3.4e38]
NIFTI_FIELDS = [
    *((40 + 2 * n, "h") for n in range(8)),
    *((70, "h"), (72, "h"), (74, "h"), (123, "b"), (0, "i"), (252, "h"), (254, "h"), (344, "i"), (348, "i")),
    *((offset, "f") for offset in (76, 80, 84, 88, 92, 108, 112, 116, 256, 260, 264, 268, 272, 276)),
    *((280 + 4 * n, "f") for n in range(12)),
]
DICOM_WORDS = [
    *(b"\x28\x00\x10\x00", b"\x28\x00\x11\x00", b"\x28\x00\x00\x01", b"\x28\x00\x01\x01", b"\x28\x00\x02\x00"),
    *(b"\x28\x00\x08\x00", b"\x20\x00\x32\x00", b"\x20\x00\x37\x00", b"\x28\x00\x30\x00", b"\x28\x00\x53\x10"),
    *(b"\xe0\x7f\x10\x00", b"\x20\x00\x0e\x00", b"\x08\x00\x60\x00", b"\xfe\xff\x00\xe0", b"\x00\x52\x30\x92"),
]


def mutate(data: bytes, kind: str, rng: random.Random) -> bytes:
    """Spoil a file.

    Args:
        data: Its bytes.
        kind: "nifti" or "dicom": where the fields lie.
        rng: Source of chance.
    """
    packed = data[:2] == b"\x1f\x8b"
    inside = packed and rng.random() < 0.75  # the rest of the time what is spoilt is the packed file
    spoilt = bytearray(gzip.decompress(data) if inside else data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        _spoil(spoilt, kind, rng)
    if not inside:
        return bytes(spoilt)
    again = gzip.compress(bytes(spoilt), compresslevel=1, mtime=0)
    return again[: rng.randrange(len(again))] if rng.random() < 0.1 else again


def bomb(header: bytes, megabytes: int) -> bytes:
    """A header followed by zeros that pack a thousandfold."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1024**2)
    return packer.compress(header) + b"".join(packer.compress(zeros) for _ in range(megabytes)) + packer.flush()


def _spoil(data: bytearray, kind: str, rng: random.Random) -> None:
    if not data:
        return
    how = rng.choice(["field", "field", "field", "byte", "bytes", "cut", "grow", "double", "zero", "move"])
    at = rng.randrange(min(len(data), 600) if rng.random() < 0.7 else len(data))
    length = rng.choice([1, 2, 4, 8, 16, 100])
    if how == "field":
        _field(data, kind, rng)
    elif how == "byte":
        data[at] ^= 1 << rng.randrange(8)
    elif how == "bytes":
        data[at : at + length] = rng.randbytes(min(length, len(data) - at))
    elif how == "cut":
        del data[rng.randrange(len(data)) :]
    elif how == "grow":
        data += rng.randbytes(rng.choice([1, 7, 1000]))
    elif how == "double":
        data[at:at] = data[at : at + length]
    elif how == "zero":
        data[at : at + length] = bytes(min(length, len(data) - at))
    else:
        piece = data[at : at + length]
        del data[at : at + length]
        other = rng.randrange(len(data) + 1)
        data[other:other] = piece


def _field(data: bytearray, kind: str, rng: random.Random) -> None:
    if kind == "nifti":
        offset, code = rng.choice(NIFTI_FIELDS)
        if offset + 4 <= len(data):
            value = rng.choice(FLOATS) if code == "f" else _fitting(rng.choice(EXTREMES), code)
            struct.pack_into(f"<{code}", data, offset, value)
        return
    at = data.find(rng.choice(DICOM_WORDS))
    if at < 0 or at + 16 > len(data):
        return
    if rng.random() < 0.3:  # the length, or what stands for one
        data[at + 6 : at + 8] = struct.pack("<H", rng.choice([0, 1, 7, 255, 65535]))
    elif rng.random() < 0.3:
        data[at + 4 : at + 6] = rng.choice([b"UN", b"DS", b"US", b"OW", b"SQ", b"PN", b"??"])
    else:
        text = rng.choice([b"-1", b"0", b"nan", b"inf", b"1e99", b"1\\1", b"\\\\", b"99999999", b"\xff\xff"])
        data[at + 8 : at + 8 + len(text)] = text


def _fitting(value: int, code: str) -> int:
    bits = {"b": 8, "h": 16, "i": 32}[code]
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
