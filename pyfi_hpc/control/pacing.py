"""How often a reconcile pass is made: however many agents might make one, it costs so much of a core and no more."""

from __future__ import annotations

import msgspec

#: After a pass none is made for so many times what it took: all agents together keep a fifth of a core busy at most.
REST = 4.0
#: Where nothing is known to have changed: at least, and at most, between two passes. Source: RELIABILITY 2, full pass.
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 15.0
#: Where something has: at most. It is to be acted on within a second.
WISH_SECONDS = 0.5
#: Between two tries while somebody else is at it, at least.
BUSY_SECONDS = 0.1


class LastPass(msgspec.Struct, frozen=True):
    """The last pass that is on record: how long ago it began, and how long it took."""

    began_seconds: float
    took_seconds: float


class Wait(msgspec.Struct, frozen=True):
    """Seconds until a pass is due, 0 or less: now; `wished`: something has changed that none has seen.

    `busy_seconds`: after so many somebody else's pass, which is under way, has probably ended.
    """

    seconds: float
    wished: bool
    busy_seconds: float = BUSY_SECONDS


def wait(last: LastPass | None, wish_seconds: float | None) -> Wait:
    """When a pass is due; `wish_seconds`: how long ago something changed, None: nothing is known to have."""
    if last is None:
        return Wait(0.0, wish_seconds is not None)
    wished = wish_seconds is not None and last.began_seconds >= wish_seconds
    rest = REST * last.took_seconds
    rest = min(rest, WISH_SECONDS) if wished else min(max(rest, SHORTEST_SECONDS), LONGEST_SECONDS)
    busy = min(max(last.took_seconds, BUSY_SECONDS), WISH_SECONDS)
    return Wait(rest - (last.began_seconds - last.took_seconds), wished, busy)
