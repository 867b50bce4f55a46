"""Replies of the embedded broker fit into notifications."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.brokers.postgres.names import control_channel, queue_channel
from pyfi_hpc.brokers.postgres.replies import ANSWER_BYTES, PAYLOAD_BYTES, body_of, payloads
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.messages import Answer, ErrorRecord, Kind, Reply, decode_reply, encode


def arrived(reply: Reply) -> list[Answer]:
    """The answers as they come out of the notifications."""
    sent = payloads(encode(reply))
    assert all(len(payload) <= PAYLOAD_BYTES for payload in sent)
    return [answer for payload in sent for answer in decode_reply(body_of(payload)).answers]


@given(st.lists(st.integers(min_value=0, max_value=3 * ANSWER_BYTES), max_size=60))
def test_every_answer_arrives_in_order_and_only_large_values_stay_behind(sizes: list[int]) -> None:
    answers = tuple(Answer(new_id(), Kind.VALUE, bytes(size)) for size in sizes)

    came = arrived(Reply(1, answers))

    assert [(answer.id, answer.kind) for answer in came] == [(answer.id, answer.kind) for answer in answers]
    for sent, got in zip(answers, came, strict=True):
        assert got.value == sent.value or (got.value is None and len(sent.value or b"") > ANSWER_BYTES - 64)


def test_a_thousand_small_answers_keep_their_values() -> None:
    answers = tuple(Answer(new_id(), Kind.VALUE, b"\x01" * 20) for _ in range(1000))
    assert tuple(arrived(Reply(1, answers))) == answers


def test_a_long_traceback_stays_behind() -> None:
    answer = Answer(new_id(), Kind.ERROR, None, ErrorRecord("ValueError", "no", "x" * 10_000))
    assert arrived(Reply(1, (answer,))) == [Answer(answer.id, Kind.ERROR)]


def test_a_large_body_that_is_no_reply_is_not_sent() -> None:
    assert payloads(b"\xc1" * 20_000) == []


@pytest.mark.parametrize("payload", ["not base64!", "é", "a"])
def test_a_payload_that_is_none_of_ours_is_told_apart(payload: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        body_of(payload)


def test_channels_are_short_enough_and_differ() -> None:
    networks = ["default", "n" * 63, "n" * 62 + "m"]
    channels = {control_channel(network) for network in networks} | {queue_channel("q" * 300)}
    assert len(channels) == 4
    assert all(len(channel) <= 63 for channel in channels)
    assert control_channel("default") == "pyfi_control_default"
