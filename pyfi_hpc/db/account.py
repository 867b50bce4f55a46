"""Who runs a Postgres server: ourselves, or an unprivileged account when we are root.

Postgres refuses to run as root. Permissions of what we did not make are never changed: a folder that the account
cannot reach is simply not used.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyfi_hpc.errors import Unavailable


@dataclass(frozen=True)
class Account:
    """A user of this machine; `other` tells whether it is not the one we run as."""

    uid: int
    gid: int
    other: bool

    def spawn_options(self) -> dict[str, Any]:
        """The arguments of `subprocess` that make the child run as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.other else {}

    def reaches(self, path: Path) -> bool:
        """Whether the account may enter every folder above `path` and read what is there."""
        if not self.other:
            return True
        return all(os.stat(parent).st_mode & stat.S_IXOTH for parent in path.resolve().parents)

    def own(self, directory: Path) -> Path:
        """Give `directory`, which we just made, to the account; it alone (and root) may enter."""
        if self.other:
            os.chown(directory, self.uid, self.gid)
        os.chmod(directory, 0o700)
        return directory


def server_account(preferred: Sequence[str] = ("nobody",)) -> Account:
    """The account that servers run as: ourselves, or as root the first of `preferred` that exists.

    Raises:
        Unavailable: we are root, and there is none of them.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), other=False)
    for name in preferred:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, other=True)
    raise Unavailable(
        "E_DB_UNAVAILABLE", f"Postgres does not run as root, and there is no user {' or '.join(preferred)}"
    )
