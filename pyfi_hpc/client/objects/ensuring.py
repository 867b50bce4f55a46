"""Find or make: an object of the same name is taken where it is what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyfi_hpc.client.objects.common import Record
from pyfi_hpc.envs import mirror, repository
from pyfi_hpc.envs.address import parse
from pyfi_hpc.envs.repository import Allow
from pyfi_hpc.errors import BadInput

#: What is said when an object is made, and may have changed since: no reason to refuse it.
_BEGINNINGS = frozenset({"name", "id", "requested_status"})


def refuse_other(kind: str, found: Record, asked: Mapping[str, Any], rules: Allow) -> None:
    """Raise E_EXISTS when the object that was found differs from what is asked for."""
    for field, value in _told(asked).items():
        if field not in _BEGINNINGS and found.get(field) != value and not _same_branch(field, value, found, rules):
            what = f"{kind} {found['name']} is there with another {field}: {found.get(field)}"
            cure = f"pyfi update {kind} {found['name']}, or take another name"
            raise BadInput.of("E_EXISTS", field, value, what, cure=cure)


def _same_branch(field: str, branch: Any, found: Record, rules: Allow) -> bool:
    """A branch only says how the commit was found: it differs where it leads to another one."""
    if field != "branch":
        return False
    # without one it was pinned as the repository stood, or by its commit: nothing was said that could differ
    return (
        found["branch"] is None
        or mirror.resolve(repository.check(found["repository"], rules), branch) == found["commit"]
    )


def _told(asked: Mapping[str, Any]) -> Record:
    """What was asked for, in the words of a record."""
    told = {field: value for field, value in asked.items() if value is not None}
    if "gitrepo" in told:
        told["repository"] = parse(told.pop("gitrepo")).written
    if "commit" in told:
        told["commit"] = str(told["commit"]).lower()
    return told
