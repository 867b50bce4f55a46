"""What a processor runs: its repository judged, its commit pinned, its module's tasks read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.client.objects.common import Tools
from pyfi_hpc.envs import mirror, repository
from pyfi_hpc.envs import tasks as modules


@dataclass(frozen=True)
class Code:
    """One module at one commit; `branch` is the branch or tag that the commit was found by."""

    repository: str
    branch: str | None
    commit: str
    module: str
    tasks: Sequence[modules.Task]

    def task(self, name: str) -> modules.Task:
        """The task of that name. Raises E_TASK_NOT_FOUND, listing those that there are."""
        return modules.find(self.tasks, name, self.module)


def read(tools: Tools, url: str, branch: str | None, commit: str | None, module: str) -> Code:
    """The code at `commit`, else where `branch` (or the repository's own default) stands now.

    Raises:
        BadInput: E_REPO_…, E_COMMIT, E_COMMIT_UNAVAILABLE, E_MODULE, E_IMPORT. Unavailable: its host is away.
    """
    checked = repository.check(url, tools.rules)
    pinned = mirror.pinned(commit) if commit else mirror.resolve(checked, branch)
    return Code(checked, branch, pinned, module, tools.mirror.tasks(checked, pinned, module))


def signature(task: modules.Task) -> dict[str, Any]:
    """A task's parameters as they are stored with a socket."""
    return {"parameters": [vars(parameter) for parameter in task.parameters], "async": task.is_async, "doc": task.doc}
