"""Which workers should exist where."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfi_hpc.control.placement import (
    Action,
    Become,
    Drain,
    ExistingWorker,
    ServingNode,
    Start,
    WantedProcessor,
    plan,
    steps,
)
from pyfi_hpc.model.status import PROCESSOR_NEXT, ProcessorStatus, Requested, WorkerStatus

S, R = ProcessorStatus, Requested


def wanted(
    name: str = "p",
    *,
    requested: Requested = R.RUNNING,
    status: ProcessorStatus = S.RUNNING,
    workers: int | None = None,
    cpus: int = 1,
    host: str | None = None,
    may_start: bool = True,
) -> WantedProcessor:
    return WantedProcessor(name.encode(), name, requested, status, workers, cpus, host, "v1", may_start)


def node(name: str = "n1", cores: int = 2, *, shared: bool = False, draining: bool = False) -> ServingNode:
    return ServingNode(name.encode(), name.encode(), name, name, tuple(range(cores)), shared, draining)


def worker(
    name: str, processor: str = "p", *, on: str = "n1", core: int = 0, status: WorkerStatus = WorkerStatus.READY,
    version: str = "v1",
) -> ExistingWorker:  # fmt: skip
    return ExistingWorker(name.encode(), processor.encode(), on.encode(), (core,), status, version)


def starts(actions: list[Action]) -> list[tuple[bytes, bytes, tuple[int, ...]]]:
    return [(action.processor, action.agent, action.cores) for action in actions if isinstance(action, Start)]


def test_a_processor_gets_a_worker_on_every_core() -> None:
    assert starts(plan([wanted()], [node()], [])) == [(b"p", b"n1", (0,)), (b"p", b"n1", (1,))]


def test_two_processors_share_the_cores() -> None:
    actions = plan([wanted("a"), wanted("b")], [node()], [])

    assert starts(actions) == [(b"a", b"n1", (0,)), (b"b", b"n1", (1,))]


def test_a_new_processor_takes_a_core_from_one_that_has_several() -> None:
    actions = plan([wanted("a"), wanted("b")], [node()], [worker("w1", "a"), worker("w2", "a", core=1)])

    assert Drain(b"w2") in actions
    assert not starts(actions), "the core is free only when its worker has ended"


def test_more_processors_than_cores_share_them_only_where_the_node_allows_it() -> None:
    three = [wanted("a"), wanted("b"), wanted("c")]

    assert len(starts(plan(three, [node()], []))) == 2
    assert len(starts(plan(three, [node(shared=True)], []))) == 3


def test_a_processor_pinned_to_a_host_runs_only_there() -> None:
    actions = plan([wanted(host="n2", workers=3)], [node("n1"), node("n2")], [])

    assert {agent for _, agent, _ in starts(actions)} == {b"n2"}
    assert len(starts(actions)) == 2


def test_a_worker_with_two_cpus_has_two_cores_of_its_own() -> None:
    actions = plan([wanted(cpus=2, workers=2)], [node(cores=4)], [])

    assert [cores for *_, cores in starts(actions)] == [(0, 1), (2, 3)]


def test_workers_of_an_older_version_are_replaced() -> None:
    actions = plan([wanted(workers=1)], [node()], [worker("old", version="v0")])

    assert Drain(b"old") in actions
    assert len(starts(actions)) == 1


def test_a_stopped_processor_is_drained_and_becomes_stopped() -> None:
    stopping = plan([wanted(requested=R.STOPPED)], [node()], [worker("w")])
    stopped = plan([wanted(requested=R.STOPPED, status=S.STOPPING)], [node()], [])

    assert stopping == [Drain(b"w"), Become(b"p", S.RUNNING, S.STOPPING)]
    assert stopped == [Become(b"p", S.STOPPING, S.STOPPED)]


def test_a_paused_processor_keeps_its_workers_and_gets_no_new_ones() -> None:
    actions = plan([wanted(requested=R.PAUSED)], [node()], [worker("w")])

    assert actions == [Become(b"p", S.RUNNING, S.PAUSED)]


def test_a_failed_start_waits_for_its_time() -> None:
    assert plan([wanted(status=S.FAILED, may_start=False)], [node()], []) == []
    assert len(starts(plan([wanted(status=S.FAILED)], [node()], []))) == 2


def test_a_failed_processor_starts_in_the_pass_that_gives_it_a_worker() -> None:
    # its worker may fail again before the next pass: that must count as another failure
    assert Become(b"p", S.FAILED, S.STARTING) in plan([wanted(status=S.FAILED)], [node()], [])


def test_a_draining_node_gives_its_workers_back() -> None:
    actions = plan([wanted(workers=1)], [node("n1", draining=True), node("n2")], [worker("w", on="n1")])

    assert Drain(b"w") in actions
    assert starts(actions) == [(b"p", b"n2", (0,))]


@pytest.mark.parametrize("current", list(S))
@pytest.mark.parametrize("goal", list(S))
def test_every_step_stands_in_the_table(current: ProcessorStatus, goal: ProcessorStatus) -> None:
    way = [current, *steps(current, goal)]

    assert all(following in PROCESSOR_NEXT[before] for before, following in itertools.pairwise(way))
    assert S.FAILED not in way[1:-1]


processors = st.builds(
    wanted,
    st.sampled_from("abcdef"),
    requested=st.sampled_from(R),
    status=st.sampled_from(S),
    workers=st.none() | st.integers(1, 6),
    cpus=st.integers(1, 3),
)


@given(
    st.lists(processors, max_size=6, unique_by=lambda processor: processor.id),
    st.lists(st.builds(node, st.sampled_from(["n1", "n2", "n3"]), st.integers(1, 5)), unique_by=lambda n: n.id),
)
@settings(max_examples=200, deadline=None)
def test_no_core_is_given_twice_and_a_second_pass_finds_nothing_to_start(
    several: list[WantedProcessor], nodes: list[ServingNode]
) -> None:
    first = plan(several, nodes, [])
    given_out = [(agent, core) for _, agent, cores in starts(first) for core in cores]
    assert len(given_out) == len(set(given_out))

    running = [
        ExistingWorker(bytes([number]), start.processor, start.agent, start.cores, WorkerStatus.READY, "v1")
        for number, start in enumerate(action for action in first if isinstance(action, Start))
    ]
    again = plan(several, nodes, running)
    assert not starts(again)
    assert not [action for action in again if isinstance(action, Drain)]
