"""Whatever the bytes are, decoding returns a value or raises BadInput; whatever the value, it comes back equal."""

from __future__ import annotations

import contextlib
import resource
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire.ext import ARRAY, SCALAR, ext_header
from pyfi_hpc.wire.values import arguments_of, decode, decode_arguments, encode

FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=300)

KEYS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
HASHABLE = (
    KEYS
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.timezones().filter(lambda zone: zone.key == "UTC"))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
VALUES = st.recursive(
    HASHABLE | st.frozensets(HASHABLE, max_size=4) | st.sets(HASHABLE, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS | st.tuples(KEYS, KEYS), inner, max_size=4)
    ),
    max_leaves=20,
)


def array_bytes(dtype: str, shape: tuple[int, ...], elements: bytes, code: int = ARRAY) -> bytes:
    name = dtype.encode()
    dimensions = len(shape) % 256
    header = struct.pack(f">B{len(name)}sB{len(shape)}Q", len(name), name, dimensions, *shape)
    return ext_header(code, len(header + elements)) + header + elements


def refusal(data: bytes) -> BadInput:
    with pytest.raises(BadInput) as caught:
        decode(data)
    return caught.value


def survives(data: bytes) -> None:
    """Fails when anything but a value or BadInput comes of `data`."""
    for read in (decode, decode_arguments):
        with contextlib.suppress(BadInput):
            read(data)


@FEW
@given(VALUES)
def test_every_value_comes_back_equal(value: Any) -> None:
    data = encode(value)
    assert decode(data) == value
    assert encode(decode(data)) == data  # types too: they have other bytes
    assert decode_arguments(arguments_of(data)) == ((value,), {})


@MANY
@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_bad_input(data: bytes) -> None:
    survives(data)


@FEW
@given(st.integers(-128, 127), st.binary(max_size=60))
def test_random_extensions_are_a_value_or_bad_input(code: int, payload: bytes) -> None:
    survives(ext_header(code % 256, len(payload)) + payload)


@MANY
@given(VALUES, st.data())
def test_damaged_values_are_a_value_or_bad_input(value: Any, data: st.DataObject) -> None:
    packed = bytearray(encode([value, np.arange(3), np.array(["ab"])]))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(packed))


@FEW
@given(VALUES, st.data())
def test_a_value_cut_short_is_refused(value: Any, data: st.DataObject) -> None:
    packed = encode(value)
    assert refusal(packed[: data.draw(st.integers(0, len(packed) - 1))]).code == "E_DECODE"
    assert refusal(packed + b"\x00").code == "E_DECODE"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "E_DECODE"),
        (b"\xc1", "E_DECODE"),
        (b"\xa2\xff\xfe", "E_DECODE"),
        (b"\xd4\x63\x00", "E_DECODE"),
        (b"\xd4\x0a\x00", "E_DECODE"),
        (b"\xc7\x03\x02\x91\x91\x01", "E_DECODE"),  # a set of lists
        (b"\xd5\x01\x01\x01", "E_DECODE"),  # a tuple with something after it
        (b"\xd4\x01\x01", "E_DECODE"),  # a tuple of no array
        (b"\x81\xd5\x02\x91\x01\x00", "E_DECODE"),  # a set as key
        (b"\xd6\x09sNaN", "unhashable in no container: a value"),
        (b"\x91" * 64 + b"\x90", "E_LIMIT"),
        (b"\x91" * 100_000 + b"\x01", "E_LIMIT"),
        (b"\x81\x01" * 100_000 + b"\x01", "E_LIMIT"),
        (array_bytes("|O", (1,), b"\x00" * 8), "E_DTYPE"),
        (array_bytes("f8,O", (1,), b"\x00" * 16), "E_DTYPE"),
        (array_bytes("<f8,<f8", (1,), b"\x00" * 16), "E_DTYPE"),
        (array_bytes("|V8", (1,), b"\x00" * 8), "E_DTYPE"),
        (array_bytes("<U0", (2**40,), b""), "E_DTYPE"),
        (array_bytes("<f8", (2,), b"\x00" * 15), "E_ARRAY"),
        (array_bytes("<f8", (2**61,), b""), "E_ARRAY"),  # 2**64 bytes: nothing, in 64 bits
        (array_bytes("<f8", (2**64 - 1,), b"\x00" * 8), "E_ARRAY"),  # -1, were it signed
        (array_bytes("<f8", (2**63, 0), b""), "E_ARRAY"),
        (array_bytes("|u1", (1,) * 200, b"\x00"), "E_ARRAY"),
        (array_bytes("<U1", (1,), b"\xff\xff\xff\xff"), "E_ARRAY"),
        (array_bytes("<f8", (1,), b"\x00" * 8, SCALAR), "E_ARRAY"),
        (ext_header(ARRAY, 3) + b"\x03<f", "E_DECODE"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_hostile_bytes_have_their_code(data: bytes, code: str) -> None:
    if not code.startswith("E_"):
        assert decode(data) is not None
        return
    assert refusal(data).code == code
    assert refusal(b"\x92\x01" + data).code == code


def test_a_known_offset_is_told() -> None:
    assert "offset 2 of 3" in str(refusal(b"\x92\x01\xc1"))


@pytest.mark.parametrize("start", ["", "\x80\x02", "\x80\x04"], ids=["protocol 0", "protocol 2", "protocol 4"])
def test_pickles_are_never_loaded(start: str, tmp_path: Path) -> None:
    data = f"{start}cos\nmkdir\n(V{tmp_path / 'loaded'}\ntR.".encode("latin-1")  # would make the folder
    for wrapped in (data, encode(data), arguments_of(data)):
        survives(wrapped)
    assert not list(tmp_path.iterdir())


def test_a_length_of_4_gib_allocates_nothing() -> None:
    program = """
import resource
from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire.values import decode
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for first in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF):
    try: decode(bytes((first,)) + b"\\xff" * 4 + bytes(8))
    except BadInput as error: assert error.code == "E_DECODE", error
    else: raise SystemExit("it was read")
raise SystemExit(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start > 8_192)
"""
    limit = 2 * 2**30
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )


DEEP = """
import sys, threading
sys.setrecursionlimit(10**6)
from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire.values import decode, encode
from pyfi_hpc.wire.ext import ext_header
ext = b"\\x01"
for _ in range(3_000): ext = ext_header(1, len(ext) + 1) + b"\\x91" + ext
hidden = ext_header(1, 6) + b"\\xc0\\xdb\\x00\\x04\\x00\\x00"  # outside the extension, this is no text
bombs = [b"\\x91" * 10**6, b"\\x81\\x01" * 10**6, ext, b"\\x92" + hidden + b"\\x91" * 200_000]
bombs = [bomb + b"\\x01" for bomb in bombs]
def all_refused():
    for bomb in bombs:
        try: decode(bomb)
        except BadInput as error: assert error.code == "E_LIMIT", error
        else: raise AssertionError("it was read")
    value = [{"a": (1.5, {2}, "x" * 300, b"y" * 70_000)}] * 50
    assert decode(encode(value)) == value
    print("done")
thread = threading.Thread(target=all_refused)
thread.start()
thread.join()
"""


def test_deep_bytes_do_not_crash_a_process_that_raised_its_recursion_limit() -> None:
    done = subprocess.run([sys.executable, "-c", DEEP], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-500:]


def test_threads_share_the_codec() -> None:
    value = [{"a": (n, {n}, np.arange(n))} for n in range(50)]
    data = encode(value)
    wrong: list[int] = []

    def repeat() -> None:
        wrong.extend(1 for _ in range(50) if encode(decode(data)) != data)

    threads = [threading.Thread(target=repeat) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
