"""JPEG tiles of TIFF files: the stored stream made whole, with its colours said plainly."""

from __future__ import annotations

SOI = b"\xff\xd8"
APP0, APP14, SOS = 0xE0, 0xEE, 0xDA


def adobe_segment(ycbcr: bool) -> bytes:
    """An Adobe APP14 segment, by which a decoder knows whether to convert from YCbCr."""
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + (b"\x01" if ycbcr else b"\x00")


def without_colour_hints(stream: bytes) -> bytes:
    """The segments after SOI without JFIF and Adobe ones; from SOS on as it is.

    Raises
    ------
    ValueError
        If the stream is not JPEG.
    """
    if stream[:2] != SOI:
        raise ValueError("not a JPEG stream")
    parts = []
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            raise ValueError("damaged JPEG header")
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == SOS:
            parts.append(stream[at:])
            return b"".join(parts)
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker not in (APP0, APP14):
            parts.append(stream[at:end])
        at = end
    return b"".join(parts)


def jpeg_head(tables: bytes | None, ycbcr: bool) -> bytes:
    """What goes before each tile's own segments: SOI, the colour space, the shared tables."""
    shared = without_colour_hints(tables) if tables else b""
    return SOI + adobe_segment(ycbcr) + shared.removesuffix(b"\xff\xd9")


def whole_jpeg(tile: bytes, head: bytes) -> bytes:
    """A stream that decodes alone.

    TIFF says the colour space in its PhotometricInterpretation tag, and the JPEG inside may say nothing or
    something else; libjpeg would guess from component ids. OpenSlide follows the tag, and so do we, by an
    Adobe marker in place of the stream's own hints.
    """
    return head + without_colour_hints(tile)
