"""How large, deep and compressed anything from outside may be."""

from __future__ import annotations

import zlib

from pyfi_hpc.errors import BadInput

FRAME_BYTES = 16 * 2**20
#: Containers inside one another in a value; the arguments' own list and map do not count.
DEPTH = 64
#: A larger value travels as a claim check.
INLINE_BYTES = 256 * 2**10
#: A larger value is left out of a reply; the caller reads the row.
REPLY_INLINE_BYTES = 64 * 2**10
OUTPUT_TAIL_BYTES = 64 * 2**10
#: Bytes out for each byte in when decompressing.
RATIO = 100

_GZIP_OR_ZLIB = 47  # wbits: the largest window (15) plus 32, which tells zlib to read either header


def inflate(data: bytes, *, limit: int = FRAME_BYTES) -> bytes:
    """The content of one gzip or zlib stream; never more than `limit` bytes or `RATIO` times its input.

    Raises:
        BadInput: E_LIMIT, it would be larger; E_DECODE, the stream is damaged, cut short or followed by more.
    """
    most = min(limit, RATIO * len(data))
    stream = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
    try:
        content = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise BadInput.of("E_DECODE", "compressed data", f"{len(data)} bytes", str(error)) from error
    if len(content) > most:
        why = f"it expands to more than {most} bytes (limit {limit} bytes, ratio {RATIO})"
        raise BadInput.of("E_LIMIT", "compressed data", f"{len(data)} bytes", why)
    if not stream.eof or stream.unused_data:
        why = "something follows the compressed data" if stream.eof else "the compressed data is cut short"
        raise BadInput.of("E_DECODE", "compressed data", f"{len(data)} bytes", why)
    return content
