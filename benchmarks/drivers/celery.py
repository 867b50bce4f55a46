"""Calls Celery: `python -m benchmarks.drivers.celery` in its environment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery import chain, chord

from benchmarks.drivers import celery_app
from benchmarks.drivers.caller import PATIENCE, STAGES, Caller
from benchmarks.drivers.celery_app import double, total
from benchmarks.drivers.serving import serve


class _Celery(Caller):
    def submit(self, task: str, *arguments: object) -> Any:
        return getattr(celery_app, task).delay(*arguments)

    def result(self, handle: Any) -> Any:
        value = handle.get(timeout=PATIENCE)
        # else Redis and the client keep each of them for a day
        handle.forget()
        return value

    def chain(self, count: int) -> Iterable[int]:
        rest = [double.s()] * (STAGES - 1)
        return self.results([chain(double.s(number), *rest).delay() for number in range(count)])

    def fan(self, width: int) -> int:
        answer: int = self.result(chord([double.s(number) for number in range(width)])(total.s()))
        return answer


if __name__ == "__main__":
    serve(_Celery())
