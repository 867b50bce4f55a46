"""What survives the value codec, what is refused, and how the refusal says where."""

from __future__ import annotations

import enum
import functools
import hashlib
import math
import subprocess
import sys
import uuid
import zlib
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire.limits import FRAME_BYTES, inflate
from pyfi_hpc.wire.values import (
    BlobRef,
    arguments_of,
    blob_in,
    decode,
    decode_arguments,
    encode,
    encode_arguments,
    encode_blob,
)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    pass


class Point(msgspec.Struct, frozen=True):
    x: int
    y: list[int]


@dataclass(frozen=True)
class Fit:
    f: Any


Pair = namedtuple("Pair", "a b")
WHEN = datetime(2024, 10, 27, 2, 30, 1, 999_999)

UNCHANGED: list[Any] = [
    None, True, False, 0, -1, 2**64 - 1, -(2**63), 0.1, -0.0, math.inf, 1 + 2j, "", "ü\x00", b"", b"\xff" * 300,
    [], (), {}, set(), frozenset(), [1, (2, [3, (4,)])], ((),), [[]] * 20, (1,) * 70_000, {(1, ("a", None)): {1, 2}},
    {1: "a", "1": "b", None: 1, 2.5: 2, False: 3}, {frozenset({(1, 2)}), "x", b"y"}, [1.5] * 100 + [(1.0,)] + [1.5],
    [float(n) for n in range(20_000)], [1.0, *range(100), 2.0], {str(n): [n] for n in range(70_000)},
    WHEN, WHEN.replace(tzinfo=UTC), WHEN.replace(tzinfo=timezone(timedelta(hours=-5, microseconds=7))),
    datetime.min, datetime.max, date.min, date.max, time.min, time.max, time(1, tzinfo=timezone(timedelta(hours=9))),
    timedelta.min, timedelta.max, timedelta(microseconds=-1), Decimal("1.10"), Decimal("-Infinity"), Decimal("0E+9"),
    uuid.UUID(int=5), np.float64(0.1), np.int8(-3), np.bool_(True), np.str_("ü"), np.str_(""), np.bytes_(b"x"),
    np.datetime64("2024-01-01", "ns"), np.timedelta64(3, "s"), np.complex64(1j), {np.int64(3): 1},
]  # fmt: skip

BECOMES = [
    (bytearray(b"ab"), b"ab"), (memoryview(b"abcd")[::2], b"ac"), (Path("/a/b"), "/a/b"), (Colour.RED, "red"),
    (Level.HIGH, 3), ({Level.HIGH: [Colour.RED]}, {3: ["red"]}), (Text("t"), "t"), ([Text("t")], ["t"]),
    (Point(1, [2]), {"x": 1, "y": [2]}), (Fit(Fit(())), {"f": {"f": ()}}), (Pair(1, [2]), (1, [2])),
    (OrderedDict(a=(1,)), {"a": (1,)}), (defaultdict(list, a=[1]), {"a": [1]}),
    (WHEN.replace(tzinfo=ZoneInfo("Europe/Zurich")), WHEN.replace(tzinfo=timezone(timedelta(hours=2)))),
]  # fmt: skip

ARRAYS = [
    np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(10)[::-2], np.array(3.0),
    np.zeros((0, 4), ">i2"), np.array([1, 2], ">f8"), np.array(["ab", "ü"]), np.array([b"ab"]), np.array([True, False]),
    np.array(["2024-01-01"], "M8[D]"), np.array([3], "m8[25us]"), np.array([1.5], "f2"), np.array([1j], "c8"),
    np.broadcast_to(np.int32(3), (2, 2)), np.array([1], "g"), np.zeros((1,) * 32, "u1"),
]  # fmt: skip


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def refusal(value: object) -> BadInput:
    with pytest.raises(BadInput) as caught:
        encode_arguments((0, value), {})
    return caught.value


@pytest.mark.parametrize("value", UNCHANGED, ids=lambda value: type(value).__name__)
def test_a_value_survives_at_any_depth(value: object) -> None:
    assert same(decode(encode(value)), value)
    deep = [{"a": (value, [value])}]
    assert same(decode(memoryview(encode(deep))), deep)
    assert same(decode_arguments(encode_arguments((value,), {"k": value})), ((value,), {"k": value}))


