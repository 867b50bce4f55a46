"""Calls dramatiq: `python -m benchmarks.drivers.dramatiq` in its environment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dramatiq

from benchmarks.drivers import dramatiq_app
from benchmarks.drivers.caller import PATIENCE, STAGES, Caller
from benchmarks.drivers.dramatiq_app import double
from benchmarks.drivers.serving import serve


class _Dramatiq(Caller):
    def submit(self, task: str, *arguments: object) -> Any:
        return getattr(dramatiq_app, task).send(*arguments)

    def result(self, handle: Any) -> Any:
        return handle.get_result(block=True, timeout=int(1000 * PATIENCE))

    def chain(self, count: int) -> Iterable[int]:
        rest = STAGES - 1
        lines = [
            dramatiq.pipeline([double.message(number), *(double.message() for _ in range(rest))])
            for number in range(count)
        ]
        return self.results([line.run() for line in lines])

    def fan(self, width: int) -> int:
        group = dramatiq.group([double.message(number) for number in range(width)]).run()
        parts = group.get_results(block=True, timeout=int(1000 * PATIENCE))
        answer: int = self.result(self.submit("total", *parts))
        return answer


if __name__ == "__main__":
    serve(_Dramatiq())
