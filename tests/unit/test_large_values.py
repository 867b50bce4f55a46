"""How often an array is copied on its way, and what is too large to go."""

from __future__ import annotations

import threading
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest

from pyfi_hpc.client.packing import Packer
from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire import blobs, values
from pyfi_hpc.wire.limits import INLINE_BYTES
from pyfi_hpc.wire.messages import Call
from pyfi_hpc.worker.calls import Runner, Task
from pyfi_hpc.worker.interrupts import Interrupts

MIB = 2**20
LARGE: Any = numpy.arange(2 * MIB, dtype="f8")
#: Over the inline limit with its headers, it would be a blob.
SMALL: Any = numpy.arange(INLINE_BYTES // 8 - 16, dtype="f8")


def copies(array: Any, work: Callable[[], object]) -> float:
    """How much memory `work` takes at its most, in sizes of the array. NumPy's memory counts, as does Python's."""
    work()  # what is imported and cached is not counted
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        return (tracemalloc.get_traced_memory()[1] - before) / int(array.nbytes)
    finally:
        tracemalloc.stop()


@pytest.fixture
def packer(tmp_path: Path) -> Packer:
    return Packer(tmp_path)


def test_a_large_argument_is_written_from_where_it_lies(packer: Packer, tmp_path: Path) -> None:
    def pack() -> None:
        for file in tmp_path.glob("??/*"):
            file.unlink()  # or it would only be young again
        packer.pack((LARGE, "name"), {})

    assert copies(LARGE, pack) < 0.2


def test_a_large_value_is_read_into_the_memory_where_it_stays(packer: Packer) -> None:
    for value in (LARGE, {"deep": [LARGE]}, LARGE.reshape(1024, -1)):
        reference = blobs.put(packer._folder, *values.encode_parts(value))
        data = values.encode_blob(*reference)
        assert copies(LARGE, lambda data=data: packer.unpack(data)) < 2.2  # type: ignore[misc]
    # an array by itself lies as it must from the start
    data = values.encode_blob(*blobs.put(packer._folder, *values.encode_parts(LARGE)))
    assert copies(LARGE, lambda: packer.unpack(data)) < 1.2
    arrived: Any = packer.unpack(data)
    assert (arrived == LARGE).all() and arrived.flags.writeable and arrived.flags.aligned
    arrived[0] = 7.0
    again: Any = packer.unpack(data)
    assert again[0] == 0.0


def test_an_array_that_travels_inline_is_copied_once_each_way(packer: Packer) -> None:
    assert copies(SMALL, lambda: packer.pack((SMALL,), {})) < 1.3
    data = values.encode(SMALL)
    assert copies(SMALL, lambda: packer.unpack(data)) < 1.3


@pytest.mark.parametrize("array", [LARGE[::2], LARGE.reshape(1024, -1).T, LARGE.astype(">f4")], ids=str)
def test_every_large_array_arrives_as_it_was(packer: Packer, array: Any) -> None:
    (sent, keyword), named = values.decode_arguments(
        packer.pack((array, 1), {"also": array[:100_000]}), resolve=lambda each: blobs.get(packer._folder, each)
    )
    assert keyword == 1
    assert numpy.array_equal(sent, array)  # type: ignore[arg-type]
    assert numpy.array_equal(named["also"], array[:100_000])  # type: ignore[arg-type]


def test_an_array_that_changes_while_it_is_sent_spoils_no_blob(packer: Packer) -> None:
    """What is written is what the name says, so that nobody else meets a damaged blob under it."""
    array = numpy.zeros(4 * MIB, dtype="u1")
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            array[:] += 1

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(5):
            reference = blobs.put(packer._folder, array.data)
            assert len(blobs.get(packer._folder, reference)) == array.nbytes
    finally:
        stop.set()
        changing.join()


def test_an_array_that_is_changed_before_it_is_stored_is_stored_as_it_was(packer: Packer) -> None:
    array = numpy.arange(MIB // 8, dtype="f8")
    packed = packer.packed((array,), {})
    array[:] = 0

    for content in packed.contents:
        packer.keep(content)

    ((arrived,), _) = values.decode_arguments(packed.data, resolve=lambda each: blobs.get(packer._folder, each))
    assert numpy.array_equal(arrived, numpy.arange(MIB // 8, dtype="f8"))  # type: ignore[arg-type]


def test_an_argument_over_the_limit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    packer = Packer(tmp_path, MIB)
    for args, kwargs, at in (((1, LARGE), {}, "args[1]"), ((), {"image": LARGE}, "kwargs['image']")):
        with pytest.raises(BadInput, match="at most 1048576 bytes are sent") as refused:
            packer.pack(args, kwargs)
        assert refused.value.code == "E_LIMIT"
        assert at in str(refused.value)
        assert "client.max_value_bytes" in str(refused.value)
    assert list(tmp_path.rglob("*")) == []
    packer.pack((LARGE[: MIB // 16],), {})


def test_what_is_many_and_small_is_refused_as_a_whole(packer: Packer) -> None:
    with pytest.raises(BadInput, match="too many arguments for one call"):
        packer.pack(tuple("x" * 1000 for _ in range(300)), {})


# a worker's results


class NoItems:
    def begin(self) -> None:
        raise AssertionError("no generator")

    def add(self, value: bytes) -> None:
        raise AssertionError("no generator")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(ModuleType("tasks"), tmp_path, 2**30, 0, Interrupts(), NoItems())


def ran(runner: Runner, task: Task, *args: object) -> bytes:
    answer = runner.run(task, Call(bytes(16), values.encode_arguments(args, {}), b""), "task", bytes(16))
    assert isinstance(answer, bytes), answer
    return answer


@pytest.mark.parametrize("shape", [(2 * MIB,), (1024, -1)], ids=["itself", "all of another"])
def test_a_result_that_its_task_has_let_go_of_is_stored_and_passed_on_from_where_it_lies(
    runner: Runner, shape: tuple[int, ...]
) -> None:
    runner.keeps = True

    def made() -> Any:
        array = numpy.arange(2 * MIB, dtype="f8")
        return array if len(shape) == 1 else array.reshape(shape)

    assert copies(LARGE, lambda: ran(runner, made)) < 1.2
    assert runner.whole is not None and isinstance(runner.whole.parts[-1], memoryview)
    stored = bytes(blobs.get(runner._folder, runner.whole.reference))
    assert b"".join(runner.whole.parts) == stored == values.encode(LARGE.reshape(shape))


kept: Any = None


def keeps_it() -> Any:
    global kept
    kept = numpy.arange(MIB, dtype="f8")
    return kept


def keeps_what_it_is_part_of() -> Any:
    return keeps_it()[:]


def keeps_weakly_what_it_is_part_of() -> Any:
    return keeps_it_weakly().reshape(1024, -1)


def keeps_it_weakly() -> Any:
    global kept
    made = numpy.arange(MIB, dtype="f8")
    kept = weakref.ref(made)
    return made


def keeps_what_it_holds() -> Any:
    return [keeps_it()]


def keeps_it_as_bytes() -> Any:
    made = numpy.arange(MIB, dtype="f8")
    global kept
    kept = made.data
    return made


@pytest.mark.parametrize(
    "task",
    [
        keeps_it,
        keeps_what_it_is_part_of,
        keeps_it_weakly,
        keeps_weakly_what_it_is_part_of,
        keeps_what_it_holds,
        keeps_it_as_bytes,
    ],
)
def test_a_result_that_somebody_has_still_is_stored_as_it_was(runner: Runner, task: Task) -> None:
    runner.puts_off = True
    ran(runner, task)
    content, array = runner.left, kept() if isinstance(kept, weakref.ref) else kept
    if array is not None:
        array[0] = -1.0
    assert content is not None and all(type(part) is bytes for part in content.parts)
    runner.keep(content)
    found: Any = values.decode(bytes(blobs.get(runner._folder, content.reference)))
    assert numpy.array_equal(numpy.ravel(found), numpy.arange(MIB, dtype="f8"))


def test_an_argument_that_is_returned_is_stored_as_it_was(runner: Runner) -> None:
    runner.puts_off = True
    ran(runner, lambda array: array, numpy.arange(MIB, dtype="f8"))
    assert runner.left is not None and all(type(part) is bytes for part in runner.left.parts)