@pytest.mark.parametrize(("value", "arrives"), BECOMES, ids=lambda value: type(value).__name__)
def test_a_value_arrives_as_its_plain_form(value: object, arrives: object) -> None:
    assert same(decode(encode(value)), arrives)
    assert same(decode(encode([(value,)])), [(arrives,)])


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_an_array_keeps_dtype_shape_and_elements(array: Any) -> None:
    (args, _) = decode_arguments(encode_arguments(({"a": array},), {}))
    arrived: Any = args[0]["a"]  # type: ignore[index]
    assert (arrived.dtype.str, arrived.shape) == (array.dtype.str, array.shape)
    assert (arrived == array).all() and arrived.flags.writeable and arrived.flags.owndata


def test_nan_sign_and_fold_survive() -> None:
    arrived: Any = decode(encode([math.nan, -0.0, complex(math.nan, -0.0), WHEN.replace(fold=1), time(1, fold=1)]))
    assert math.isnan(arrived[0]) and math.copysign(1, arrived[1]) == -1 and math.copysign(1, arrived[2].imag) == -1
    assert (arrived[3].fold, arrived[4].fold) == (1, 1)


def test_equal_sets_have_equal_bytes_in_every_process() -> None:
    program = "from pyfi_hpc.wire.values import encode; print(encode({'a', 'b', 'c', ('d', 1), None}).hex())"
    seeds = ("1", "2", "3")
    runs = [subprocess.check_output([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}) for seed in seeds]
    assert len(set(runs)) == 1


