"""Values to bytes: msgpack where it keeps the type, our extensions where it does not.

Flat lists and maps of plain leaves go to msgspec whole; all else is written part by part and joined once.
"""

from __future__ import annotations

import enum
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.wire.arrays import numpy_value
from pyfi_hpc.wire.decoding import decode
from pyfi_hpc.wire.ext import (
    FROZENSET,
    PACK,
    SCALAR,
    SET,
    TUPLE,
    Buffer,
    Refused,
    array_header,
    ext_header,
    map_header,
)
from pyfi_hpc.wire.limits import DEPTH

LEAVES = frozenset({type(None), bool, int, float, str, bytes})
KEYS = LEAVES - {bytes}
_TEXT = frozenset({str})
_MANY = 64
_FLOAT_BYTES, _FLOAT_CODE = 9, 0xCB
_LEAF_ERRORS = (OverflowError, UnicodeEncodeError, ValueError)

_msgpack: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode


def encode(value: object, *, where: str = "value") -> bytes:
    """One msgpack value; `where` is what an error calls it.

    Raises:
        BadInput: E_TYPE, E_RANGE, E_DTYPE or E_LIMIT, with the path to the value.
    """
    try:
        return _packed(value, 0)
    except Refused as refused:
        raise refused.at(where) from None


def encode_parts(value: object, *, where: str = "value") -> list[Buffer]:
    """The bytes of `encode(value)` piece by piece, the elements of an array where they lie; raises as `encode` does."""
    out: list[Buffer] = []
    try:
        _emit(value, out, 0)
    except Refused as refused:
        raise refused.at(where) from None
    return out


