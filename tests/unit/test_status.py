"""The tables of statuses, and loops among sockets: both plain, both read aloud."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

from pyfi_hpc.client.objects.cycles import find
from pyfi_hpc.db.guards import TRANSITIONS
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model import status
from pyfi_hpc.model.status import OutcomeStatus, ProcessorStatus, Requested, WorkerStatus, request


@pytest.mark.parametrize("kind", TRANSITIONS)
def test_every_status_says_where_it_may_go(kind: str) -> None:
    ways: Mapping[Any, frozenset[Any]] = TRANSITIONS[kind]
    enum: type[StrEnum] = type(next(iter(ways)))
    members = set(enum)
    assert set(ways) == members
    assert all(wanted <= members and was not in wanted for was, wanted in ways.items())


def reached(ways: Mapping[Any, frozenset[Any]], start: Any) -> set[Any]:
    """Every status that can be come to from `start`."""
    found, new = {start}, {start}
    while new:
        new = {wanted for was in new for wanted in ways[was]} - found
        found |= new
    return found


def test_every_processor_can_be_stopped_and_removed_and_starts_from_stopped() -> None:
    ways = status.PROCESSOR_NEXT
    assert reached(ways, ProcessorStatus.STOPPED) == set(ProcessorStatus)
    assert all(ProcessorStatus.REMOVED in reached(ways, was) for was in ProcessorStatus)
    assert ways[ProcessorStatus.REMOVED] == frozenset()


def test_a_worker_always_ends_and_never_comes_back() -> None:
    ways = status.WORKER_NEXT
    assert reached(ways, WorkerStatus.PLANNED) == set(WorkerStatus)
    assert all(WorkerStatus.EXITED in reached(ways, was) for was in WorkerStatus)
    assert WorkerStatus.READY not in reached(ways, WorkerStatus.LOST) | reached(ways, WorkerStatus.DRAINING)


def test_only_a_dead_outcome_is_opened_again() -> None:
    ways = status.OUTCOME_NEXT
    assert {was for was, wanted in ways.items() if OutcomeStatus.REOPENED in wanted} == {OutcomeStatus.DEAD}
    for final in (OutcomeStatus.SUCCEEDED, OutcomeStatus.FAILED, OutcomeStatus.CANCELLED):
        assert ways[final] == frozenset()


def test_a_removed_processor_cannot_be_asked_for_anything() -> None:
    for to in (Requested.RUNNING, Requested.STOPPED, Requested.PAUSED):
        with pytest.raises(BadInput) as caught:
            request(Requested.REMOVED, to, "proc1")
        assert caught.value.code == "E_BAD_TRANSITION"
        assert "'proc1' is REMOVED: it cannot become" in caught.value.what
    assert request(Requested.REMOVED, Requested.REMOVED, "proc1") is Requested.REMOVED


def test_no_cause_both_spends_the_budget_and_is_never_retried() -> None:
    assert not status.SPENDS_BUDGET & status.NEVER_RETRIED
    assert status.Cause.DRAINED not in status.SPENDS_BUDGET


@pytest.mark.parametrize(
    ("edges", "loop"),
    [
        ({}, []),
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": {"e"}}, []),
        ({"a": {"a"}}, ["a", "a"]),
        ({"a": {"b"}, "b": {"a"}}, ["a", "b", "a"]),
        ({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}, ["b", "c", "d", "b"]),
        ({"z": {"a"}, "a": {"b", "c"}, "b": set(), "c": {"z"}}, ["a", "c", "z", "a"]),
    ],
)
def test_a_loop_is_found_where_there_is_one(edges: Mapping[str, set[str]], loop: list[str]) -> None:
    assert find(edges) == loop


def test_a_deep_and_wide_flow_is_searched_quickly() -> None:
    # every way through these layers is one of 3 ** 200: each socket must be looked at once
    layers = [[f"{depth:03}.{number}" for number in range(3)] for depth in range(200)]
    edges = {name: set(after) for here, after in itertools.pairwise(layers) for name in here}
    assert find(edges) == []
    edges[layers[-1][0]] = {layers[100][0]}
    assert len(find(edges)) == 101
