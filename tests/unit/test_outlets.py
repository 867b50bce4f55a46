"""Which pipes an agent offers its workers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyfi_hpc.agent.keeper import Program
from pyfi_hpc.agent.lots import Served
from pyfi_hpc.agent.pipes.outlets import SHORT_SECONDS, Offers, outlets
from pyfi_hpc.model.status import Requested
from pyfi_hpc.wire.frames import Peer
from pyfi_hpc.wire.messages import Route


def ident(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def socket(name: str, *targets: str) -> Served:
    routes = tuple(Route(ident(f"{name}{to}"), f"{name}>{to}".encode(), ident(to), 1, "q", to) for to in targets)
    return Served(ident(name), name, "ann", ident(f"p-{name}"), name, "q", "q", name, 1, None, 3, 1.0, routes)


def program(name: str, requested: Requested = Requested.RUNNING) -> Program:
    return Program(ident(f"p-{name}"), name, "", "", "", None, None, None, None, requested)


SOCKETS = {each.id: each for each in (socket("a", "b"), socket("b"))}
PROGRAMS = {each.id: each for each in map(program, "ab")}
#: worker 1 runs a, workers 2 and 3 run b
PEERS: dict[bytes, tuple[int, ...]] = {ident("p-a"): (1,), ident("p-b"): (2, 3)}
A, B = SOCKETS[ident("a")], SOCKETS[ident("b")]
BOTH = Offers(SOCKETS, PROGRAMS, PEERS, lambda processor, task: 0.001)


def peer_of(number: int) -> Peer:
    return Peer(number, f"/run/{number}")


def edges(offers: Offers) -> list[bytes]:
    return [pipe.edge for pipes in offers.pipes().values() for pipe in pipes]


def test_workers_of_a_processor_are_told_of_every_worker_that_their_results_may_go_to() -> None:
    (pipe,) = BOTH.pipes()[A.processor]

    assert (pipe.edge, pipe.source, pipe.target, pipe.task, pipe.peers) == (b"a>b", A.id, B.id, "b", (2, 3))


@pytest.mark.parametrize(
    "offers",
    [
        replace(BOTH, peers={ident("p-a"): (1,)}),
        replace(BOTH, programs={**PROGRAMS, ident("p-b"): program("b", Requested.PAUSED)}),
        replace(BOTH, sockets={**SOCKETS, B.id: replace(B, owner="bob")}),
        replace(BOTH, sockets={**SOCKETS, B.id: replace(B, key="b.fifo")}),
        replace(BOTH, sockets={**SOCKETS, A.id: replace(A, key="a.fifo")}),
        replace(BOTH, sockets={A.id: A}),
        replace(BOTH, seconds=lambda processor, task: None),
        replace(BOTH, seconds=lambda processor, task: SHORT_SECONDS),
        replace(BOTH, seconds=lambda processor, task: 0.001 if processor == A.processor else None),
        replace(BOTH, by_broker={ident("ab")}),
        replace(BOTH, resting={b"a>b"}),
        replace(BOTH, yielding={B.id}),
    ],
    ids=["nobody is there", "paused", "another owner", "in order", "out of order", "unknown", "not yet known how long",
         "long", "known of another processor only", "wanted otherwise", "slow a moment ago", "a generator"],
)  # fmt: skip
def test_a_result_goes_by_the_broker_where_its_target_is(offers: Offers) -> None:
    assert edges(offers) == []


def test_a_plug_back_to_the_same_processor_leads_to_its_other_workers_or_to_the_only_one_itself() -> None:
    loop = {A.id: replace(A, routes=(Route(ident("aa"), b"a>a", A.id, 1, "q", "a"),))}
    pipes = replace(BOTH, sockets=loop, peers={ident("p-a"): (1, 4)}).pipes()[A.processor]

    told = outlets(pipes, 1, peer_of)

    assert [each.peers for each in told] == [(Peer(4, "/run/4"),)]
    alone = outlets(replace(BOTH, sockets=loop).pipes()[A.processor], 1, peer_of)
    assert [each.peers for each in alone] == [(Peer(1, ""),)]


def test_a_target_that_nobody_on_this_node_runs_is_reached_on_another() -> None:
    away = replace(BOTH, peers={ident("p-a"): (1,)}, far={ident("p-b"): (-1, -2)})
    (pipe,) = away.pipes()[A.processor]

    assert (pipe.peers, pipe.far) == ((), (-1, -2))
    assert [each.peers for each in outlets([pipe], 1, peer_of)] == [(peer_of(-1), peer_of(-2))]


def test_another_node_is_left_alone_while_somebody_is_near() -> None:
    pipes = replace(BOTH, far={ident("p-b"): (-1,)}).pipes()[A.processor]

    assert [each.peers for each in outlets(pipes, 1, peer_of)] == [(peer_of(2), peer_of(3))]


def test_a_plug_back_to_the_same_processor_leads_to_another_node_where_its_worker_is_alone_here() -> None:
    loop = {A.id: replace(A, routes=(Route(ident("aa"), b"a>a", A.id, 1, "q", "a"),))}
    pipes = replace(BOTH, sockets=loop, far={ident("p-a"): (-1,)}).pipes()[A.processor]

    assert [each.peers for each in outlets(pipes, 1, peer_of)] == [(peer_of(-1),)]
