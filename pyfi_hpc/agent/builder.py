"""Builds processors' environments beside the agent's main loop, one at a time for each processor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import msgspec

from pyfi_hpc.agent.keeper import Program
from pyfi_hpc.envs import repository
from pyfi_hpc.envs.build import Environment, EnvironmentCache, EnvironmentSpec
from pyfi_hpc.errors import Fault, PyfiError

T = TypeVar("T")


class Built(msgspec.Struct, frozen=True):
    """What came of building for worker row `worker`."""

    worker: bytes
    program: Program
    environment: Environment | None
    error: PyfiError | None


class Builder:
    """Judges the repository again (the allow-list may have changed since `add`) and builds its environment."""

    def __init__(self, cache: EnvironmentCache, rules: repository.Allow, post: Callable[[Built], None]) -> None:
        self._cache, self._rules, self._post = cache, rules, post
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="pyfi-build")

    def build(self, worker: bytes, program: Program) -> None:
        """Have the environment of `program` built; the result is posted."""

        def told(done: Future[Environment]) -> None:
            error = done.exception()
            if error is None:
                self._post(Built(worker, program, done.result(), None))
            else:
                known = error if isinstance(error, PyfiError) else Fault("E_INTERNAL", f"building failed: {error!r}")
                self._post(Built(worker, program, None, known))

        self._pool.submit(self._build, program).add_done_callback(told)

    def _build(self, program: Program) -> Environment:
        repository.check(program.repository, self._rules)
        spec = EnvironmentSpec(program.repository, program.commit, program.requirements, program.python)
        return self._cache.ensure(spec)

    def spare(self, work: Callable[[], T]) -> Future[T]:
        """Have something else done that takes its time."""
        return self._pool.submit(work)

    def close(self) -> None:
        """Start nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
