"""Named places where a test can make a real process die or wait: `PYFI_FAILPOINT=name:crash`.

    PYFI_FAILPOINT=before_commit:crash          SIGKILL of this process, the first time it comes there
    PYFI_FAILPOINT=before_commit:crash:5        … the fifth time
    PYFI_FAILPOINT=before_commit:stop           SIGSTOP instead

Several are separated by commas. With the variable unset, a fail point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal

_ACTIONS = {"crash": signal.SIGKILL, "stop": signal.SIGSTOP}

#: Every fail point there is: first those of a job on its way into Slurm, then in the order in which one invocation
#: meets them.
NAMES = (
    "submit_before_intent",
    "submit_after_intent",
    "submit_after_sbatch",
    "client_before_publish",
    "client_after_publish",
    "agent_after_receive",
    "agent_after_run",
    "chain_after_heads",
    "agent_after_commit",
    "agent_after_forward",
    "hold_before_publish",
    "hold_after_publish",
    "lease_after_ack",
)


def _parsed(text: str) -> dict[str, list[int]]:
    points: dict[str, list[int]] = {}
    for part in filter(None, text.split(",")):
        name, action, *count = part.split(":")
        if name not in NAMES or action not in _ACTIONS:
            raise ValueError(f"PYFI_FAILPOINT: {part!r} is not NAME:crash|stop[:COUNT]; NAME is one of {NAMES}")
        points[name] = [int(count[0]) if count else 1, _ACTIONS[action]]
    return points


_POINTS = _parsed(os.environ.get("PYFI_FAILPOINT", ""))


def reach(name: str) -> None:
    """Die here if this process was told to."""
    point = _POINTS.get(name)
    if point is not None:
        point[0] -= 1
        if point[0] == 0:
            os.kill(os.getpid(), point[1])