def encode_arguments(args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
    """`[[positional…], {keyword…}]`; raises as `encode` does, with paths such as `args[1].f` and `kwargs['x']`."""
    parts = argument_parts(args, kwargs)
    return parts[0] if type(parts[0]) is bytes and len(parts) == 1 else b"".join(parts)


def argument_parts(args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[Buffer]:
    """The bytes of `encode_arguments` piece by piece, the elements of arrays where they lie; raises as that does."""
    if LEAVES.issuperset(map(type, args)) and (not kwargs or _is_flat(kwargs)):
        try:
            return [_msgpack((args, kwargs))]
        except _LEAF_ERRORS:
            pass  # said again below, with its path
    out: list[Buffer] = [b"\x92", array_header(len(args))]
    try:
        _items(args, out, 0)
    except Refused as refused:
        raise refused.at("args") from None
    try:
        if not all(isinstance(name, str) for name in kwargs):
            raise Refused("E_TYPE", "a key", "keyword arguments have names")
        _pairs(kwargs, out, 0)
    except Refused as refused:
        raise refused.at("kwargs") from None
    return out


def _is_flat(kwargs: Mapping[str, object]) -> bool:
    return _TEXT.issuperset(map(type, kwargs)) and LEAVES.issuperset(map(type, kwargs.values()))


def _packed(value: object, depth: int) -> bytes:
    if type(value) in LEAVES:
        return _leaf(value)
    out: list[Buffer] = []
    _emit(value, out, depth)
    return b"".join(out)


def _emit(value: object, out: list[Buffer], depth: int) -> int:
    """Append the bytes of `value`, which stands inside `depth` containers; return how many they are."""
    kind = type(value)
    if kind in LEAVES:
        return _append(out, _leaf(value))
    if write := _WRITERS.get(kind):
        return write(value, out, depth)
    if exact := PACK.get(kind):
        code, pack = exact
        payload = pack(value)
        return _append(out, ext_header(code, len(payload)) + payload)
    return _other(value, out, depth)


def _append(out: list[Buffer], data: Buffer) -> int:
    out.append(data)
    return len(data)


def _leaf(value: object) -> bytes:
    try:
        return _msgpack(value)
    except UnicodeEncodeError as error:
        cure = "send bytes, or text without surrogates"
        raise Refused("E_TYPE", shown(value), "the text is not Unicode", cure) from error
    except OverflowError as error:
        cure = "send it as text, or as a float"
        bits = value.bit_length() if isinstance(value, int) else 0
        what = "integers go from -2**63 to 2**64 - 1"
        raise Refused("E_RANGE", f"an integer of {bits} bits", what, cure) from error
    except ValueError as error:
        raise Refused("E_LIMIT", type(value).__qualname__, str(error)) from error


def _whole(value: object) -> bytes | None:
    """A flat container in one go; None when a leaf in it cannot be sent (the caller then finds which)."""
    try:
        return _msgpack(value)
    except _LEAF_ERRORS:
        return None


def _flat(values: list[object] | tuple[object, ...]) -> bytes | None:
    """The msgpack array of `values` when all are leaves, else None."""
    if len(values) > _MANY and type(values[0]) is float and type(values[-1]) is float:
        return _floats(values)
    return _whole(values) if LEAVES.issuperset(map(type, values)) else None


def _floats(values: list[object] | tuple[object, ...]) -> bytes | None:
    """As `_flat`, five times as fast for floats: the bytes themselves show that nothing else was there."""
    try:
        data = _msgpack(values)
    except (TypeError, *_LEAF_ERRORS):
        return None
    start = len(array_header(len(values)))
    only_floats = data[start::_FLOAT_BYTES].count(_FLOAT_CODE) == len(values)
    if only_floats and len(data) == start + _FLOAT_BYTES * len(values):
        return data
    return data if LEAVES.issuperset(map(type, values)) else None


def _deeper(depth: int) -> int:
    if depth >= DEPTH:
        raise Refused("E_LIMIT", "…", f"nested over {DEPTH} deep, or inside itself", "send a flatter value")
    return depth + 1


def _list(value: list[object], out: list[Buffer], depth: int) -> int:
    depth = _deeper(depth)
    if (data := _flat(value)) is not None:
        return _append(out, data)
    items = tuple(value)
    return _append(out, array_header(len(items))) + _items(items, out, depth)


def _tuple(value: tuple[object, ...], out: list[Buffer], depth: int) -> int:
    depth = _deeper(depth)
    if (data := _flat(value)) is not None:
        return _append(out, ext_header(TUPLE, len(data)) + data)
    slot = len(out)
    out.append(b"")
    size = _append(out, array_header(len(value))) + _items(value, out, depth)
    out[slot] = header = ext_header(TUPLE, size)
    return len(header) + size


def _items(values: tuple[object, ...], out: list[Buffer], depth: int) -> int:
    size = 0
    for index, item in enumerate(values):
        try:
            size += _emit(item, out, depth)
        except Refused as refused:
            raise refused.inside(f"[{index}]") from None
    return size


def _set(value: Iterable[object], out: list[Buffer], depth: int, code: int = SET) -> int:
    """Members in the order of their bytes: equal sets have equal bytes, whatever the process."""
    depth, members = _deeper(depth), tuple(value)
    try:
        packed = sorted([_packed(member, depth) for member in members])
    except Refused as refused:
        raise refused.inside("{…}") from None
    data = array_header(len(packed)) + b"".join(packed)
    data = ext_header(code, len(data)) + data
    if not LEAVES.issuperset(map(type, members)):
        _check_distinct(data, len(members), "a set's members")
    return _append(out, data)


def _frozenset(value: Iterable[object], out: list[Buffer], depth: int) -> int:
    return _set(value, out, depth, FROZENSET)


def _check_distinct(data: bytes, count: int, what: str) -> None:
    """Refuse members or keys that arrive unhashable or equal, such as dataclasses and an Enum beside its value."""
    try:
        arrived: Any = decode(data)
    except BadInput as error:
        raise Refused("E_TYPE", what, f"{what} must stay hashable when they travel", "send a list") from error
    if len(arrived) != count:
        raise Refused("E_TYPE", what, f"{what} must stay distinct when they travel", "send a list")


def _dict(value: Mapping[Any, object], out: list[Buffer], depth: int) -> int:
    depth = _deeper(depth)
    flat = KEYS.issuperset(map(type, value)) and LEAVES.issuperset(map(type, value.values()))
    if flat and (data := _whole(value)) is not None:
        return _append(out, data)
    return _pairs(value, out, depth)


def _pairs(value: Mapping[Any, object], out: list[Buffer], depth: int) -> int:
    pairs = list(value.items())
    size = _append(out, map_header(len(pairs)))
    keys = [_key(key, depth) for key, _ in pairs]
    for key, (name, item) in zip(keys, pairs, strict=True):
        out.append(key)
        try:
            size += len(key) + _emit(item, out, depth)
        except Refused as refused:
            raise refused.inside(f"[{shown(repr(name))}]") from None
    if not KEYS.issuperset(map(type, value)):
        _check_distinct(map_header(len(keys)) + b"".join(key + b"\xc0" for key in keys), len(keys), "a map's keys")
    return size


def _key(key: object, depth: int) -> bytes:
    if type(key) in KEYS:
        return _leaf(key)
    if isinstance(key, enum.Enum):
        return _key(key.value, depth)
    if isinstance(key, tuple):
        data = array_header(len(key)) + b"".join([_key(part, _deeper(depth)) for part in key])
        return ext_header(TUPLE, len(data)) + data
    found = numpy_value(key)
    if isinstance(key, str | int | float) or (found and found[0] == SCALAR):
        return _packed(key, depth)
    cure = "use text, numbers, bool, None or tuples of these as keys"
    raise Refused("E_TYPE", type(key).__qualname__, "this cannot be a key", cure).inside(" key")


def _bytes(value: bytes | bytearray | memoryview, out: list[Buffer], depth: int) -> int:
    return _append(out, _leaf(bytes(memoryview(value))))


_WRITERS: Mapping[type, Callable[[Any, list[Buffer], int], int]] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
    bytearray: _bytes,
    memoryview: _bytes,
}

#: Base type -> what a value of a subclass becomes. The order matters: the first that fits.
_BASES: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, memoryview),
    (bytearray, memoryview),
    (dict, lambda value: dict(value.items())),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (list, lambda value: list(list.__iter__(value))),
    (set, set),
    (frozenset, frozenset),
    (UUID, lambda value: UUID(bytes=value.bytes)),
    (pathlib.PurePath, str),
)


