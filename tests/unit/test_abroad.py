"""Workers on other nodes, as an agent that passes calls on to them knows them; and what agents say to each other."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.agent.pipes import greetings
from pyfi_hpc.agent.pipes.abroad import MOST_PEERS, QUIET_SECONDS, Abroad
from pyfi_hpc.agent.pipes.greetings import Answer, Answers, Beat, Greet, Offered, Roster
from pyfi_hpc.agent.pipes.segments import Standing
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire.frames import Item, Link, Untaken, agent_number, agent_of, first_token
from pyfi_hpc.wire.ids import new_id

KEY = b"k" * 40
Q, R = b"q" * 16, b"r" * 16
HOST, OTHER = 77, 88


def offered(number: int, processor: bytes = Q, endpoint: str = "tcp://10.0.0.2:4000") -> Offered:
    return Offered(number, bytes([number]) * 16, processor, endpoint)


def roster(*workers: Offered) -> Roster:
    return Roster(KEY, workers)


@pytest.fixture
def abroad() -> Abroad:
    """Workers 1 (of q) and 2 (of r) of one host, 1 (of q) of another."""
    made = Abroad(chance=lambda: 0.5)
    made.rostered(HOST, roster(offered(1), offered(2, R)), 0.0)
    made.rostered(OTHER, roster(offered(1)), 0.0)
    return made


def test_workers_of_other_nodes_have_numbers_of_their_own(abroad: Abroad) -> None:
    assert abroad.peers() == {Q: (-1, -3), R: (-2,)}
    assert (abroad.number(HOST, 2), abroad.number(OTHER, 1), abroad.number(OTHER, 2)) == (-2, -3, None)
    assert abroad.peer(-3).key == KEY


def test_a_worker_that_is_named_no_more_is_gone_and_its_number_is_not_used_again(abroad: Abroad) -> None:
    joined, gone = abroad.rostered(HOST, roster(offered(2, R), offered(3)), 1.0)

    assert ([number for number, _ in joined], gone) == ([-4], [-1])
    assert [peer.node for _, peer in joined] == [HOST]
    assert abroad.lost(HOST) == [-2, -4]
    joined, _ = abroad.rostered(HOST, roster(offered(2, R)), 2.0)
    assert [number for number, _ in joined] == [-5]
    assert abroad.lost(99) == []


def test_one_that_takes_nothing_more_is_there_still(abroad: Abroad) -> None:
    assert abroad.rostered(HOST, roster(offered(1, endpoint=""), offered(2, R)), 1.0) == ([], [])
    assert abroad.peers() == {Q: (-3,), R: (-2,)}
    assert abroad.number(HOST, 1) == -1


def test_one_that_stands_still_is_passed_nothing(abroad: Abroad) -> None:
    abroad.beat(HOST, Beat((), (1,), {}), 1.0)
    assert abroad.peers() == {Q: (-3,), R: (-2,)}
    assert abroad.standing(-1, b"c" * 16, 1.0) is Standing.STALLED


def test_no_more_workers_are_offered_than_are_good_to_be_connected_to_and_not_the_same_to_all() -> None:
    chosen = set[int]()
    for seed in range(5):
        made = Abroad(random.Random(seed).random)
        made.rostered(HOST, roster(*[offered(number) for number in range(1, 41)]), 0.0)
        (peers,) = made.peers().values()
        assert len(peers) == MOST_PEERS and made.peers() == {Q: peers}
        chosen.update(peers)
    assert len(chosen) > MOST_PEERS


def test_how_a_worker_stands_to_a_call_is_what_its_host_said_last(abroad: Abroad) -> None:
    call = b"c" * 16
    assert abroad.standing(-1, call, 0.1) is Standing.WAITS
    abroad.beat(HOST, Beat((call,), (), {}), 1.0)
    assert abroad.standing(-1, call, 1.1) is Standing.RUNS
    assert abroad.standing(-1, call, 1.1 + QUIET_SECONDS) is Standing.STALLED
    abroad.lost(HOST)
    assert abroad.standing(-1, call, 1.1) is Standing.STALLED


def test_how_long_a_task_takes_is_known_from_any_host(abroad: Abroad) -> None:
    abroad.beat(OTHER, Beat((), (), {(Q, "follow"): 0.25}), 1.0)
    assert (abroad.seconds(Q, "follow"), abroad.seconds(Q, "other"), abroad.seconds(R, "follow")) == (0.25, None, None)


def test_what_a_worker_passed_on_is_told_by_our_numbers_and_to_strangers_not_at_all(abroad: Abroad) -> None:
    link = Link(1, 0, b"c" * 16, Item(0, b"v", None, 0.0, 1.0, passed=((b"e", 2), (b"f", 9))))
    assert abroad.translated(HOST, link).item.passed == ((b"e", -2),)


# tokens


def test_a_token_names_the_agent_that_counts_the_call() -> None:
    number = agent_number(new_id())
    assert agent_of(first_token(number)) == agent_of(first_token(number) + 2**34) == number
    assert agent_of(first_token(0)) == 0 and first_token(0) == 1
    assert first_token(agent_number(b"\xff" * 16)) < 2**63
    assert agent_number(bytes(16)) == 1


# what is said


def test_what_is_said_is_heard() -> None:
    answer = Answer(Link(1, 2, b"c" * 16, Item(0, b"v", None, 0.0, 1.0)), Cause.SIGNAL)
    for word in (roster(offered(1)), Beat((b"c" * 16,), (2,), {(Q, "t"): 0.5}), Answers(3, (answer,)),
                 Untaken(((1, 2, b"c" * 16),))):  # fmt: skip
        assert greetings.read_from_host(greetings.pack(word)) == word
    assert greetings.read_from_guest(greetings.pack(Greet(1, KEY))) == Greet(1, KEY)


@pytest.mark.parametrize(
    ("said", "code"),
    [(greetings.pack(Greet(2, KEY)), "E_WIRE_VERSION"), (greetings.pack(Greet(1, b"short")), "E_PIPE_PROTOCOL"),
     (greetings.pack(Beat((), (), {})), "E_PIPE_PROTOCOL"), (b"", "E_PIPE_PROTOCOL")],
)  # fmt: skip
def test_a_greeting_that_is_none_is_refused(said: bytes, code: str) -> None:
    with pytest.raises(BadInput) as refused:
        greetings.read_from_guest(said)
    assert refused.value.code == code


@given(st.binary(max_size=200))
def test_no_bytes_make_a_reader_fail_otherwise(body: bytes) -> None:
    for read in (greetings.read_from_guest, greetings.read_from_host):
        try:
            read(body)
        except BadInput as error:
            assert error.code in ("E_PIPE_PROTOCOL", "E_WIRE_VERSION")
