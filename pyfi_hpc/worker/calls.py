"""One call: arguments in, value or error out. Whatever user code does, an answer comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, GeneratorType, ModuleType

from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire import blobs
from pyfi_hpc.wire.limits import INLINE_BYTES
from pyfi_hpc.wire.messages import Call, ErrorRecord
from pyfi_hpc.wire.values import decode_arguments, encode
from pyfi_hpc.worker import context, failures
from pyfi_hpc.worker.interrupts import Interrupts

Answer = bytes | ErrorRecord
Task = Callable[..., object]

_GENERATORS: frozenset[type] = frozenset({GeneratorType, AsyncGeneratorType})


class Runner:
    """Runs calls of one module's functions."""

    def __init__(self, module: ModuleType, folder: Path, max_value_bytes: int, interrupts: Interrupts) -> None:
        """Large values lie in `folder`; a result of more than `max_value_bytes` is refused."""
        self._module, self._folder, self._max_value_bytes = module, folder, max_value_bytes
        self._interrupts, self._small = interrupts, min(INLINE_BYTES, max_value_bytes)
        self._resolve = partial(blobs.get, folder)
        #: the encoded value of the last call, where its answer is a claim check for that
        self.whole: bytes | None = None

    def task(self, name: str) -> Task | ErrorRecord:
        """The function of that name, or why there is none."""
        try:
            function = getattr(self._module, name)
        except BaseException:  # a module may have a __getattr__ of its own
            function = None
        if callable(function) and not name.startswith("_"):
            return function  # type: ignore[no-any-return]  # callable() says no more
        return failures.refusal("E_TASK_NOT_FOUND", f"module {self._module.__name__} has no task {name!r}")

    def run(
        self, function: Task, call: Call, name: str, socket: bytes, given: bytes | memoryview | None = None
    ) -> Answer:
        """The encoded value of one call of the task `name`, or why there is none.

        `given` are its encoded arguments where `call` does not hold them: whoever asks what runs now keeps `call`.
        """
        self.whole = None
        if call.deadline is not None and time.time() > call.deadline:
            return failures.refusal("E_TIMEOUT", "its deadline passed before it could start", "builtins.TimeoutError")
        try:
            args, kwargs = decode_arguments(call.args if given is None else given, resolve=self._resolve)
        except BaseException as error:
            return failures.refused(error)
        context.enter((call, name, socket))
        interrupts = self._interrupts
        try:
            interrupts.active = True
            if interrupts.seen:
                raise KeyboardInterrupt
            result = function(*args, **kwargs)
            if type(result) is CoroutineType:
                result = asyncio.run(result)
        except BaseException as error:
            # first of all: an interrupt must not hit what is ours
            interrupts.active = False
            return failures.cancelled() if interrupts.seen else failures.raised(error)
        if type(result) in _GENERATORS:
            interrupts.active = False
            return failures.refusal("E_TYPE", "generators are not streamed yet: return a list")
        try:
            # still user code: a value may have properties
            value = encode(result, where="result")
            interrupts.active = False
        except BaseException as error:
            interrupts.active = False
            return failures.cancelled() if interrupts.seen else _unsendable(error)
        return value if len(value) <= self._small else self._large(value)

    def _large(self, value: bytes) -> Answer:
        """A claim check in place of `value`."""
        if len(value) > self._max_value_bytes:
            what = f"the result has {len(value)} bytes, at most {self._max_value_bytes} are kept"
            return failures.refusal("E_LIMIT", what)
        try:
            answer = blobs.outgoing(self._folder, value)
        except BaseException as error:
            return failures.refused(error)
        self.whole = value if answer is not value else None
        return answer


def _unsendable(error: BaseException) -> ErrorRecord:
    return failures.refused(error) if isinstance(error, BadInput) else failures.raised(error)
