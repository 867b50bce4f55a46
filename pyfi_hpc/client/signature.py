"""Arguments checked against the parameters that were recorded from the task's source, before anything is sent."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pyfi_hpc.db.topology import SocketInfo
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.priority import Priority

#: What a call may be given besides its arguments, by keyword as they are.
OPTIONS = frozenset({"id", "timeout", "deadline", "delay", "at", "priority"})
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class ArgumentCheck:
    """The parameters of one socket's task; where they are not known, everything passes."""

    def __init__(self, socket: SocketInfo) -> None:
        self._socket = socket
        self._signature = signature_of(socket.signature)
        self._least, self._most = self._plain_counts()
        #: parameters that are called as an option of ours is, and the place of each
        self._shared = self._shared_names()

    def __call__(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Return if the task can be called so.

        Raises:
            BadInput: E_TYPE, with the signature.
        """
        if not kwargs and self._least <= len(args) <= self._most:
            return
        if self._signature is None:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            takes = f"{self._socket.task}{self._signature}"
            raise BadInput.of("E_TYPE", "arguments", f"of {takes}", f"{self._socket.name}: {error}") from None

    def apart(self, count: int, options: Mapping[str, object]) -> None:
        """Return if no option of ours may have been meant for a parameter of the task that is called the same, and that
        none of the `count` positional arguments is for.

        Raises:
            BadInput: E_TYPE, with what to do.
        """
        for name, place in self._shared.items():
            if count <= place and (given := options.get(name)) is not None and given != Priority.NORMAL:
                task = f"{self._socket.task}{self._signature}"
                what = (
                    f"{self._socket.name}: task {task} has a parameter of this name, and here it is an option of ours"
                )
                cure = (
                    f"give {name} to the task by its position, the {_nth(place + 1)} argument; then the option is free"
                )
                raise BadInput.of("E_TYPE", name, given, what, cure=cure)

    def _shared_names(self) -> dict[str, int]:
        parameters = () if self._signature is None else self._signature.parameters.values()
        positional = [each.name for each in parameters if each.kind in _POSITIONAL]
        named = {each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
        return {name: place for place, name in enumerate(positional) if name in named & OPTIONS}

    def _plain_counts(self) -> tuple[float, float]:
        """How few and how many positional arguments do without a closer look."""
        if self._signature is None:
            return 0, float("inf")
        parameters = self._signature.parameters.values()
        needed = [each for each in parameters if each.default is each.empty]
        if any(each.kind is each.KEYWORD_ONLY for each in needed):
            return 1, 0
        least = sum(each.kind in _POSITIONAL for each in needed)
        many = any(each.kind is each.VAR_POSITIONAL for each in parameters)
        return least, float("inf") if many else sum(each.kind in _POSITIONAL for each in parameters)


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


class _Optional:
    """The default of a parameter whose default only the worker knows."""

    def __repr__(self) -> str:
        return "…"


def signature_of(recorded: dict[str, Any] | None) -> inspect.Signature | None:
    """The signature that was recorded; None where there is none, or none that can be understood."""
    if not recorded or not isinstance(recorded.get("parameters"), list):
        return None
    try:
        return inspect.Signature([_parameter(each) for each in recorded["parameters"]])
    except (KeyError, TypeError, ValueError):
        return None


def _parameter(recorded: Mapping[str, Any]) -> inspect.Parameter:
    kind = getattr(inspect.Parameter, str(recorded["kind"]).upper(), None)
    if kind is None:
        raise ValueError(f"no parameter has the kind {recorded['kind']!r}")
    default = _Optional() if recorded.get("has_default") else inspect.Parameter.empty
    return inspect.Parameter(recorded["name"], kind, default=default)