def test_numpy_is_not_imported_for_plain_values() -> None:
    program = (
        "import sys; from pyfi_hpc.wire.values import decode, encode;"
        "decode(encode([1, (2,), {3}])); sys.exit('numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_array_without_numpy_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['numpy'] = None\n"
        "from pyfi_hpc.wire.values import decode\n"
        f"try: decode({encode(np.arange(3))!r})\n"
        "except Exception as error: print(error)"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert "(E_TYPE)" in said and "add numpy" in said


@pytest.mark.parametrize(
    ("value", "code", "path"),
    [
        (lambda: 0, "E_TYPE", "args[1]"),
        (Fit(print), "E_TYPE", "args[1].f"),
        (Fit([1, {"a b": (object(),)}]), "E_TYPE", "args[1].f[1]['a b'][0]"),
        (Point(1, [2**64]), "E_RANGE", "args[1].y[0]"),
        ([functools.partial(print)], "E_TYPE", "args[1][0]"),
        (range(3), "E_TYPE", "args[1]"),
        (sys.stdin, "E_TYPE", "args[1]"),
        ({"a": -(2**63) - 1}, "E_RANGE", "args[1]['a']"),
        ([1, 10**5000], "E_RANGE", "args[1][1]"),
        (["\udc80"], "E_TYPE", "args[1][0]"),
        ({b"key": 1}, "E_TYPE", "args[1] key"),
        ({(1, b"x"): 1}, "E_TYPE", "args[1] key"),
        ({Colour.RED: 1, "red": 2}, "E_TYPE", "args[1]"),
        ({Fit(1)}, "E_TYPE", "args[1]"),
        ({Colour.RED, "red"}, "E_TYPE", "args[1]"),
        ({1, print}, "E_TYPE", "args[1]{…}"),
        ([np.array([None])], "E_DTYPE", "args[1][0]"),
        (np.zeros(2, "f8,O"), "E_DTYPE", "args[1]"),
        (np.zeros(2, "f8,i4"), "E_DTYPE", "args[1]"),
        (np.zeros(1, "f8,i4")[0], "E_DTYPE", "args[1]"),
        (np.ma.masked_array([1, 2], [True, False]), "E_TYPE", "args[1]"),
        (time(1, tzinfo=ZoneInfo("Europe/Zurich")), "E_TYPE", "args[1]"),
        ([1.0] * 100 + [print, 1.0], "E_TYPE", "args[1][100]"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_refusal_names_code_and_path(value: object, code: str, path: str) -> None:
    error = refusal(value)
    assert (error.code, error.facts["field"]) == (code, path)
    assert error.cure or code == "E_TYPE"


def test_code_is_never_sent_and_the_error_says_what_to_do() -> None:
    assert refusal(lambda x: x).cure == "name a task; code is never sent"
    with pytest.raises(BadInput) as caught:
        encode_arguments((), {"x": print})
    assert caught.value.facts["field"] == "kwargs['x']"
    with pytest.raises(BadInput) as caught:
        encode([print], where="result")
    assert caught.value.facts["field"] == "result[0]"


def nested(depth: int, wrap: Any = lambda inner: [inner]) -> Any:
    return functools.reduce(lambda inner, _: wrap(inner), range(depth), 1)


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}, lambda v: frozenset({v}), Fit])
def test_64_levels_travel_and_65_do_not(wrap: Any) -> None:
    deepest = encode(nested(64, wrap))
    assert encode(decode(deepest)) == deepest
    assert decode_arguments(arguments_of(deepest))[0] == (decode(deepest),)
    assert refusal(nested(65, wrap)).code == "E_LIMIT"


def test_a_value_inside_itself_is_over_the_depth() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert refusal(loop).code == "E_LIMIT"


def test_arguments_are_an_array_of_a_list_and_a_map() -> None:
    assert encode_arguments((3,), {}) == b"\x92\x91\x03\x80" == arguments_of(encode(3))
    assert msgspec.msgpack.decode(encode_arguments((1, [2]), {"k": [None]})) == [[1, [2]], {"k": [None]}]


@pytest.mark.parametrize("value", [None, [], [1, {}], [[], {}, 1], [[], {1: 2}], [{}, []], ([], {})])
def test_other_values_are_no_arguments(value: object) -> None:
    with pytest.raises(BadInput) as caught:
        decode_arguments(encode(value))
    assert caught.value.code == "E_FIELD"


def blobs_of(*contents: bytes) -> dict[BlobRef, bytes]:
    return {BlobRef(hashlib.sha256(content).digest(), len(content)): content for content in contents}


def test_a_claim_check_is_recognised_and_followed() -> None:
    held = blobs_of(encode([1, (2,)]))
    (ref,) = held
    token = encode_blob(*ref)
    assert blob_in(token) == ref and blob_in(encode("x" * 41)) is None and blob_in(b"") is None
    assert decode(token, resolve=held.__getitem__) == [1, (2,)]
    assert decode_arguments(arguments_of(token), resolve=held.__getitem__) == (([1, (2,)],), {})
    assert encode_arguments((ref,), {}) == arguments_of(token)
    with pytest.raises(BadInput, match="E_DECODE"):
        decode(token)


def test_whole_arguments_may_be_a_claim_check_with_others_inside() -> None:
    held = blobs_of(encode("large"))
    held |= blobs_of(arguments_of(encode_blob(*next(iter(held)))))
    token = encode_blob(*list(held)[-1])
    assert decode_arguments(token, resolve=held.__getitem__) == (("large",), {})


def test_a_blob_of_another_size_is_not_delivered() -> None:
    with pytest.raises(BadInput, match="E_DIGEST"):
        decode(encode_blob(bytes(32), 5), resolve=lambda ref: encode(1))


def test_a_claim_check_that_leads_to_itself_ends() -> None:
    token = encode_blob(bytes(32), 43)
    with pytest.raises(BadInput, match="E_LIMIT"):
        decode(token, resolve=lambda ref: token)


def test_inflate_stops_at_the_ratio_the_limit_and_damage() -> None:
    text = bytes(range(256)) * 40
    packed = zlib.compress(text)
    assert inflate(packed) == text
    bomb = zlib.compress(bytes(FRAME_BYTES * 4))
    cases = [
        (bomb, "E_LIMIT"),
        (packed[:-1], "E_DECODE"),
        (packed + b"x", "E_DECODE"),
        (b"no", "E_DECODE"),
        (b"", "E_DECODE"),
    ]
    for data, code in cases:
        with pytest.raises(BadInput, match=code):
            inflate(data)
    with pytest.raises(BadInput, match="ratio 100"):
        inflate(zlib.compress(bytes(100_000)))
    with pytest.raises(BadInput, match="E_LIMIT"):
        inflate(packed, limit=len(text) - 1)
    assert inflate(packed, limit=len(text)) == text
