"""Width and height from the first bytes of PNG, JPEG and WebP files, many times faster than opening the image.

Only plain headers are read. None means: ask Pillow, which knows all forms and says what is wrong with a file.
"""

import os
import zlib
from typing import BinaryIO

Size = tuple[int, int]
HEAD = 64
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Markers of baseline, extended and progressive frames; the others are rare."""


def header_size(path: str) -> Size | None:
    """(width, height) in pixels. Raises OSError if the file cannot be opened, ValueError if a WebP file is cut off."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
        if head.startswith(PNG_START):
            return png_size(head)
        if head.startswith(b"\xff\xd8\xff"):
            return jpeg_size(file)
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return webp_size(head, os.fstat(file.fileno()).st_size)
    return None


def png_size(head: bytes) -> Size | None:
    """From the IHDR chunk, if its checksum is right (PNG specification, 11.2.2)."""
    if len(head) < HEAD or zlib.crc32(head[12:29]) != int.from_bytes(head[29:33], "big"):
        return None
    return _filled(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))


def jpeg_size(file: BinaryIO) -> Size | None:
    """From the first frame header (ITU-T T.81, B.2.2), of 8 bits and 1, 3 or 4 components."""
    position = 2
    while True:
        file.seek(position)
        segment = file.read(10)
        if len(segment) < 10 or segment[0] != 0xFF or not 0xC0 <= segment[1] <= 0xFE or 0xD0 <= segment[1] <= 0xDA:
            return None
        if segment[1] in JPEG_FRAMES:
            plain = segment[4] == 8 and segment[9] in (1, 3, 4)
            return _filled(int.from_bytes(segment[7:9], "big"), int.from_bytes(segment[5:7], "big")) if plain else None
        position += 2 + int.from_bytes(segment[2:4], "big")


def webp_size(head: bytes, length: int) -> Size | None:
    """From the first 30 bytes (RFC 9649). length: of the file; raises ValueError if it is shorter than it says."""
    if len(head) < 30:
        return None
    if int.from_bytes(head[4:8], "little") + 8 > length:
        raise ValueError("cut off")
    if head[12:16] == b"VP8X":                                                  # canvas of an extended file, less one
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L" and head[20] == 0x2F:                             # lossless: 14 bits each, less one
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[12:16] == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":               # lossy: 14 bits each, 2 bits of scaling
        return _filled(int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF)
    return None


def _filled(width: int, height: int) -> Size | None:
    return (width, height) if width and height else None
