"""The pure parts of the pipes: who may send how much, who has what, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.errors import BadInput
from pyfi_hpc.pipes import protocol
from pyfi_hpc.pipes.memory import Free
from pyfi_hpc.pipes.protocol import (
    BATCH_BYTES,
    MESSAGE_BYTES,
    WINDOW_ITEMS,
    Bye,
    Credit,
    Data,
    Hello,
    Passed,
    Place,
    Prove,
    Welcome,
)
from pyfi_hpc.pipes.receiving import Receiving
from pyfi_hpc.pipes.sending import Sending
from pyfi_hpc.pipes.spill import Spill, roomiest
from pyfi_hpc.pipes.window import Window
from pyfi_hpc.wire import values
from pyfi_hpc.wire.arrays import elements_at

SECRET = b"s" * 32
SOCKET = b"o" * 16


def passed(number: int = 1, args: bytes | Place = b"\x92\x91\x01\x80") -> Passed:
    return Passed(7, number, 1, number.to_bytes(16, "big"), args)


def greeted(sender_secret: bytes = SECRET, receiver_secret: bytes = SECRET) -> tuple[Sending, Receiving]:
    """Two ends after their greeting."""
    sending, receiving = Sending(sender_secret, os.urandom(32)), Receiving(receiver_secret, os.urandom(32))
    welcome = receiving.greeted(sending.hello(1, None), shares=False)
    receiving.proved(sending.welcomed(welcome))
    return sending, receiving


def sent(sending: Sending, *calls: Passed, size: int = 4) -> list[Data]:
    for call in calls:
        sending.add(SOCKET, "task", call, size)
    return sending.messages()


def refused(code: str, work: Callable[[], object]) -> BadInput:
    with pytest.raises(BadInput) as caught:
        work()
    assert caught.value.code == code
    return caught.value


# who is who


def test_a_sender_is_welcome_once_both_have_shown_that_they_know_the_secret() -> None:
    sending, receiving = greeted()
    assert sending.welcome and sending.window.items == WINDOW_ITEMS
    (data,) = sent(sending, passed())
    assert receiving.arrived(data) == (passed(),)


def test_neither_end_tells_the_secret() -> None:
    sending, receiving = Sending(SECRET, os.urandom(32)), Receiving(SECRET, os.urandom(32))
    hello = sending.hello(1, None)
    welcome = receiving.greeted(hello, shares=False)
    spoken = b"".join(map(protocol.pack, (hello, welcome, sending.welcomed(welcome))))
    assert SECRET not in spoken


def test_who_stole_the_path_is_given_nothing() -> None:
    sending, thief = Sending(SECRET, os.urandom(32)), Receiving(b"x" * 32, os.urandom(32))
    welcome = thief.greeted(sending.hello(1, None), shares=False)
    refused("E_PIPE_PROTOCOL", lambda: sending.welcomed(welcome))
    assert not sending.welcome and not sending.window.room(0)


def test_a_sender_with_another_secret_is_refused() -> None:
    sending, receiving = Sending(SECRET, b"n" * 32), Receiving(b"x" * 32, b"m" * 32)
    receiving.greeted(sending.hello(1, None), shares=False)
    wrong = Prove(protocol.proof(SECRET, protocol.SENDER, b"n" * 32, b"m" * 32))
    refused("E_PIPE_PROTOCOL", lambda: receiving.proved(wrong))


def test_what_was_overheard_opens_no_second_connection() -> None:
    first = Sending(SECRET, b"n" * 32)
    hello = first.hello(1, None)
    overheard = first.welcomed(Receiving(SECRET, b"m" * 32).greeted(hello, shares=False))
    second = Receiving(SECRET, b"k" * 32)
    second.greeted(hello, shares=False)
    refused("E_PIPE_PROTOCOL", lambda: second.proved(overheard))


def test_a_receivers_proof_is_no_senders_proof() -> None:
    receiving = Receiving(SECRET, b"m" * 32)
    welcome = receiving.greeted(Hello(1, b"n" * 32, 1), shares=False)
    refused("E_PIPE_PROTOCOL", lambda: receiving.proved(Prove(welcome.proof)))


def test_a_newer_pipe_is_refused_by_its_version() -> None:
    receiving = Receiving(SECRET, b"m" * 32)
    refused("E_WIRE_VERSION", lambda: receiving.greeted(Hello(99, b"n" * 32, 1), shares=False))


# what breaks the protocol


def test_data_before_the_greeting_is_refused() -> None:
    data = Data(1, SOCKET, "task", (passed(),))
    receiving = Receiving(SECRET, b"m" * 32)
    refused("E_PIPE_PROTOCOL", lambda: receiving.arrived(data))
    receiving.greeted(Hello(1, b"n" * 32, 1), shares=False)
    refused("E_PIPE_PROTOCOL", lambda: receiving.arrived(data))


@pytest.mark.parametrize("seq", [1, 3, 2**40], ids=["again", "a gap", "far off"])
def test_data_again_or_out_of_order_is_refused(seq: int) -> None:
    _, receiving = greeted()
    receiving.arrived(Data(1, SOCKET, "task", (passed(),)))
    refused("E_PIPE_PROTOCOL", lambda: receiving.arrived(Data(seq, SOCKET, "task", (passed(),))))


def test_hello_and_prove_come_once() -> None:
    sending, receiving = greeted()
    refused("E_PIPE_PROTOCOL", lambda: receiving.greeted(sending.hello(1, None), shares=False))
    refused("E_PIPE_PROTOCOL", lambda: receiving.proved(Prove(b"p" * 32)))
    refused("E_PIPE_PROTOCOL", lambda: sending.welcomed(Welcome(b"m" * 32, b"p" * 32, 1, 1, False)))


def test_a_sender_that_goes_beyond_the_window_is_refused() -> None:
    receiving = Receiving(SECRET, b"m" * 32, items=2, size=100)
    receiving.greeted(Hello(1, b"n" * 32, 1), shares=False)
    receiving.proved(Prove(protocol.proof(SECRET, protocol.SENDER, b"n" * 32, b"m" * 32)))
    receiving.arrived(Data(1, SOCKET, "task", (passed(1), passed(2))))
    refused("E_PIPE_PROTOCOL", lambda: receiving.arrived(Data(2, SOCKET, "task", (passed(3),))))


def test_a_receiver_that_gives_back_more_than_it_has_is_refused() -> None:
    sending, _ = greeted()
    sent(sending, passed())
    refused("E_PIPE_PROTOCOL", lambda: sending.credited(Credit(1, 2, 0)))
    refused("E_PIPE_PROTOCOL", lambda: sending.credited(Credit(1, 1, 5)))
    refused("E_PIPE_PROTOCOL", lambda: sending.credited(Credit(2, 0, 0)))


@pytest.mark.parametrize(
    "body",
    [b"", b"\x80", b"\x91\xa5HELLO", b"\xff" * 100, b"\x93\xa3BYE\x01\x02", b"\x91" * 100_000, b"\xa1\xff"],
    ids=["empty", "a map", "cut short", "garbage", "wrong types", "deep", "no text"],
)
def test_what_is_no_message_is_refused_by_both(body: bytes) -> None:
    refused("E_PIPE_PROTOCOL", lambda: protocol.read_from_sender(body))
    refused("E_PIPE_PROTOCOL", lambda: protocol.read_from_receiver(body))


def test_a_message_over_the_limit_is_refused_unread() -> None:
    refused("E_LIMIT", lambda: protocol.read_from_sender(bytes(MESSAGE_BYTES + 1)))


def test_fields_out_of_range_are_refused() -> None:
    good = Data(1, SOCKET, "task", (passed(),))
    assert protocol.read_from_sender(protocol.pack(good)) == good
    for bad in (
        Data(0, SOCKET, "task", (passed(),)),
        Data(1, b"short", "task", (passed(),)),
        Data(1, SOCKET, "task", ()),
        Data(1, SOCKET, "task", (Passed(1, 1, 17, b"i" * 16, b""),)),
        Data(1, SOCKET, "task", (Passed(1, 1, 1, b"i" * 16, Place(-1, 5)),)),
        Data(1, SOCKET, "task", (passed(),) * (WINDOW_ITEMS + 1)),
        Hello(1, b"short", 1),
    ):
        refused("E_PIPE_PROTOCOL", partial(protocol.read_from_sender, protocol.pack(bad)))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    for read in (protocol.read_from_sender, protocol.read_from_receiver):
        try:
            assert isinstance(read(body), Bye | Hello | Prove | Data | Welcome | Credit)
        except BadInput as error:
            assert error.code == "E_PIPE_PROTOCOL"


# batches, and what is not taken


def test_what_has_gathered_is_one_message_for_each_target() -> None:
    sending, _ = greeted()
    for number in range(3):
        sending.add(SOCKET, "task", passed(number), 4)
        sending.add(b"p" * 16, "other", passed(number + 10), 4)
    messages = sending.messages()
    assert [(data.seq, data.task, len(data.calls)) for data in messages] == [(1, "task", 3), (2, "other", 3)]
    assert sending.messages() == [] and not sending.gathering


def test_no_message_grows_beyond_what_a_receiver_reads() -> None:
    sending, _ = greeted()
    large = bytes(256 * 1024 + 100)
    messages = sent(sending, *[passed(number, large) for number in range(9)], size=len(large))
    assert [len(data.calls) for data in messages] == [2, 2, 2, 2, 1]
    assert all(BATCH_BYTES < len(protocol.pack(data)) < MESSAGE_BYTES for data in messages[:-1])


def test_a_closed_pipe_names_what_is_not_known_to_be_taken() -> None:
    sending, _ = greeted()
    sent(sending, passed(1))
    sent(sending, passed(2), passed(3))
    sending.credited(Credit(1))
    sending.add(SOCKET, "task", passed(4), 4)
    assert [key[1] for key in sending.close()] == [2, 3, 4]
    assert sending.close() == [] and not sending.welcome


# windows


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60))
def test_a_window_is_never_overdrawn_and_fills_up_again(steps: list[tuple[int, bool]]) -> None:
    window, out = Window(10, 100), list[int]()
    for size, back in steps:
        if back and out:
            window.give(1, out.pop())
        elif window.room(size):
            window.take(size)
            out.append(size)
        assert 0 <= window.items_left <= 10 and 0 <= window.size_left <= 100
    window.give(len(out), sum(out))
    assert (window.items_left, window.size_left) == (10, 100)


def test_a_stopped_pipe_has_no_room_whatever_comes_back() -> None:
    sending, _ = greeted()
    sent(sending, passed(1), passed(2))
    sending.stop()
    sending.credited(Credit(1, 2, 8))
    assert not sending.window.room(0) and not sending.window.half_free and not sending.welcome
    assert not sending.untaken


def test_the_peer_with_most_room_is_chosen_of_those_that_take_the_size() -> None:
    windows = [Window(3, 10), Window(5, 5), Window(4, 10), Window()]
    assert roomiest(windows, 5) == 1
    assert roomiest(windows, 6) == 2
    assert roomiest(windows, 11) is None
    assert roomiest([], 0) is None


def test_an_edge_spills_until_half_of_a_window_is_free() -> None:
    window, edge = Window(4, 100), Spill()
    assert not edge.look([window])
    for _ in range(4):
        window.take(1)
    edge.begin()
    window.give(1, 1)
    assert edge.look([window])
    window.give(1, 1)
    assert not edge.look([window])


def test_an_edge_without_a_welcome_spills() -> None:
    assert Spill().look([Window()]) and Spill().look([])


@pytest.mark.parametrize("size, at_once", [(4_000_000, True), (100_000, False)])
def test_the_place_of_a_large_array_goes_back_at_once(size: int, at_once: bool) -> None:
    sending, receiving = greeted()
    (data,) = sent(sending, passed(1, Place(64, size)), size=size)
    receiving.arrived(data)
    receiving.finished(0)
    assert receiving.owes and not receiving.owes_much
    receiving.released(64, size)
    assert receiving.owes_much == at_once
    sending.credited(receiving.credit())
    assert sending.window.size_left == sending.window.size


# memory


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.integers(0, 100)), max_size=80))
def test_no_two_places_overlap_and_all_of_an_arena_comes_back(steps: list[tuple[int, bool, int]]) -> None:
    free, used = Free(32), dict[int, int]()
    for size, back, which in steps:
        if back and used:
            start = list(used)[which % len(used)]
            free.give(start, used.pop(start))
        elif (start_ := free.take(size)) is not None:
            taken = set(range(start_, start_ + size))
            assert not any(taken & set(range(other, other + length)) for other, length in used.items())
            assert start_ + size <= 32
            used[start_] = size
    for start, size in used.items():
        free.give(start, size)
    assert free.spans == [(0, 32)]


@pytest.mark.parametrize("count", [40, 8_000, 100_000])
@pytest.mark.parametrize("shape", ["flat", "table"])
def test_where_the_elements_of_an_encoded_array_start_is_known(count: int, shape: str) -> None:
    array = numpy.arange(count, dtype="<f8")
    value = values.encode(array if shape == "flat" else array.reshape(4, -1))
    assert value[elements_at(value) :] == array.tobytes()
    assert elements_at(value[:64], len(value)) == elements_at(value)


@pytest.mark.parametrize("value", [b"", "x" * 300, b"x" * 100_000, [1.0] * 1_000, {"a": numpy.arange(9_000)}])
def test_what_is_no_array_has_no_elements(value: object) -> None:
    assert elements_at(values.encode(value)) == 0
