"""The record's rules as a state machine (layer L1): agents race on a real Postgres, a small model says what must stand.

Calls are run by attempts that anybody may make twice, late or never; the model knows one rule for each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pyfi_hpc.agent.commit import verdicts
from pyfi_hpc.db import record
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire import values
from pyfi_hpc.wire.messages import Call
from tests.services.test_verdicts import AGENT, call, commit, failed, held, lot_of, outcome, served, worked

BUDGET = 3


@dataclass
class Modelled:
    """One call: what is decided, the number of the attempt that is planned next, and what was charged."""

    call: Call
    status: str | None = None
    value: object = None
    next: int = 1
    used: int = 0
    #: since it was reopened: the lowest attempt that may decide it
    named: int = 1
    #: attempts that somebody may still make
    known: list[int] = field(default_factory=lambda: [1])

    @property
    def open(self) -> bool:
        return self.status in (None, "REOPENED")


class Machine(RuleBasedStateMachine):
    """Rules are what agents and operators do; each also tells the model."""

    cursor: Any = None

    @initialize()
    def begin(self) -> None:
        self.cursor.execute("DELETE FROM pyfi.hold")
        self.calls = [Modelled(call(number)) for number in range(3)]

    def lot(self, model: Modelled, serial: int) -> Any:
        again = call(identity=model.call.id, serial=serial)
        exact = Call(model.call.id, model.call.args, model.call.digest, again.serial)
        return lot_of(exact, socket=served(max_attempts=BUDGET), careful=serial > 1)

    @rule(which=st.integers(0, 2), pick=st.integers(0, 9), value=st.integers(0, 9))
    def an_attempt_succeeds(self, which: int, pick: int, value: int) -> None:
        model = self.calls[which]
        serial = model.known[pick % len(model.known)]
        (verdict,) = commit(self.cursor, worked(self.lot(model, serial), value))
        if model.open and serial >= model.named:
            model.status, model.value = "SUCCEEDED", value
        self.agrees(model, verdict)

    @rule(which=st.integers(0, 2), pick=st.integers(0, 9))
    def an_attempt_fails(self, which: int, pick: int) -> None:
        model = self.calls[which]
        serial = model.known[pick % len(model.known)]
        (verdict,) = commit(self.cursor, failed(self.lot(model, serial), Cause.SIGNAL))
        if model.open and serial >= model.next:
            model.used += 1
            model.next = serial + 1
            if model.used >= BUDGET:
                model.status = "DEAD"
        self.agrees(model, verdict)

    @rule(which=st.integers(0, 2), pick=st.integers(0, 9))
    def a_look_is_right(self, which: int, pick: int) -> None:
        model = self.calls[which]
        serial = model.known[pick % len(model.known)]
        found = verdicts.look_up(self.cursor, self.lot(model, serial), AGENT)
        may_run = model.open and serial >= model.next and serial >= model.named
        assert found.runnable == ([0] if may_run else [])
        for verdict in found.verdicts:
            self.agrees(model, verdict)

    @rule()
    def what_is_due_is_published(self) -> None:
        self.cursor.execute("UPDATE pyfi.hold SET due = now() WHERE state = 'DUE'")
        taken = record.take_due(self.cursor, 10)
        record.mark_out(self.cursor, [due.message for due in taken])
        for due in taken:
            (published,) = due.message.calls
            (model,) = [model for model in self.calls if model.call.id == published.id]
            assert (published.serial, published.args) == (model.next, model.call.args)
            model.known.append(published.serial)

    @precondition(lambda self: any(model.status == "DEAD" for model in self.calls))
    @rule(data=st.data())
    def a_dead_call_is_reopened(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from([model for model in self.calls if model.status == "DEAD"]))
        identity = model.call.id.hex()
        # as `client.operations` does
        self.cursor.execute(
            "WITH h AS (UPDATE pyfi.hold SET state = 'DUE', used = 0, returns = 0 WHERE id = %s::uuid RETURNING serial)"
            " UPDATE pyfi.outcome SET status = 'REOPENED', serial = h.serial FROM h WHERE id = %s::uuid",
            (identity, identity),
        )
        model.status, model.used, model.named = "REOPENED", 0, model.next

    def agrees(self, model: Modelled, verdict: verdicts.Verdict) -> None:
        """A verdict tells what is decided, with the committed value, or nothing at all."""
        assert not verdict.conflict
        assert (verdict.answer is None) is model.open
        assert verdict.value == (values.encode(model.value) if model.status == "SUCCEEDED" else None)

    @invariant()
    def the_record_is_what_the_model_says(self) -> None:
        for model in getattr(self, "calls", ()):
            lot = self.lot(model, 1)
            found, hold = outcome(self.cursor, lot), held(self.cursor, lot)
            assert (found.status if found else None) == model.status
            if model.status == "SUCCEEDED":
                assert found.value == values.encode(model.value)
            if model.status == "DEAD":
                assert hold == ("DEAD", model.next, model.used, 0)
            elif model.open and model.next > 1:
                assert hold is not None
                assert hold[1:] == (model.next, model.used, 0)


@pytest.fixture
def cursor(database_uri: str) -> Iterator[Any]:
    """A cursor on which every statement stands by itself."""
    with closing(psycopg2.connect(database_uri)) as connection, connection.cursor() as made:
        connection.autocommit = True
        yield made


def test_whatever_agents_do_the_record_keeps_its_rules(cursor: Any) -> None:
    class OnPostgres(Machine):
        pass

    OnPostgres.cursor = cursor
    run_state_machine_as_test(OnPostgres, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))
