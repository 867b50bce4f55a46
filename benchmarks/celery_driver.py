"""Calls the peer: `python -m benchmarks.celery_driver` in the peer's environment."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.celery_app import double
from benchmarks.driver import serve


def bulk(calls: int) -> Iterable[int]:
    """Submit all, then gather all."""
    results = [double.delay(number) for number in range(calls)]
    return [result.get() for result in results]


def once(number: int) -> int:
    """One call, there and back."""
    answer: int = double.delay(number).get()
    return answer


if __name__ == "__main__":
    serve(bulk, once)
