"""Names and choices that people type, checked in one place."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable

from pyfi_hpc.errors import BadInput

#: Ends the key of a task whose calls keep their order.
FIFO = ".fifo"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")


def checked_name(value: object, field: str = "name") -> str:
    """`value`, when it may name an object.

    Raises:
        BadInput: E_NAME.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value) or ".." in value:
        raise BadInput.of("E_NAME", field, value)
    return value


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def checked_choice(value: str, allowed: Iterable[str], field: str) -> str:
    """`value`, when it is one of `allowed`.

    Raises:
        BadInput: E_CHOICE, with the nearest allowed word.
    """
    choices = list(allowed)
    if value in choices:
        return value
    near = nearest(value.lower(), [choice.lower() for choice in choices])
    guess = next((choice for choice in choices if choice.lower() == near), None)
    cure = f"did you mean {guess}?" if guess else f"one of {', '.join(choices)}"
    raise BadInput.of("E_CHOICE", field, value, f"{field} has no {value!r}", cure=cure)


def task_key(repository: str, module: str, task: str, *, fifo: bool = False) -> str:
    """What makes two tasks the same task: repository, module and function, not the commit; and whether in order.

    Processors with the same key compete for the same queue, and a new commit goes on with it.
    """
    digest = hashlib.sha256("\0".join((repository, module, task)).encode()).hexdigest()
    return f"{task[:24]}-{digest[:16]}{FIFO if fifo else ''}"


def is_fifo(key: str) -> bool:
    """Whether what is sent by this key is taken one by one, in order."""
    return key.endswith(FIFO)
