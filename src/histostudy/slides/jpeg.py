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
    segments, at = _segments(stream)
    return segments + stream[at:]


def _segments(stream: bytes) -> tuple[bytes, int]:
    """The segments from SOI to SOS that are no hints of colour, and where SOS is (the end where there is none)."""
    if stream[:2] != SOI:
        raise ValueError("not a JPEG stream")
    parts: list[bytes] = []
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            raise ValueError("damaged JPEG header")
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == SOS:
            return b"".join(parts), at
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker not in (APP0, APP14):
            parts.append(stream[at:end])
        at = end
    return b"".join(parts), len(stream)


def jpeg_head(tables: bytes | None, ycbcr: bool) -> bytes:
    """What goes before each tile's own segments: SOI, the colour space, the shared tables."""
    shared = without_colour_hints(tables) if tables else b""
    return SOI + adobe_segment(ycbcr) + shared.removesuffix(b"\xff\xd9")


class Whole:
    """Makes streams that decode alone of the stored tiles of a level.

    TIFF says the colour space in its PhotometricInterpretation tag, and the JPEG inside may say nothing or
    something else; libjpeg would guess from component ids. OpenSlide follows the tag, and so do we, by an
    Adobe marker in place of the stream's own hints. Tiles mostly begin alike: that part is rewritten once.

    Parameters
    ----------
    head : bytes
        As `jpeg_head` gives it.
    """

    def __init__(self, head: bytes) -> None:
        self.head = head
        self._known = (b"", b"")  # one object, so that threads see both or neither

    def __call__(self, tile: bytes) -> bytes:
        """The stream of a stored tile.

        Raises
        ------
        ValueError
            If the tile is not JPEG.
        """
        start, rewritten = self._known
        if not start or not tile.startswith(start):
            segments, at = _segments(tile)
            start, rewritten = self._known = (tile[:at], self.head + segments)
        return rewritten + tile[len(start) :]
