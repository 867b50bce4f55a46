"""Find or make: an object of the same name is taken where it is what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyfi_hpc.client.objects.common import Record
from pyfi_hpc.envs.address import parse
from pyfi_hpc.errors import BadInput

#: What is said when an object is made, and may have changed since: no reason to refuse it.
_BEGINNINGS = frozenset({"name", "id", "requested_status"})


def refuse_other(kind: str, found: Record, asked: Mapping[str, Any]) -> None:
    """Raise E_EXISTS when the object that was found differs from what is asked for."""
    for field, value in _told(asked).items():
        if field not in _BEGINNINGS and found.get(field) != value:
            what = f"{kind} {found['name']} is there with another {field}: {found.get(field)}"
            cure = f"pyfi update {kind} {found['name']}, or take another name"
            raise BadInput.of("E_EXISTS", field, value, what, cure=cure)


def _told(asked: Mapping[str, Any]) -> Record:
    """What was asked for, in the words of a record."""
    told = {field: value for field, value in asked.items() if value is not None}
    if "gitrepo" in told:
        told["repository"] = parse(told.pop("gitrepo")).written
    if "commit" in told:
        told["commit"] = str(told["commit"]).lower()
    return told