def _other(value: object, out: list[Buffer], depth: int) -> int:
    """Values known by what they derive from; each is turned into one of an exact type."""
    if isinstance(value, enum.Enum):
        return _emit(value.value, out, depth)
    if found := numpy_value(value):
        code, parts = found
        return sum([_append(out, part) for part in (ext_header(code, sum(map(len, parts))), *parts)])
    if type(value) not in PACK:
        for base, plain in _BASES:
            if isinstance(value, base):
                return _emit(plain(value), out, depth)
    if (names := _field_names(value)) is not None:
        return _fields(value, names, out, depth)
    raise _unsendable(value)


def _field_names(value: object) -> list[str] | None:
    """The fields of a dataclass or msgspec struct; None for anything else."""
    if isinstance(value, msgspec.Struct):
        return list(value.__struct_fields__)
    if hasattr(type(value), "__dataclass_fields__"):
        import dataclasses  # loaded by whoever made it one

        return [field.name for field in dataclasses.fields(value)]  # type: ignore[arg-type]
    return None


def _fields(value: object, names: list[str], out: list[Buffer], depth: int) -> int:
    depth = _deeper(depth)
    size = _append(out, map_header(len(names)))
    for name in names:
        try:
            size += _append(out, _leaf(name)) + _emit(getattr(value, name), out, depth)
        except AttributeError:
            raise Refused("E_TYPE", type(value).__qualname__, "the field is not set").inside(f".{name}") from None
        except Refused as refused:
            raise refused.inside(f".{name}") from None
    return size


def _unsendable(value: object) -> Refused:
    name = type(value).__qualname__
    if callable(value):
        return Refused("E_TYPE", name, f"a {name} cannot be sent", "name a task; code is never sent")
    if hasattr(type(value), "__array__"):
        return Refused("E_TYPE", name, f"a {name} cannot be sent", "send numpy.asarray(value)")
    return Refused("E_TYPE", name, f"a {name} cannot be sent", "send plain data: numbers, text, lists, dicts, arrays")
