"""The publications that were sent and not confirmed yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pyfi_hpc.brokers.base import Confirm, Publication
from pyfi_hpc.errors import PyfiError

#: How many messages, and how many bytes of them, may be unconfirmed at once.
WINDOW_MESSAGES, WINDOW_BYTES = 256, 16 * 2**20


@dataclass(slots=True, eq=False)
class Entry:
    """A publication on its way, and what the broker said about it before its confirm."""

    publication: Publication
    confirm: Confirm = field(default_factory=Confirm)
    #: Why it reached no queue, from its `basic.return`.
    refusal: PyfiError | None = None
    #: time.monotonic() when it was last sent.
    sent: float = 0.0

    def resolve(self, error: PyfiError | None) -> None:
        """Tell whoever waits; None is the broker's word that it holds the message."""
        if error is None:
            self.confirm.set_result(None)
        else:
            self.confirm.set_exception(error)

    def may_be_sent(self) -> bool:
        """False where the caller has given it up; from the first True on, it can no longer be given up."""
        return self.confirm.running() or self.confirm.set_running_or_notify_cancel()


class Window:
    """Entries in the order of their delivery tags, on one channel incarnation; not thread-safe."""

    def __init__(self, messages: int = WINDOW_MESSAGES, size: int = WINDOW_BYTES) -> None:
        self._messages, self._size = messages, size
        self._entries: dict[int, Entry] = {}
        self._bytes = 0
        self._last = 0

    def __len__(self) -> int:
        return len(self._entries)

    def has_room(self) -> bool:
        """Whether one more may go out; a message larger than the whole window goes alone."""
        return len(self._entries) < self._messages and self._bytes < self._size

    def next_tag(self) -> int:
        """The tag that the next message on this channel will be confirmed by."""
        return self._last + 1

    def add(self, entry: Entry) -> None:
        """`entry` was sent under `next_tag`."""
        self._last += 1
        self._entries[self._last] = entry
        self._bytes += len(entry.publication.body)

    def get(self, tag: int) -> Entry | None:
        """The entry sent under `tag`, while it is not confirmed."""
        return self._entries.get(tag)

    def take(self, tag: int, multiple: bool) -> list[Entry]:
        """Remove what a confirm of `tag` speaks of, in order; empty where that was given up before."""
        if not multiple:
            return self.remove_tags([tag] if tag in self._entries else [])
        tags = []
        for each in self._entries:
            if each > tag:
                break
            tags.append(each)
        return self.remove_tags(tags)

    def remove(self, chosen: Callable[[Entry], bool]) -> list[Entry]:
        """Remove the entries that are `chosen`, in order."""
        return self.remove_tags([tag for tag, entry in self._entries.items() if chosen(entry)])

    def remove_tags(self, tags: list[int]) -> list[Entry]:
        """Remove the entries of `tags`."""
        taken = [self._entries.pop(tag) for tag in tags]
        self._bytes -= sum(len(entry.publication.body) for entry in taken)
        return taken

    def older_than(self, seconds: float) -> list[Entry]:
        """Remove and return what was sent longer ago than `seconds`."""
        limit = time.monotonic() - seconds
        return self.remove(lambda entry: entry.sent < limit)

    def restart(self) -> list[Entry]:
        """Begin again at tag 1, as a new channel does; what was unconfirmed, in order."""
        left = self.remove(lambda entry: True)
        self._last = 0
        return left
