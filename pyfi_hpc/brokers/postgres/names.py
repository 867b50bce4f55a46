"""The names that sessions listen to. A channel has at most 63 bytes (PostgreSQL, `NAMEDATALEN`)."""

from __future__ import annotations

import hashlib

REPLY = "pyfi_reply_"
_CONTROL = "pyfi_control_"
_LONGEST = 63


def _digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def queue_channel(queue: str) -> str:
    """Where it is said that a queue has messages; as SQL: 'pyfi_q_' || md5(name)."""
    return f"pyfi_q_{_digest(queue)}"


def control_channel(network: str) -> str:
    """Where the hints of a network are heard."""
    channel = _CONTROL + network
    return channel if len(channel.encode()) <= _LONGEST else _CONTROL + _digest(network)
