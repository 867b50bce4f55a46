"""Replies as notifications: at most 8,000 bytes each, so a reply travels in pieces and large values stay behind."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from pyfi_hpc.wire.messages import Answer, Reply, decode_reply, encode

#: A payload must be shorter than 8,000 bytes (PostgreSQL, NOTIFY); base64 makes four of three.
PAYLOAD_BYTES = 7900
PIECE_BYTES = PAYLOAD_BYTES // 4 * 3
#: A larger answer is sent without its value: the client reads the row.
ANSWER_BYTES = 2000
#: Room for the reply's own fields.
_FRAME = 32


def payloads(body: bytes) -> list[str]:
    """The payloads that carry the reply `body`; none where it is too large and no reply of ours."""
    if len(body) <= PIECE_BYTES:
        return [base64.b64encode(body).decode()]
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        return [base64.b64encode(piece).decode() for piece in _pieces(decode_reply(body))]
    return []


def body_of(payload: str) -> bytes:
    """What `payload` carries; raises ValueError where anybody else wrote it."""
    return base64.b64decode(payload, validate=True)


def _pieces(reply: Reply) -> Iterator[bytes]:
    answers: list[Answer] = []
    size = _FRAME
    for answer, length in map(_slim, reply.answers):
        if size + length > PIECE_BYTES:
            yield encode(Reply(reply.version, tuple(answers)))
            answers, size = [], _FRAME
        answers.append(answer)
        size += length
    yield encode(Reply(reply.version, tuple(answers)))


def _slim(answer: Answer) -> tuple[Answer, int]:
    """The answer, without what is too large for a hint, and its length."""
    length = len(encode(answer))
    if length <= ANSWER_BYTES:
        return answer, length
    bare = Answer(answer.id, answer.kind)
    return bare, len(encode(bare))
