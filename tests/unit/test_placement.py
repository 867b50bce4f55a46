"""Which workers should exist where."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfi_hpc.control.placement import MAX_STARTS, plan
from pyfi_hpc.control.records import (
    Action,
    Become,
    Drain,
    ExistingWorker,
    ServingNode,
    Slot,
    Start,
    WantedProcessor,
)
from pyfi_hpc.control.statuses import steps
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
    gpus: int = 0,
    shape: bool = False,
) -> WantedProcessor:
    return WantedProcessor(
        name.encode(), name, requested, status, workers, cpus, host, "v1", may_start, gpus=gpus, shape=shape
    )


def node(
    name: str = "n1", cores: int = 2, *, shared: bool = False, draining: bool = False, devices: tuple[str, ...] = ()
) -> ServingNode:
    """A node whose agent was started by hand."""
    return ServingNode(
        name.encode(), name.encode(), name, name, tuple(range(cores)), shared, draining, devices=devices
    )  # fmt: skip


def pilot(
    *slots: Slot, job: str = "j1", of: str | None = "p", on: str = "n1", ending: bool = False, draining: bool = False
) -> ServingNode:
    """A node's agent in a job that was sent for processor `of`."""
    agent = f"{on}/{job}".encode()
    cores = tuple(sorted({core for slot in slots for core in slot.cores}))
    return ServingNode(
        on.encode(), agent, on, on, cores, False, draining, slots=slots, job=job.encode(),
        for_processor=of.encode() if of else None, ending=ending,
    )  # fmt: skip


def one_core_each(count: int) -> list[Slot]:
    return [Slot((core,)) for core in range(count)]


def worker(
    name: str, processor: str = "p", *, on: str = "n1", core: int = 0, status: WorkerStatus = WorkerStatus.READY,
    version: str = "v1", slot: int | None = None, devices: tuple[str, ...] = (), busy: bool = False,
) -> ExistingWorker:  # fmt: skip
    return ExistingWorker(
        name.encode(), processor.encode(), on.encode(), (core,), status, version, slot=slot, devices=devices, busy=busy
    )


def running(actions: list[Action]) -> list[ExistingWorker]:
    """The workers that these actions start, once they are ready."""
    return [
        ExistingWorker(
            b"%d" % number, start.processor, start.agent, start.cores, WorkerStatus.READY, "v1", start.slot,
            start.devices,
        )
        for number, start in enumerate(action for action in actions if isinstance(action, Start))
    ]  # fmt: skip


def slots_of(actions: list[Action]) -> list[tuple[bytes, bytes, int | None]]:
    return [(action.processor, action.agent, action.slot) for action in actions if isinstance(action, Start)]


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


def test_a_processor_that_is_moved_starts_there_before_it_ends_here() -> None:
    moved, nodes = wanted(host="n2", workers=2), [node("n1"), node("n2")]
    here = [worker("a", core=0), worker("b", core=1)]

    first = plan([moved], nodes, here)
    assert (starts(first), [action for action in first if isinstance(action, Drain)]) == (
        [(b"p", b"n2", (0,)), (b"p", b"n2", (1,))],
        [],
    )
    # one is ready there: one goes here
    half = [*here, worker("c", on="n2"), worker("d", on="n2", core=1, status=WorkerStatus.LAUNCHING)]
    assert plan([moved], nodes, half) == [Drain(b"b")]
    there = [here[0], *[worker(name, on="n2", core=core) for core, name in enumerate("cd")]]
    assert plan([moved], nodes, there) == [Drain(b"a")]


def test_a_processor_that_is_moved_to_a_node_that_is_gone_stays_where_it_is() -> None:
    assert plan([wanted(host="n2", workers=1)], [node("n1")], [worker("a")]) == []


def test_a_worker_with_two_cpus_has_two_cores_of_its_own() -> None:
    actions = plan([wanted(cpus=2, workers=2)], [node(cores=4)], [])

    assert [cores for *_, cores in starts(actions)] == [(0, 1), (2, 3)]


def older(name: str, core: int = 0, **more: Any) -> ExistingWorker:
    return worker(name, core=core, version="v0", **more)


