"""What a confirm raises, in the same words for every kind of broker."""

from __future__ import annotations

from pyfi_hpc.errors import BadInput, BrokerUnavailable


def unroutable(exchange: str, key: str) -> BadInput:
    """No queue is bound there."""
    return BadInput.of("E_UNKNOWN_SOCKET", "key", key, f"no queue of {exchange} is bound by that key")


def full(queue: str) -> BrokerUnavailable:
    """The queue has as many messages as it may have."""
    cure = "wait until workers have caught up, or start more of them"
    return BrokerUnavailable("E_BACKPRESSURE", "the queue is full", at=f"queue {queue}", cure=cure)


def no_space(error: Exception) -> BrokerUnavailable:
    """The service's disk is full; `error` is what its client library said. Nothing of the message is kept."""
    said = str(error).strip().splitlines()[0]
    cure = "make space on the database's disk: pyfi doctor"
    return BrokerUnavailable("E_STORAGE_FULL", f"the broker has no space left: {said}", cure=cure)


def closed() -> BrokerUnavailable:
    """Our own side was closed before the broker's word came."""
    return BrokerUnavailable("E_BROKER", "the broker connection was closed before the message was confirmed")


def unreachable(error: Exception) -> BrokerUnavailable:
    """The service does not answer; `error` is what its client library said."""
    said = str(error).strip().splitlines()
    return BrokerUnavailable("E_BROKER", f"the broker cannot be reached: {said[0] if said else type(error).__name__}")


def mismatch(queue: str, wanted: int | None, stands: int | None) -> BadInput:
    """A queue of that name has another length limit."""
    return BadInput.of("E_QUEUE_MISMATCH", "max_length", wanted, f"the queue {queue} stands with max_length {stands}")
