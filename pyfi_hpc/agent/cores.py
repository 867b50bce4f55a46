"""Which cores an agent shares out: those it may run on, or those of them that a person named."""

from __future__ import annotations

import os
import re

from pyfi_hpc.errors import BadInput


def cores_for(text: str, mask: set[int] | None = None) -> tuple[int, ...]:
    """The cores in `text`, such as `0-3,8`; empty: the whole affinity mask, which is what `mask` is when None.

    Raises:
        BadInput: E_RANGE, it is no such list, or names a core that this process may not use.
    """
    usable = os.sched_getaffinity(0) if mask is None else mask
    if not text.strip():
        return tuple(sorted(usable))
    named = {core for part in text.split(",") for core in _range(part.strip(), text)}
    if missing := named - usable:
        what = f"this process may not use core {min(missing)}, only {', '.join(map(str, sorted(usable)))}"
        raise BadInput.of("E_RANGE", "agent.cores", text, what)
    return tuple(sorted(named))


def _range(part: str, text: str) -> range:
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part, re.ASCII)
    if found is None or (found[2] and int(found[2]) < int(found[1])):
        raise BadInput.of("E_RANGE", "agent.cores", text, "cores are written as in 0-3,8")
    return range(int(found[1]), int(found[2] or found[1]) + 1)