def test_workers_of_an_older_version_serve_until_one_of_the_new_version_is_ready() -> None:
    new, nodes, old = wanted(workers=2), [node(cores=3)], [older("a"), older("b", 1)]

    assert plan([new], nodes, old) == [Start(b"p", b"n1", b"n1", (2,))]
    for status in (WorkerStatus.PLANNED, WorkerStatus.LAUNCHING):
        assert plan([new], nodes, [*old, worker("new", core=2, status=status)]) == []
    ready = plan([new], nodes, [*old, worker("new", core=2)])
    assert ready == [Drain(b"a"), Drain(b"b")], "its second worker starts where one of them ends"


def test_the_first_of_a_new_version_shares_the_cores_of_one_that_it_is_to_replace() -> None:
    actions = plan([wanted()], [node()], [older("a"), older("b", 1)])

    assert actions == [Start(b"p", b"n1", b"n1", (0,))]
    assert plan([wanted()], [node()], [older("a"), older("b", 1), worker("new")]) == [Drain(b"a"), Drain(b"b")]


def test_where_no_place_can_be_shared_one_old_worker_ends_first_and_no_other() -> None:
    granted = [pilot(*one_core_each(3))]
    old = [older(name, core, on="n1/j1", slot=core, busy=name == "c") for core, name in enumerate("abc")]

    assert plan([wanted()], granted, old) == [Drain(b"b")], "c is busy"
    ending = [old[0], older("b", 1, on="n1/j1", slot=1, status=WorkerStatus.DRAINING), old[2]]
    assert plan([wanted()], granted, ending) == []
    assert slots_of(plan([wanted()], granted, [old[0], old[2]])) == [(b"p", b"n1/j1", 1)]
    gpus = [older("a", devices=("GPU-a",))]
    assert plan([wanted(gpus=1)], [node(devices=("GPU-a",))], gpus) == [Drain(b"a")]


def test_a_slot_is_shared_where_its_old_worker_is_the_last_one() -> None:
    new, granted, old = wanted(cpus=2), [pilot(Slot((0, 1)))], older("a", on="n1/j1", slot=0)

    assert plan([new], granted, [old]) == [Start(b"p", b"n1/j1", b"n1", (0, 1), 0)]
    trying = worker("new", on="n1/j1", slot=0, status=WorkerStatus.LAUNCHING)
    assert plan([new], granted, [old, trying]) == []
    assert plan([new], granted, [old, worker("new", on="n1/j1", slot=0)]) == [Drain(b"a")]
    with_gpu = [pilot(Slot((0, 1), ("GPU-a",)))]
    assert plan([new], with_gpu, [old]) == [Drain(b"a")], "nobody shares a GPU"


def test_a_new_version_that_cannot_start_leaves_the_old_one_serving() -> None:
    old = [older("a"), older("b", 1)]

    assert plan([wanted(status=S.FAILED, may_start=False)], [node()], old) == []
    again = plan([wanted(status=S.FAILED)], [node()], old)
    assert (len(starts(again)), [action for action in again if isinstance(action, Become)]) == (
        1,
        [Become(b"p", S.FAILED, S.STARTING)],
    )
    trying = worker("new", status=WorkerStatus.LAUNCHING)
    assert plan([wanted(status=S.STARTING)], [node()], [*old, trying]) == [], "it is not RUNNING for the old ones"


def test_a_new_version_that_fits_nowhere_ends_none_of_the_old_one() -> None:
    assert plan([wanted(cpus=3, workers=2)], [node()], [older("a"), older("b", 1)]) == []
    assert plan([wanted(host="n2", workers=2)], [node()], [older("a"), older("b", 1)]) == []


def test_going_back_to_the_old_version_takes_its_workers_as_they_are() -> None:
    back = plan([wanted(status=S.FAILED)], [node()], [worker("a"), worker("b", core=1)])

    assert back == [Become(b"p", S.FAILED, S.STARTING), Become(b"p", S.STARTING, S.RUNNING)]


def test_of_an_older_version_only_those_that_serve_stay_and_no_more_than_are_wanted() -> None:
    on_its_way = older("b", 1, status=WorkerStatus.LAUNCHING)
    assert Drain(b"b") in plan([wanted()], [node()], [older("a"), on_its_way])
    assert plan([wanted(workers=1, may_start=False)], [node()], [older("a"), older("b", 1)]) == [Drain(b"b")]


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


