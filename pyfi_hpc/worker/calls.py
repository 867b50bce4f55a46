"""One call: arguments in, value, items or error out. Whatever user code does, an answer comes back."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from sys import getrefcount
from types import AsyncGeneratorType, CoroutineType, GeneratorType, ModuleType
from typing import TYPE_CHECKING, Protocol

from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire import blobs
from pyfi_hpc.wire.arrays import ALONE, owns_its_elements
from pyfi_hpc.wire.blobs import Content
from pyfi_hpc.wire.ext import Buffer
from pyfi_hpc.wire.limits import INLINE_BYTES
from pyfi_hpc.wire.messages import Call, ErrorRecord
from pyfi_hpc.wire.values import decode_arguments, encode, encode_blob, encode_items, encode_parts
from pyfi_hpc.worker import context, failures
from pyfi_hpc.worker.interrupts import Interrupts

if TYPE_CHECKING:
    import asyncio

Answer = bytes | ErrorRecord
Task = Callable[..., object]
_Encode = Callable[..., bytes | Sequence[Buffer]]


class Items(Protocol):
    """Where the items of a generator go."""

    def begin(self) -> None:
        """The call that runs turns out to be a generator."""

    def add(self, value: bytes) -> None:
        """Its next item."""


class Runner:
    """Runs calls of one module's functions."""

    def __init__(
        self,
        module: ModuleType,
        folder: Path,
        max_value_bytes: int,
        blob_quota_bytes: int,
        interrupts: Interrupts,
        items: Items,
    ) -> None:
        """Large values lie in `folder`, and are not to take more than `blob_quota_bytes` together (0: any); a result of
        more than `max_value_bytes` is refused; `items` takes what a generator yields."""
        self._module, self._folder, self._items = module, folder, items
        self._max_value_bytes, self._blob_quota_bytes = max_value_bytes, blob_quota_bytes
        self._interrupts, self._small = interrupts, min(INLINE_BYTES, max_value_bytes)
        self._resolve = partial(blobs.get, folder)
        #: whether `whole` is wanted: the encoded value of the last call, where its answer is a claim check for that
        self.keeps = False
        self.whole: Content | None = None
        #: whether whoever takes an answer sees to it that a large value is stored before the answer is told
        self.puts_off = False
        self.left: Content | None = None

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
        """The encoded value of one call of the task `name`, of a generator the number of its items, or why not.

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
                result = _asyncio().run(result)
            # nobody can change it any more: its elements may stay where they are
            lone = getrefcount(result) == ALONE and owns_its_elements(result)
        except BaseException as error:
            # first of all: an interrupt must not hit what is ours
            interrupts.active = False
            return failures.cancelled() if interrupts.seen else failures.raised(error)
        if type(result) is GeneratorType:
            return self._each(result)
        if type(result) is AsyncGeneratorType:
            with _asyncio().Runner() as runner:
                return self._each(_in_turn(runner, result))
        return self._encoded(result, "result", encode_parts if lone else encode)

    def _encoded(self, result: object, where: str, encode: _Encode = encode) -> Answer:
        """`encode` gives the value, or parts of it that nobody can change."""
        interrupts = self._interrupts
        try:
            # still user code: a value may have properties
            value = encode(result, where=where)
            interrupts.active = False
        except BaseException as error:
            interrupts.active = False
            return failures.cancelled() if interrupts.seen else _unsendable(error)
        if isinstance(value, bytes):
            return value if len(value) <= self._small else self._large((value,))
        return self._large(value)

    def _each(self, steps: Iterator[object]) -> Answer:
        """Hand over each item as it comes; the answer is how many, or what ended it."""
        interrupts, count = self._interrupts, 0
        self.puts_off = False
        self._items.begin()
        while True:
            try:
                interrupts.active = True
                if interrupts.seen:
                    raise KeyboardInterrupt
                item = next(steps)
            except StopIteration:
                interrupts.active = False
                return encode_items(count)
            except BaseException as error:
                interrupts.active = False
                return failures.cancelled() if interrupts.seen else failures.raised(error)
            value = self._encoded(item, f"item[{count}]")
            if isinstance(value, ErrorRecord):
                return value
            self._items.add(value)
            count += 1

    def _large(self, parts: Sequence[Buffer]) -> Answer:
        """A claim check in place of a value, unless it is small after all; nobody can change its parts."""
        size = sum(map(len, parts))
        if size > self._max_value_bytes:
            what = f"the result has {size} bytes, at most {self._max_value_bytes} are kept"
            return failures.refusal("E_LIMIT", what)
        try:
            if size <= INLINE_BYTES:
                return b"".join(parts)
            content = blobs.weighed(*parts, steady=True)
            if self.puts_off:
                self.left = content
            else:
                self.keep(content)
        except BaseException as error:
            return failures.refused(error)
        if self.keeps:
            self.whole = content
        return encode_blob(*content.reference)

    def keep(self, content: Content) -> None:
        """Store it, durable; raises as `wire.blobs.keep` does."""
        blobs.keep(self._folder, content, self._blob_quota_bytes)


def _asyncio() -> ModuleType:
    """Loaded when a task first needs it: it takes a third of a worker's start."""
    import asyncio

    return asyncio


def _unsendable(error: BaseException) -> ErrorRecord:
    return failures.refused(error) if isinstance(error, BadInput) else failures.raised(error)


def _in_turn(runner: asyncio.Runner, steps: AsyncGenerator[object, None]) -> Iterator[object]:
    """The items of an asynchronous generator, each waited for."""
    while True:
        try:
            item = runner.run(_next(steps))
        except StopAsyncIteration:
            return
        yield item


async def _next(steps: AsyncGenerator[object, None]) -> object:
    return await anext(steps)
