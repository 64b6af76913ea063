"""Files of pictures that Pillow cannot write: 16 bit colours, declared bits, too many of everything."""

import struct
import zlib
from pathlib import Path

import numpy as np


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def deep_png(values: np.ndarray, bits: int = 0, clear: int | None = None) -> bytes:
    """Return a PNG file of 16 bit values [H, W] or [H, W, 2 to 4]; bits: declared by sBIT, 0 = none."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    declared = chunk(b"sBIT", bytes([bits] * channels)) if bits else b""
    declared += chunk(b"tRNS", struct.pack(">H", clear)) if clear is not None else b""
    parts = chunk(b"IHDR", head) + declared + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def blank_png(width: int, height: int, kind: int = 0, depth: int = 8) -> bytes:
    """Return a PNG file of black pixels, a thousandth of their size. kind: PNG's colour type."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    row = b"\0" * (1 + (width * channels * depth + 7) // 8)
    packer = zlib.compressobj(1)
    block = max(1, (1 << 20) // len(row))
    packed = b"".join(packer.compress(row * min(block, height - top)) for top in range(0, height, block))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    palette = chunk(b"PLTE", b"\0\0\0") if kind == 3 else b""
    parts = chunk(b"IHDR", head) + palette + chunk(b"IDAT", packed + packer.flush()) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def deep_tiff(
    values: np.ndarray,
    *,
    held: int = 16,
    data: bytes | None = None,
    signed: bool = False,
    order: str = "<",
    deflated: bool = False,
    photometric: int = 1,
) -> bytes:
    """Return a TIFF file of 16 bit values [H, W] or [H, W, 3 or 4]; held: its BitsPerSample, of `data`."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    content = values.astype(f"{order}{'i' if signed else 'u'}2").tobytes() if data is None else data
    content = zlib.compress(content) if deflated else content
    tags = {
        256: values.shape[1], 257: values.shape[0], 258: [held] * channels, 259: 8 if deflated else 1,
        262: photometric if channels == 1 else 2, 273: None, 277: channels, 278: values.shape[0],
        279: len(content), 339: [2 if signed else 1] * channels,
    }  # fmt: skip
    if channels == 4:
        tags[338] = 2
    start = 8 + 2 + 12 * len(tags) + 4
    lists = b""
    entries = b""
    for tag, value in sorted(tags.items()):
        numbers = value if isinstance(value, list) else [value]
        if tag in (273, 279):
            place = start + 16 * channels if tag == 273 else value
            entries += struct.pack(order + "HHII", tag, 4, 1, place)
        elif len(numbers) > 2:
            entries += struct.pack(order + "HHII", tag, 3, len(numbers), start + len(lists))
            lists += struct.pack(f"{order}{len(numbers)}H", *numbers)
        else:
            packed = struct.pack(f"{order}{len(numbers)}H", *numbers).ljust(4, b"\0")
            entries += struct.pack(order + "HHI", tag, 3, len(numbers)) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return head + entries + b"\0\0\0\0" + lists.ljust(16 * channels, b"\0") + content


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