def test_each_slot_of_a_job_has_one_worker_of_its_processor() -> None:
    actions = plan([wanted(cpus=3)], [pilot(Slot((0, 1)), Slot((0, 1)), Slot((2,), ("GPU-a",)))], [])

    assert [(start.slot, start.cores, start.devices) for start in actions if isinstance(start, Start)] == [
        (0, (0, 1), ()),
        (1, (0, 1), ()),
        (2, (2,), ("GPU-a",)),
    ]


def test_a_slot_waits_for_the_end_of_the_worker_that_has_it() -> None:
    leaving = worker("old", on="n1/j1", slot=0, status=WorkerStatus.DRAINING)

    assert slots_of(plan([wanted()], [pilot(*one_core_each(2))], [leaving])) == [(b"p", b"n1/j1", 1)]


def test_slots_are_for_the_jobs_processor_while_anybody_wants_it() -> None:
    job = pilot(*one_core_each(2), of="owner")
    other = wanted("other", workers=2)

    for requested in (R.RUNNING, R.PAUSED):
        assert b"other" not in {
            processor for processor, *_ in slots_of(plan([other, wanted("owner", requested=requested)], [job], []))
        }
    for requested in (R.STOPPED, R.REMOVED):
        lent = plan([other, wanted("owner", requested=requested)], [job], [])
        assert slots_of(lent) == [(b"other", b"n1/j1", 0), (b"other", b"n1/j1", 1)]


def test_a_lent_slot_is_given_back_when_its_processor_is_wanted_again() -> None:
    job = pilot(*one_core_each(1), of="owner")
    guest = worker("guest", "other", on="n1/j1", slot=0)

    asked = plan([wanted("other", workers=1), wanted("owner")], [job], [guest])
    later = plan([wanted("other", workers=1), wanted("owner")], [job], [])

    assert Drain(b"guest") in asked
    assert not starts(asked)
    assert slots_of(later) == [(b"owner", b"n1/j1", 0)]


def test_a_slot_is_lent_only_where_it_is_large_enough() -> None:
    slots = Slot((0,), ("GPU-a",)), Slot((1, 2)), Slot((3, 4), ("GPU-b", "GPU-c"))
    gone = wanted("owner", requested=R.STOPPED)

    actions = plan([gone, wanted("other", workers=3, cpus=2, gpus=1)], [pilot(*slots, of="owner")], [])

    assert [(start.slot, start.devices) for start in actions if isinstance(start, Start)] == [(2, ("GPU-b",))]


def test_workers_beyond_those_of_pilots_go_to_open_nodes() -> None:
    actions = plan([wanted(workers=3, shape=True)], [pilot(*one_core_each(2)), node("n2", 4)], [])

    assert [agent for _, agent, _ in starts(actions)] == [b"n1/j1", b"n1/j1", b"n2"]


def test_a_worker_on_an_open_node_stays_until_a_pilots_worker_is_ready_in_its_place() -> None:
    processor, nodes = wanted(workers=1, shape=True), [node("n2"), pilot(*one_core_each(1))]
    stand_in = worker("w", on="n2")

    arriving = worker("s", on="n1/j1", slot=0, status=WorkerStatus.LAUNCHING)
    assert plan([processor], nodes, [stand_in, arriving]) == []
    arrived = worker("s", on="n1/j1", slot=0)
    assert plan([processor], nodes, [stand_in, arrived]) == [Drain(b"w")]


def test_a_shape_without_a_number_of_workers_takes_a_share_of_open_nodes_only() -> None:
    idle = pilot(*one_core_each(4), of="gone")

    assert not starts(plan([wanted(shape=True)], [idle], []))
    assert len(starts(plan([wanted(shape=True)], [idle, node("n2", 2)], []))) == 2


def test_slots_are_in_nobodys_fair_share() -> None:
    actions = plan([wanted("a"), wanted("b")], [node("n2", 2), pilot(*one_core_each(8), of="b")], [])

    assert [agent for processor, agent, _ in starts(actions) if processor == b"a"] == [b"n2"]


def test_gpus_go_to_workers_that_ask_for_them_and_to_one_worker_each() -> None:
    processors = [wanted("cpu", workers=1), wanted("gpu", workers=9, gpus=2)]

    actions = plan(processors, [node("n1", 8), node("n2", 8, devices=("GPU-a", "GPU-b", "GPU-c", "GPU-d"))], [])

    given = [(start.agent, start.devices) for start in actions if isinstance(start, Start) if start.processor == b"gpu"]
    assert given == [(b"n2", ("GPU-a", "GPU-b")), (b"n2", ("GPU-c", "GPU-d"))]


