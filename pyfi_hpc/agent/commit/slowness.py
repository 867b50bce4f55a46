"""A database that answers, and takes long over it: said once, and when it is over. Pure: seconds of one clock."""

from __future__ import annotations

#: A transaction that takes longer is told of: others take some milliseconds.
SLOW_SECONDS = 5.0


class Slowness:
    """What is known of the one transaction that is under way, and of those before it."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told = False

    def begun(self, now: float) -> None:
        """A transaction is under way."""
        self._since = now

    def look(self, now: float) -> float | None:
        """For how long it has been, where that is to be told; from any thread."""
        since = self._since
        if self._told or since is None or now < since + SLOW_SECONDS:
            return None
        self._told = True
        return now - since

    def ended(self, now: float) -> bool:
        """It is over; True where that is to be told, since it was not slow itself, and others were."""
        since, self._since = self._since, None
        if not self._told or since is None or now >= since + SLOW_SECONDS:
            return False
        return self.rested()

    def rested(self) -> bool:
        """Nothing waits for the database; True where that is to be told."""
        told, self._told = self._told, False
        return told
