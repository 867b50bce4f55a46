"""Which acks may go out on one channel, and how few frames they take (RELIABILITY 1.12)."""

from __future__ import annotations

from typing import NamedTuple


class Ack(NamedTuple):
    """One `basic.ack`: of `tag` alone, or with `multiple` of every unacked delivery up to it."""

    tag: int
    multiple: bool


class AckLedger:
    """The unacked deliveries of one channel incarnation; not thread-safe.

    Tags rise by one with each delivery of a channel, and start again at 1 on the next: a ledger lives as long as its
    channel, so a tag can never be acked on another one.
    """

    def __init__(self) -> None:
        # in the order of delivery, which is that of the tags
        self._unsettled: dict[int, None] = {}
        self._settled: list[int] = []

    def __len__(self) -> int:
        """How many deliveries are not settled yet."""
        return len(self._unsettled)

    def count_to(self, tag: int) -> int:
        """How many deliveries up to `tag` are not settled."""
        return sum(1 for each in self._unsettled if each <= tag)

    def delivered(self, tag: int) -> None:
        """Somebody has this delivery in hands from now on."""
        self._unsettled[tag] = None

    def settle(self, tag: int) -> None:
        """This delivery may be acked; nothing happens where it was settled before."""
        if tag in self._unsettled:
            del self._unsettled[tag]
            self._settled.append(tag)

    def due(self) -> list[Ack]:
        """The acks for everything settled since the last call, no tag twice.

        `multiple` reaches up to the highest tag below which all is settled; settled ones above a gap go singly.
        """
        settled, self._settled = sorted(self._settled), []
        gap = next(iter(self._unsettled), None)
        below = [tag for tag in settled if gap is None or tag < gap]
        run = [Ack(below[-1], len(below) > 1)] if below else []
        return run + [Ack(tag, False) for tag in settled[len(below) :]]