def test_gpus_are_shared_fairly_too() -> None:
    devices = tuple(f"GPU-{letter}" for letter in "abcd")

    actions = plan([wanted("a", gpus=1), wanted("b", gpus=1)], [node(cores=16, devices=devices)], [])

    assert sorted(processor for processor, *_ in starts(actions)) == [b"a", b"a", b"b", b"b"]


def test_a_gpu_that_a_job_was_granted_is_not_given_by_another_agent_of_its_node() -> None:
    nodes = [node("n1", 4, devices=("GPU-a", "GPU-b")), pilot(Slot((0,), ("GPU-a",)), of="gone")]

    actions = plan([wanted(workers=2, gpus=1, shape=False)], nodes, [])

    assert [(start.agent, start.devices) for start in actions if isinstance(start, Start)] == [
        (b"n1", ("GPU-b",)),
        (b"n1/j1", ("GPU-a",)),
    ]


def test_a_gpu_that_is_known_by_its_number_alone_is_its_agents_own() -> None:
    numbered = Slot((0,), ("index:0",))

    actions = plan([wanted("a"), wanted("b")], [pilot(numbered, of="a"), pilot(numbered, job="j2", of="b")], [])

    assert slots_of(actions) == [(b"a", b"n1/j1", 0), (b"b", b"n1/j2", 0)]


def test_a_job_that_ends_takes_nothing_new_and_finishes_what_it_has() -> None:
    nodes = [pilot(*one_core_each(2), ending=True), pilot(*one_core_each(2), job="j2")]
    old = worker("w", on="n1/j1", slot=0)

    actions = plan([wanted()], nodes, [old])

    assert slots_of(actions) == [(b"p", b"n1/j2", 0), (b"p", b"n1/j2", 1)]
    assert Drain(b"w") not in actions
    assert Drain(b"w") in plan([wanted(requested=R.STOPPED)], nodes, [old])


def test_a_draining_nodes_slots_are_emptied() -> None:
    actions = plan([wanted()], [pilot(*one_core_each(2), draining=True)], [worker("w", on="n1/j1", slot=0)])

    assert actions == [Drain(b"w")]


def test_one_pass_starts_a_bounded_number_of_workers() -> None:
    actions = plan([wanted("a"), wanted("b", workers=500)], [pilot(*one_core_each(500), of="a"), node("n2", 900)], [])

    assert len(starts(actions)) == MAX_STARTS
    assert {processor for processor, *_ in starts(actions)} == {b"a", b"b"}


@pytest.mark.parametrize("current", list(S))
@pytest.mark.parametrize("goal", list(S))
def test_every_step_stands_in_the_table(current: ProcessorStatus, goal: ProcessorStatus) -> None:
    way = [current, *steps(current, goal)]

    assert all(following in PROCESSOR_NEXT[before] for before, following in itertools.pairwise(way))
    assert S.FAILED not in way[1:-1]


NAMES = "abcdef"
DEVICES = [f"GPU-{number}" for number in range(6)]

processors = st.builds(
    wanted,
    st.sampled_from(NAMES),
    requested=st.sampled_from(R),
    status=st.sampled_from(S),
    workers=st.none() | st.integers(1, 6),
    cpus=st.integers(1, 3),
    host=st.sampled_from([None, None, "n1", "n2"]),
    gpus=st.integers(0, 2),
    shape=st.booleans(),
)
device_sets = st.lists(st.sampled_from(DEVICES), max_size=3, unique=True).map(tuple)
slots = st.builds(Slot, st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True).map(tuple), device_sets)


@st.composite
def serving(draw: st.DrawFn) -> list[ServingNode]:
    """A few nodes, each with an agent by hand, with agents in jobs, or both; some see the same devices."""
    nodes: list[ServingNode] = []
    for name in draw(st.lists(st.sampled_from(["n1", "n2", "n3"]), unique=True)):
        draining = draw(st.integers(0, 9)) == 0
        if draw(st.booleans()):
            nodes.append(
                node(name, draw(st.integers(1, 5)), shared=draw(st.booleans()), draining=draining,
                     devices=draw(device_sets))
            )  # fmt: skip
        for job in draw(st.lists(st.sampled_from(["j1", "j2"]), unique=True)):
            made = draw(st.lists(slots, max_size=4))
            owner = draw(st.none() | st.sampled_from(NAMES))
            ending = draw(st.integers(0, 9)) == 0
            nodes.append(pilot(*made, job=job, of=owner, on=name, ending=ending, draining=draining))
    return nodes


