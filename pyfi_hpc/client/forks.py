"""What a fork leaves of a client: its sessions without the threads that served them. A child can use none of it."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from pyfi_hpc.errors import BadInput, PyfiError


class Inherited(Protocol):
    """What is told, in a child process, that it has come from another."""

    def inherit(self) -> None:
        """Called in the child before anything else runs there: no lock may be asked for, its holder may be gone."""


_known: weakref.WeakSet[Inherited] = weakref.WeakSet()


def watch(opened: Inherited) -> None:
    """Have it told in each child that a fork makes."""
    _known.add(opened)


def _in_child() -> None:
    for each in list(_known):
        each.inherit()


os.register_at_fork(after_in_child=_in_child)


def forked() -> PyfiError:
    """What is raised where a client is used in another process than the one that opened it."""
    what = "this client was opened in another process, of which this one is a fork; it works on there"
    return BadInput("E_USAGE", what, cure="make a Client in the child process; Client().future(id) asks for its calls")
