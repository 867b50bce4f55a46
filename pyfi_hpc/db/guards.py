"""The rules about statuses as the database enforces them.

A migration holds the SQL that `transitions_sql` gave when it was written; a test holds the database against
`model.status`, so that a change there asks for a migration.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pyfi_hpc.errors import CODES, BadInput
from pyfi_hpc.model import status

#: What our triggers raise; their message begins with one of our codes.
SQLSTATE = "PF001"

#: table.column -> where each value may go.
TRANSITIONS: Mapping[str, Mapping[Any, frozenset[Any]]] = {
    "job.status": status.JOB_NEXT,
    "outcome.status": status.OUTCOME_NEXT,
    "processor.requested_status": status.REQUESTED_NEXT,
    "processor.status": status.PROCESSOR_NEXT,
    "worker.status": status.WORKER_NEXT,
}


def transitions_sql() -> str:
    """The body of `pyfi.may_become(kind text, was text, wanted text)`."""
    kinds = "\n".join(f"    WHEN '{kind}' THEN CASE was\n{_ways(ways)}\n    END" for kind, ways in TRANSITIONS.items())
    return f"\nSELECT CASE kind\n{kinds}\nEND\n"


def _ways(ways: Mapping[StrEnum, frozenset[StrEnum]]) -> str:
    return "\n".join(f"        WHEN '{was}' THEN {_among(wanted)}" for was, wanted in ways.items())


def _among(wanted: frozenset[StrEnum]) -> str:
    names = ", ".join(f"'{each}'" for each in sorted(wanted))
    return f"wanted IN ({names})" if names else "false"


def refusal(error: Any) -> BadInput:
    """What a trigger of ours refused, as a caller is told."""
    code, _, what = error.diag.message_primary.partition(": ")
    if code not in CODES:
        code, what = "E_BAD_TRANSITION", error.diag.message_primary
    field = error.diag.column_name or ""
    return BadInput(code, what, at=f"{error.diag.table_name} {field}".strip(), field=field)