several = st.lists(processors, max_size=6, unique_by=lambda processor: processor.id)


@given(several, serving())
@settings(max_examples=300, deadline=None)
def test_nothing_is_given_twice_or_to_the_wrong_worker(wants: list[WantedProcessor], nodes: list[ServingNode]) -> None:
    by_agent = {each.agent: each for each in nodes}
    by_id = {each.id: each for each in wants}
    granted = {device for each in nodes for slot in each.slots for device in slot.devices}

    made = [action for action in plan(wants, nodes, []) if isinstance(action, Start)]

    own_cores = [
        (start.agent, core)
        for start in made
        for core in start.cores
        if not by_agent[start.agent].shared_cores and start.slot is None
    ]
    assert len(own_cores) == len(set(own_cores))
    devices = [device for start in made for device in start.devices]
    assert len(devices) == len(set(devices))
    places = [(start.agent, start.slot) for start in made if start.slot is not None]
    assert len(places) == len(set(places))
    for start in made:
        on, processor = by_agent[start.agent], by_id[start.processor]
        assert processor.requested is R.RUNNING
        assert on.accepts
        assert processor.host in (None, on.host, on.name) or on.for_processor == processor.id
        if start.slot is None:
            assert on.open
            assert (len(start.cores), len(start.devices)) == (processor.cpus, processor.gpus)
            assert set(start.devices) <= set(on.devices) - granted
        elif on.for_processor == processor.id:
            assert (start.cores, start.devices) == (on.slots[start.slot].cores, on.slots[start.slot].devices)
        else:
            owner = by_id.get(on.for_processor or b"")
            assert owner is None or not owner.wanted
            assert (len(start.cores) >= processor.cpus, len(start.devices)) == (True, processor.gpus)


@given(several, serving())
@settings(max_examples=300, deadline=None)
def test_a_second_pass_finds_nothing_to_do(wants: list[WantedProcessor], nodes: list[ServingNode]) -> None:
    workers = running(plan(wants, nodes, []))

    again = plan(wants, nodes, workers)

    assert not starts(again)
    assert not [action for action in again if isinstance(action, Drain)]
    if not any(each.shared_cores for each in nodes):
        target = {each.id: each.workers for each in wants if each.workers is not None}
        counts = Counter(each.processor for each in workers if by_slot(each, nodes) != each.processor)
        assert all(counts[identity] <= most for identity, most in target.items())


@given(several, serving())
@settings(max_examples=100, deadline=None)
def test_a_rollout_comes_to_its_end_and_somebody_serves_all_the_time(
    wants: list[WantedProcessor], nodes: list[ServingNode]
) -> None:
    workers = [msgspec.structs.replace(each, version="v0") for each in running(plan(wants, nodes, []))]
    shared = {each.processor for each in workers} - {each.processor for each in workers if with_gpus(each, nodes)}
    for step in range(100):
        actions = plan(wants, nodes, workers)
        ending = any(each.status is WorkerStatus.DRAINING for each in workers)
        if not ending and not any(isinstance(action, Start | Drain) for action in actions):
            break
        drained = {action.worker for action in actions if isinstance(action, Drain)}
        workers = [
            msgspec.structs.replace(each, status=WorkerStatus.DRAINING) if each.id in drained else each
            for each in workers
            if each.status is not WorkerStatus.DRAINING
        ]
        assert {each.processor for each in workers if each.status is WorkerStatus.READY} >= shared
        workers += [msgspec.structs.replace(new, id=b"%d/%s" % (step, new.id)) for new in running(actions)]

    assert not [each for each in workers if each.version == "v0" and each.status is WorkerStatus.READY]


def with_gpus(worker: ExistingWorker, nodes: list[ServingNode]) -> bool:
    (agent,) = [each for each in nodes if each.agent == worker.agent]
    return bool(worker.devices or (worker.slot is not None and agent.slots[worker.slot].devices))


def by_slot(worker: ExistingWorker, nodes: list[ServingNode]) -> bytes | None:
    """Whose slot a worker has."""
    return next(each.for_processor for each in nodes if each.agent == worker.agent)
