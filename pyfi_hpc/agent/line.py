"""Members of one message of a fifo socket: one at a time, each only when the one before it is settled. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Line:
    """Who is next. Times are `time.monotonic()`.

    Attributes:
        waiting: members that are not settled, in order.
        may_run: those of them that are not decided yet; the others are only waited for.
        current: the one that is being run or committed.
    """

    waiting: list[int]
    may_run: set[int] = field(default_factory=set)
    current: int | None = None
    not_before: float = 0.0

    @classmethod
    def fresh(cls, members: int) -> Line:
        """All members of a message that nobody had before."""
        return cls(list(range(members)), set(range(members)))

    def allow(self, members: Iterable[int]) -> None:
        """These turned out to be undecided."""
        self.may_run.update(members)

    def skip(self, members: Iterable[int]) -> list[int]:
        """Run these no more, where they have not begun; which of them that is true of."""
        skipped = [each for each in members if each in self.may_run and each != self.current]
        self.may_run.difference_update(skipped)
        return skipped

    def put_back(self) -> None:
        """The current one had not begun."""
        self.current = None

    def settled(self, member: int) -> None:
        """It needs its message no more."""
        if member in self.waiting:
            self.waiting.remove(member)
        if self.current == member:
            self.current = None

    def again(self, member: int, at: float) -> None:
        """It is to be tried again, not before `at`; nobody overtakes it."""
        self.may_run.add(member)
        self.not_before = at
        if self.current == member:
            self.current = None

    def next(self, now: float) -> int | None:
        """The member to run now, which is the current one from now on; None where there is none to run yet."""
        if self.current is not None or not self.waiting or now < self.not_before:
            return None
        if self.waiting[0] in self.may_run:
            self.current = self.waiting[0]
        return self.current
