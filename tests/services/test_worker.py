"""Worker processes as agents start them: what they answer, whatever user code does."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from pyfi_hpc.processes import alive
from pyfi_hpc.wire import blobs, values
from pyfi_hpc.wire.frames import Run, Stop, Taken, Yielded
from pyfi_hpc.wire.ids import id_text
from pyfi_hpc.wire.limits import INLINE_BYTES, OUTPUT_TAIL_BYTES
from pyfi_hpc.worker.yielding import WINDOW_ITEMS
from tests.support import eventually
from tests.support_worker import OUR_FOLDER, SOCKET, Worker, body_of, call, raw_call, started

TASKS = """
import asyncio, contextvars, multiprocessing, os, signal, subprocess, sys, threading, time
import pyfi_hpc

print("printed at import")
loaded = []
loaded.append(1)

class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class OutOfMemoryError(RuntimeError): pass

class Sly:
    def write(self, text): pass
    def flush(self): raise SystemExit("no flush")

def square(x): return x * x
def add(a, *, b=1): return a + b
def nothing(*args): pass
def imports(): return len(loaded)
def fail(text): raise ValueError(text)
def deep():
    def inner(): raise KeyError("inner")
    inner()
def odd(): raise Odd
def surrogate(): raise ValueError("\\udcff")
def leave(status): sys.exit(status)
def no_memory(): raise MemoryError("no")
def no_gpu_memory(): raise OutOfMemoryError("CUDA out of memory")
def unsendable(): return {"a": [object()]}
def too_big_number(): return 2 ** 70
def numbers():
    yield 1
async def later(x):
    await asyncio.sleep(0.001)
    return x + 1
async def many():
    yield 1
def unsendable_item():
    yield lambda: 0
def pauses():
    yield "first"
    yield "second"
    time.sleep(60)
def without_end():
    while True:
        yield 0
def of_size(n): return b"x" * n
def length(data): return len(data)
def say(out, err=""):
    sys.stdout.write(out)
    sys.stderr.write(err)
def say_low(text):
    os.write(1, text.encode())
    subprocess.run(["echo", text], check=True)
def say_in_c(text):
    import ctypes
    ctypes.CDLL(None).printf(text.encode())
def who():
    now = pyfi_hpc.current()
    return [now.id, now.serial, now.task, now.socket]
def cores(): return sorted(os.sched_getaffinity(0))
def sleep(seconds, mark=None):
    if mark: open(mark, "w").close()
    time.sleep(seconds)
    return "slept"
def stubborn(seconds, mark):
    try:
        sleep(seconds, mark)
    except KeyboardInterrupt:
        return "caught"
async def sleep_later(seconds, mark):
    open(mark, "w").close()
    await asyncio.sleep(seconds)
def close_all():
    sys.stdout.close()
    os.closerange(0, 100)
