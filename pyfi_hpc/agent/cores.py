"""Which cores an agent shares out: those it may run on, or those of them that a person named."""

from __future__ import annotations

import os

from pyfi_hpc.config import kinds
from pyfi_hpc.errors import BadInput


def cores_for(text: str, mask: set[int] | None = None) -> tuple[int, ...]:
    """The cores in `text`, such as `0-3,8`; empty: the whole affinity mask, which is what `mask` is when None.

    Raises:
        BadInput: E_RANGE, it is no such list, or names a core that this process may not use.
    """
    usable = os.sched_getaffinity(0) if mask is None else mask
    try:
        kinds.check_cores(text, usable)
    except kinds.Unfit as error:
        raise BadInput.of(error.code, "agent.cores", text, error.what) from None
    return tuple(sorted(kinds.cores_in(text) or usable))
