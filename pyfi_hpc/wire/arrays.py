"""NumPy arrays and scalars as bytes: dtype, shape, then the elements in C order.

    length of dtype (1 byte)   dtype, as `dtype.str`   dimensions (1 byte)   shape (8 bytes each)   elements

NumPy is never imported to encode: a value can only be an array if someone imported it already.
"""

from __future__ import annotations

import math
import re
import struct
import sys
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.wire.ext import ARRAY, SCALAR, Buffer, Refused

KINDS = frozenset("biufcSUMm")
# Source: numpy.dtype.str; the units are those of numpy.datetime64
_UNIT = r"(?:\[\d{0,9}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
_WIDE = rf"[iu][248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|U\d{{1,9}}|[Mm]8{_UNIT}"
_DTYPE = re.compile(rf"\|b1|\|[iu]1|\|S\d{{1,9}}|[<>](?:{_WIDE})", re.ASCII)
_PLAIN_KINDS = "use a dtype of numbers, bool, text, bytes or dates"
_MOST_CHARACTER = 0x10FFFF


def numpy_value(value: object) -> tuple[int, list[Buffer]] | None:
    """The extension code and payload parts of an array or scalar; None when `value` is neither."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "generic"):  # absent, or still being imported
        return None
    if isinstance(value, numpy.generic):
        return SCALAR, _parts(numpy, numpy.asarray(value))
    if not isinstance(value, numpy.ndarray):
        return None
    if type(value) not in (numpy.ndarray, numpy.memmap):
        name = type(value).__qualname__
        raise Refused("E_TYPE", name, f"{name} holds more than an array does", "send numpy.asarray(value)")
    return ARRAY, _parts(numpy, numpy.asarray(value))


def _parts(numpy: Any, array: Any) -> list[Buffer]:
    dtype = array.dtype
    if dtype.kind not in KINDS or not _DTYPE.fullmatch(dtype.str):
        raise Refused("E_DTYPE", str(dtype), f"arrays of dtype {shown(str(dtype))} are not carried", _PLAIN_KINDS)
    name = dtype.str.encode()
    header = struct.pack(f">B{len(name)}sB{array.ndim}Q", len(name), name, array.ndim, *array.shape)
    if not array.size:
        return [header]
    whole = array if array.flags.c_contiguous else array.copy(order="C")
    return [header, whole.reshape(-1).view(numpy.uint8).data]


def _references(make: Callable[[], object]) -> int:
    made = make()
    return sys.getrefcount(made)


#: How many references there are to what a local variable alone has, as its function counts them.
ALONE = _references(object)


def owns_its_elements(value: object) -> bool:
    """Whether `value` is an array that nobody can change but who has a reference to it: its memory is its own, or that
    of an array that only it has; and no weak reference becomes a strong one."""
    array: Any = value
    if type(array) is not getattr(sys.modules.get("numpy"), "ndarray", None) or weakref.getweakrefcount(array):
        return False
    base = array.base
    return bool(array.flags.owndata) or (sys.getrefcount(base) == ALONE + 1 and owns_its_elements(base))


def elements_at(value: Buffer, size: int | None = None) -> int:
    """Where the elements start in an encoded value that is an array of over 255 bytes; 0 for any other value. `value`
    may be its beginning alone, where `size` says how many bytes it has."""
    size = len(value) if size is None else size
    # the extension's header: its length has two bytes or four, and its code follows
    at = {0xC8: 3, 0xC9: 5}.get(value[0], 0) if size > 2**8 else 0
    if not at or value[at] != ARRAY:
        return 0
    name = value[at + 1]
    return at + 3 + name + 8 * value[at + 2 + name]


def array_of(data: Buffer) -> object:
    """A writable array: over `data` itself where that is writable, else of its own memory.

    Raises:
        BadInput: E_DTYPE, E_ARRAY, or E_TYPE where NumPy is not installed.
        struct.error, IndexError: the header is cut short.
    """
    name, shape, elements = _header(data)
    if not _DTYPE.fullmatch(name):
        raise BadInput.of("E_DTYPE", "dtype", name, cure=_PLAIN_KINDS)
    numpy = _numpy()
    try:
        dtype = numpy.dtype(name)
    except (TypeError, ValueError) as error:
        raise BadInput.of("E_DTYPE", "dtype", name, str(error)) from error
    if not dtype.itemsize:
        raise BadInput.of("E_DTYPE", "dtype", name, "elements have at least one byte")
    if math.prod(shape) * dtype.itemsize != len(elements):
        raise BadInput.of("E_ARRAY", "array", f"shape {shape}, dtype {name}, {len(elements)} bytes")
    return _filled(numpy, dtype, shape, elements)


def scalar_of(data: Buffer) -> object:
    """A NumPy scalar; raises as `array_of` does."""
    array: Any = array_of(data)
    if array.ndim:
        raise BadInput.of("E_ARRAY", "scalar", f"shape {array.shape}", "a scalar has no dimensions")
    return array[()]


def _header(data: Buffer) -> tuple[str, tuple[int, ...], Buffer]:
    length = data[0]
    dimensions = data[1 + length]
    start = 2 + length
    shape = struct.unpack_from(f">{dimensions}Q", data, start)
    return str(data[1 : 1 + length], "ascii"), shape, data[start + 8 * dimensions :]


def _filled(numpy: Any, dtype: Any, shape: tuple[int, ...], elements: Buffer) -> Any:
    try:
        array = numpy.ndarray(shape, dtype, buffer=elements)
        if not (array.flags.writeable and array.flags.aligned and array.size):
            array = array.copy()
    except (ValueError, OverflowError, TypeError) as error:
        raise BadInput.of("E_ARRAY", "array", f"shape {shape}, dtype {dtype}", str(error)) from error
    if dtype.kind == "U" and array.size and _code_points(numpy, array).max() > _MOST_CHARACTER:
        raise BadInput.of("E_ARRAY", "array", f"dtype {dtype}", "its text is not Unicode")
    return array


def _code_points(numpy: Any, array: Any) -> Any:
    return array.reshape(-1).view(numpy.dtype("u4").newbyteorder(array.dtype.byteorder))


def _numpy() -> ModuleType | Any:
    try:
        import numpy
    except ImportError as error:
        cure = "add numpy to the processor's requirements"
        raise BadInput.of("E_TYPE", "array", "", "this environment has no NumPy to hold an array", cure=cure) from error
    return numpy