def replace_stdout(): sys.stdout = Sly()
def no_stdout(): sys.stdout = None
def descriptors(): return sorted(int(name) for name in os.listdir("/proc/self/fd"))
def of_child():
    listing = [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"]
    return int(subprocess.run(listing, capture_output=True, check=True, close_fds=False, text=True).stdout)
def die(): os.kill(os.getpid(), signal.SIGKILL)
def exit_hard(): os._exit(7)
def pool(n):
    with multiprocessing.get_context("fork").Pool(2) as workers:
        return workers.map(square, range(n))
def end_children_at_once(n):
    ends = []
    for _ in range(n):
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return sorted(set(ends))
def fork_and_return(mark):
    if os.fork() == 0:
        return "child"
    os.wait()
    return "parent"
def linger():
    threading.Thread(target=lambda: time.sleep(60)).start()
def own_handlers():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
def raise_interrupt(): raise KeyboardInterrupt
def touch(path):
    with open(path, "a") as file: file.write("x")
not_callable = 3
"""

Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    workers: list[Worker] = []

    def begin(source: str = TASKS, **options: object) -> Worker:
        workers.append(started(tmp_path, textwrap.dedent(source), **options))  # type: ignore[arg-type]
        return workers[-1]

    yield begin
    for worker in workers:
        worker.process.kill(worker.process.killed)  # type: ignore[arg-type]  # gone already, for most
        worker.process.reap()
        worker.process.close()


@pytest.fixture
def worker(start: Start) -> Worker:
    ready = start()
    assert ready.hello().error is None
    return ready


def test_hello_tells_the_process_and_its_python(start: Start) -> None:
    worker = start()

    hello = worker.hello()

    assert (hello.pid, hello.error) == (worker.pid, None)
    assert hello.python == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    ("source", "kind", "says"),
    [
        ("import no_such_module", "builtins.ModuleNotFoundError", "no_such_module"),
        ("def broken(:", "builtins.SyntaxError", "broken"),
        ("raise SystemExit(3)", "builtins.SystemExit", "3"),
        ("raise KeyboardInterrupt", "builtins.KeyboardInterrupt", ""),
        ("import os; os.write(1, bytes(range(256))); 1/0", "builtins.ZeroDivisionError", "\\xff"),
        ("class E(BaseException):\n  def __str__(self): 1/0\nraise E", "user_tasks.E", "cannot be shown"),
        ("raise ValueError('\\udcff' * 9)", "builtins.ValueError", "udcff"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_hello(start: Start, source: str, kind: str, says: str) -> None:
    error = start(source).hello().error

    assert error is not None
    assert (error.code, error.type, error.cause) == ("E_IMPORT", kind, "environment")
    assert says in error.message + error.traceback
    assert "importlib" not in error.traceback


def test_a_worker_that_cannot_have_its_cores_says_so(start: Start) -> None:
    error = start(cores=[1023]).hello().error

    assert error is not None and "Invalid argument" in error.message


def test_a_worker_runs_on_the_cores_it_was_given(start: Start) -> None:
    core = max(os.sched_getaffinity(0))
    worker = start(cores=[core])
    worker.hello()

    assert worker.value("cores") == [core]


def test_calls_give_values_in_the_order_of_their_message(worker: Worker) -> None:
    items = worker.run("square", *(call(number) for number in range(100)))

    assert [item.index for item in items] == list(range(100))
    assert [values.decode(item.value or b"") for item in items] == [number**2 for number in range(100)]
    assert all(0 < item.started <= item.ended for item in items)
    assert worker.value("add", 1, b=5) == 6
    assert worker.value("later", 1) == 2
    assert worker.value("imports") == 1


def test_only_the_members_asked_for_run(worker: Worker, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "abc"]
    token = worker.give("touch", *map(call, paths), indexes=(2, 0))

    assert [item.index for item in worker.items(token, 2)] == [2, 0]
    assert [Path(path).exists() for path in paths] == [True, False, True]


def test_an_exception_comes_with_its_type_message_and_own_frames(worker: Worker) -> None:
    error = worker.error("deep")

    assert (error.type, error.message, error.code, error.cause) == (
        "builtins.KeyError", "'inner'", "E_REMOTE", "user_error",
    )  # fmt: skip
    assert "in inner" in error.traceback and "in deep" in error.traceback
    assert str(OUR_FOLDER / "pyfi_hpc") not in error.traceback


@pytest.mark.parametrize(
    ("task", "args", "kind", "cause"),
    [
        ("fail", ("x" * 200_000,), "builtins.ValueError", "user_error"),
        ("odd", (), "user_tasks.Odd", "user_error"),
        ("surrogate", (), "builtins.ValueError", "user_error"),
        ("leave", (0,), "builtins.SystemExit", "user_error"),
        ("no_memory", (), "builtins.MemoryError", "host_oom"),
        ("no_gpu_memory", (), "user_tasks.OutOfMemoryError", "gpu_oom"),
        ("square", (1, 2, 3), "builtins.TypeError", "user_error"),
        ("raise_interrupt", (), "builtins.KeyboardInterrupt", "user_error"),
    ],
)
def test_whatever_a_task_raises_is_recorded(
    worker: Worker, task: str, args: tuple[object, ...], kind: str, cause: str
) -> None:
    error = worker.error(task, *args)

    assert (error.type, error.cause, error.code) == (kind, cause, "E_REMOTE")
    assert len(error.traceback) <= 65_536 and len(error.message) <= 65_536
    assert worker.value("square", 3) == 9


def yielded(worker: Worker) -> Yielded:
    frame = worker.hear()
    assert isinstance(frame, Yielded), frame
    return frame


@pytest.mark.parametrize(("task", "count"), [("numbers", 1), ("many", 1)])
def test_a_generator_tells_each_item_and_then_how_many(worker: Worker, task: str, count: int) -> None:
    token = worker.give(task, call())

    values_told: list[bytes] = []
    while len(values_told) < count:
        frame = yielded(worker)
        assert (frame.token, frame.index, frame.first) == (token, 0, len(values_told))
        values_told += frame.values
    (item,) = worker.items(token, 1)

    assert item.yielded == count
    assert values.decode(item.value or b"") == values.Items(count)
    assert worker.value("square", 3) == 9


def test_an_item_does_not_wait_for_the_next_one(worker: Worker) -> None:
    worker.give("pauses", call())

    told: list[object] = []
    while len(told) < 2:
        told += [values.decode(value) for value in yielded(worker).values]

    assert told == ["first", "second"]


def test_a_generator_is_never_far_ahead_of_what_is_taken(worker: Worker) -> None:
    token = worker.give("without_end", call())
    came = 0
    while came < WINDOW_ITEMS:
        came += len(yielded(worker).values)

    assert came == WINDOW_ITEMS
    assert not select.select([worker.process.socket], [], [], 0.2)[0]
    worker.process.send(Taken(token, 0, 100))
    while came < WINDOW_ITEMS + 100:
        came += len(yielded(worker).values)
    assert came == WINDOW_ITEMS + 100


@pytest.mark.parametrize(
    ("task", "code", "says"),
    [
        ("unsendable", "E_TYPE", "result['a'][0]"),
        ("too_big_number", "E_RANGE", "result"),
        ("unsendable_item", "E_TYPE", "item[0]"),
        ("no_such", "E_TASK_NOT_FOUND", "no_such"),
        ("not_callable", "E_TASK_NOT_FOUND", "not_callable"),
        ("__import__", "E_TASK_NOT_FOUND", "__import__"),
    ],
)
def test_what_no_retry_can_mend_is_refused(worker: Worker, task: str, code: str, says: str) -> None:
    error = worker.error(task)

    assert (error.code, error.cause) == (code, "refused")
    assert says in error.message


def test_arguments_that_are_no_arguments_are_refused(worker: Worker) -> None:
    items = worker.run("square", raw_call(b"\xc1"), raw_call(b""), raw_call(values.encode(3)), call(2))

    assert [item.error and item.error.cause for item in items] == ["refused", "refused", "refused", None]


def test_a_message_that_cannot_be_read_still_gives_every_member_an_item(worker: Worker) -> None:
    worker.process.send(Run(1, "square", b"\xc1", (0, 1)))
    assert [item.error and item.error.code for item in worker.items(1, 2)] == ["E_DECODE", "E_DECODE"]

    worker.process.send(Run(2, "square", body_of([call(3)]), (0, 5)))
    good, beyond = worker.items(2, 2)
    assert good.value is not None
    assert beyond.error is not None and beyond.error.code == "E_INTERNAL"


def test_a_call_whose_deadline_has_passed_does_not_start(worker: Worker, tmp_path: Path) -> None:
    late = replace(call(str(tmp_path / "late")), deadline=time.time() - 1)
    early = replace(call(str(tmp_path / "early")), deadline=time.time() + 60)

    items = worker.run("touch", late, early)

    error = items[0].error
    assert error is not None and (error.code, error.type, error.cause) == (
        "E_TIMEOUT", "builtins.TimeoutError", "refused",
    )  # fmt: skip
    assert [(tmp_path / name).exists() for name in ("late", "early")] == [False, True]


def test_a_task_can_ask_who_it_is(worker: Worker) -> None:
    asked = replace(call(), serial=4)
    (item,) = worker.run("who", asked)

    assert values.decode(item.value or b"") == [id_text(asked.id), 4, "who", id_text(SOCKET)]


# large values


def test_a_large_result_becomes_a_blob_and_a_blob_an_argument(worker: Worker, tmp_path: Path) -> None:
    item = worker.one("of_size", INLINE_BYTES)

    reference = values.blob_in(item.value or b"")
    assert reference is not None
    assert values.decode(blobs.get(tmp_path / "blobs", reference)) == b"x" * INLINE_BYTES
    (again,) = worker.run("length", raw_call(values.arguments_of(item.value or b"")))
    assert values.decode(again.value or b"") == INLINE_BYTES


def test_a_blob_with_another_content_never_reaches_the_task(worker: Worker, tmp_path: Path) -> None:
    reference = blobs.put(tmp_path / "blobs", values.encode(b"y" * 100))
    asked = raw_call(values.arguments_of(values.encode_blob(*reference)))
    file = blobs.path_of(tmp_path / "blobs", reference.digest)
    file.write_bytes(file.read_bytes().replace(b"y", b"z"))

    (damaged,) = worker.run("length", asked)
    file.unlink()
    (missing,) = worker.run("length", asked)

    assert damaged.error is not None and (damaged.error.code, damaged.error.cause) == ("E_DIGEST", "refused")
    assert missing.error is not None and (missing.error.code, missing.error.cause) == ("E_NOT_FOUND", "environment")


def test_large_results_of_many_calls_are_all_stored_and_each_is_its_own(worker: Worker, tmp_path: Path) -> None:
    sizes = [INLINE_BYTES + number for number in range(12)]

    items = worker.run("of_size", *map(call, sizes), call(1))

    # those that are stored first are told first
    told = {item.index: item.value or b"" for item in items}
    found = [values.blob_in(told[index]) for index in range(12)]
    contents = [values.decode(blobs.get(tmp_path / "blobs", each)) for each in found if each is not None]
    assert contents == [b"x" * size for size in sizes]
    assert values.decode(told[12]) == b"x"


def test_a_worker_that_is_told_to_stop_stores_what_it_has(worker: Worker) -> None:
    token = worker.give("of_size", call(INLINE_BYTES), call(INLINE_BYTES + 1), call(INLINE_BYTES + 2))
    worker.process.send(Stop())

    assert all(item.value is not None for item in worker.items(token, 3))
    eventually(lambda: not alive(worker.pid), timeout=60)


def test_a_result_over_the_quota_is_refused_and_not_stored(start: Start, tmp_path: Path) -> None:
    worker = start(max_value_bytes=INLINE_BYTES + 100)
    worker.hello()

    error = worker.error("of_size", INLINE_BYTES + 200)

    assert (error.code, error.cause) == ("E_LIMIT", "refused")
    assert not (tmp_path / "blobs").exists()
    assert worker.one("of_size", INLINE_BYTES).value is not None


def test_results_that_together_take_more_than_all_may_are_no_fault_of_their_calls(start: Start) -> None:
    worker = start(blob_quota_bytes=2 * INLINE_BYTES + 100_000)
    worker.hello()

    items = worker.run("of_size", *[call(INLINE_BYTES + number) for number in range(3)])

    (error,) = [item.error for item in items if item.error is not None]
    assert (error.code, error.cause) == ("E_STORAGE_FULL", "environment")


def test_a_result_that_is_larger_than_all_room_for_blobs_is_never_tried_again(start: Start) -> None:
    worker = start(blob_quota_bytes=INLINE_BYTES + 100)
    worker.hello()

    error = worker.error("of_size", INLINE_BYTES + 200)

    assert (error.code, error.cause) == ("E_LIMIT", "refused")
    assert "paths.blobs_gib" in error.message and f"room for {INLINE_BYTES + 100}" in error.message
    assert worker.one("of_size", INLINE_BYTES).value is not None


def test_a_result_that_cannot_be_stored_is_no_fault_of_the_call(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("no folder")

    error = worker.error("of_size", INLINE_BYTES)

    assert error.cause == "environment"
    (tmp_path / "blobs").unlink()
    assert worker.one("of_size", INLINE_BYTES).value is not None


# output


def test_each_call_has_its_own_output(worker: Worker) -> None:
    items = worker.run("say", call("one", "uno"), call("two"), call(""))

    assert [(item.out, item.err) for item in items] == [(b"one", b"uno"), (b"two", b""), (b"", b"")]


def test_output_of_child_processes_and_c_code_counts(worker: Worker) -> None:
    assert worker.one("say_low", "x").out == b"xx\n"
    assert worker.one("say_in_c", "from C").out == b"from C"


def test_only_the_tail_of_much_output_is_kept(worker: Worker) -> None:
    item = worker.one("say", "a" * OUTPUT_TAIL_BYTES + "b" * 10)

    assert item.out == b"a" * (OUTPUT_TAIL_BYTES - 10) + b"b" * 10
    assert worker.one("say", "next").out == b"next"


@pytest.mark.parametrize("task", ["close_all", "replace_stdout", "no_stdout"])
def test_a_task_may_spoil_its_standard_streams(worker: Worker, task: str) -> None:
    assert worker.one(task).error is None

    assert worker.value("square", 3) == 9
    assert worker.one("say_low", "still").out == b"stillstill\n"
    if task != "replace_stdout":
        assert worker.one("say", "printed").out == b"printed"


# descriptors, forks and signals


def test_no_descriptor_of_ours_is_low_or_inherited(worker: Worker) -> None:
    held = worker.value("descriptors")

    assert isinstance(held, list)
    # the fourth is the listing's own or the memory's; none of them is the socket
    assert len([number for number in held if 3 <= number < 100]) <= 2
    # stdin, stdout, stderr and the listing's own
    assert worker.value("of_child") == 4


def test_a_task_may_use_a_pool_of_forked_processes(worker: Worker) -> None:
    assert worker.value("pool", 5) == [0, 1, 4, 9, 16]


def test_a_forked_child_ends_by_a_signal_that_comes_at_its_birth(worker: Worker) -> None:
    assert worker.value("end_children_at_once", 50) == [-signal.SIGTERM]


def test_a_forked_child_that_returns_from_the_task_answers_nothing(worker: Worker, tmp_path: Path) -> None:
    items = worker.run("fork_and_return", call(str(tmp_path)), call(str(tmp_path)))

    assert [values.decode(item.value or b"") for item in items] == ["parent", "parent"]
    assert worker.value("square", 4) == 16


@pytest.mark.parametrize("task", ["sleep", "sleep_later"])
def test_an_interrupt_ends_the_running_call_alone(worker: Worker, tmp_path: Path, task: str) -> None:
    mark = tmp_path / "running"
    token = worker.give(task, call(60, str(mark)), call(0.01, str(tmp_path / "second")))
    eventually(mark.exists)

    worker.process.interrupt()

    first, second = worker.items(token, 2)
    assert first.error is not None and (first.error.code, first.error.cause) == ("E_CANCELLED", "refused")
    assert second.error is None


def test_a_call_that_survives_its_interrupt_keeps_its_value(worker: Worker, tmp_path: Path) -> None:
    mark = tmp_path / "running"
    token = worker.give("stubborn", call(60, str(mark)))
    eventually(mark.exists)

    worker.process.interrupt()

    assert values.decode(worker.items(token, 1)[0].value or b"") == "caught"


def test_interrupts_between_calls_do_no_harm(worker: Worker) -> None:
    worker.one("own_handlers")
    worker.process.interrupt()
    calls = [call(number) for number in range(300)]
    given = 0
    for _ in range(20):
        token = worker.give("square", *calls)
        for _ in range(5):
            worker.process.interrupt()
        items = worker.items(token, len(calls))
        given += len(items)
        assert [item.index for item in items] == list(range(300))
        assert {item.error.code for item in items if item.error} <= {"E_CANCELLED"}
    worker.process.interrupt()

    assert given == 6000
    assert worker.value("square", 5) == 25


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_what_slurm_sends_to_every_process_is_left_to_the_agent(
    worker: Worker, tmp_path: Path, number: signal.Signals
) -> None:
    mark = tmp_path / "running"
    token = worker.give("sleep", call(0.3, str(mark)))
    eventually(mark.exists)

    os.kill(worker.pid, number)

    assert values.decode(worker.items(token, 1)[0].value or b"") == "slept"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_what_slurm_sends_while_a_worker_starts_waits_for_it(start: Start, number: signal.Signals) -> None:
    worker = start()
    os.kill(worker.pid, number)

    assert worker.hello().error is None


# progress and the end


def test_the_agent_sees_which_member_runs_and_that_none_does(worker: Worker, tmp_path: Path) -> None:
    mark = tmp_path / "running"
    token = worker.give("sleep", call(0.0), call(0.2, str(mark)))
    eventually(mark.exists)

    assert worker.process.progress.read()[:2] == (token, 1)
    assert abs(time.monotonic() - worker.process.progress.read()[2]) < 10
    assert worker.process.progress.read()[3] == 1
    worker.items(token, 2)
    eventually(lambda: worker.process.progress.read()[1] == -1)
    assert worker.process.progress.read()[3] == 2


def test_a_finished_call_does_not_wait_for_a_slow_one_that_follows(worker: Worker, tmp_path: Path) -> None:
    worker.one("sleep", 0.01)
    token = worker.give("sleep", call(0.0), call(60.0))

    assert [item.index for item in worker.items(token, 1)] == [0]


def test_a_call_that_took_a_while_is_told_before_the_next(worker: Worker) -> None:
    token = worker.give("sleep", call(0.005), call(60.0))

    assert [item.index for item in worker.items(token, 1)] == [0]


def test_quick_calls_of_a_long_message_are_told_before_its_end(worker: Worker) -> None:
    token = worker.give("sleep", *[call(0.0001)] * 100, call(60.0))

    assert worker.items(token, 1)[0].index == 0


@pytest.mark.parametrize(("task", "status"), [("die", -9), ("exit_hard", 7)])
def test_a_worker_that_dies_ends_its_stream_after_what_it_had_finished(worker: Worker, task: str, status: int) -> None:
    worker.value("square", 2)
    worker.give(task, call())

    assert worker.hear() is None
    assert worker.process.progress.read()[:2] == (2, 0)
    assert worker.process.reap() == status


def test_stop_comes_after_what_was_handed_over(worker: Worker) -> None:
    token = worker.give("square", *map(call, range(10)))
    worker.process.send(Stop())

    assert len(worker.items(token, 10)) == 10
    assert worker.hear() is None
    eventually(lambda: not alive(worker.pid))
    assert worker.process.reap() == 0


def test_the_stream_ends_though_a_thread_of_the_task_lives_on(worker: Worker) -> None:
    worker.one("linger")
    worker.process.send(Stop())

    assert worker.hear(5) is None


def test_a_worker_without_its_agent_is_gone(worker: Worker) -> None:
    worker.process.socket.shutdown(2)

    eventually(lambda: not alive(worker.pid))


def test_a_worker_dies_with_its_agent_also_while_it_runs_a_call(tmp_path: Path) -> None:
    mark = tmp_path / "running"
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path), str(mark)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(OUR_FOLDER)},
        text=True,
    )
    assert agent.stdout is not None
    worker = int(agent.stdout.readline())
    eventually(mark.exists)

    agent.kill()

    agent.wait()
    agent.stdout.close()
    eventually(lambda: not alive(worker))


AGENT = """
import sys, time
from pathlib import Path
from tests.support_worker import call, started
worker = started(Path(sys.argv[1]), "import time\\ndef wait(mark):\\n  open(mark, 'w')\\n  time.sleep(60)\\n")
worker.hello()
worker.give("wait", call(sys.argv[2]))
print(worker.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_whose_agent_went_before_it_looked_ends_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyfi_hpc.worker", "--fd", "0", "--progress-fd", "0", "--parent", "1"]
    rest = ["--module", "user_tasks", "--blobs", str(tmp_path)]
    ended = subprocess.run(
        [*command, *rest], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(OUR_FOLDER)}
    )

    assert (ended.returncode, ended.stderr.strip()) == (1, "the agent is gone")
