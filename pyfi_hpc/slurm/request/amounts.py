"""Amounts as Slurm writes them: memory, GPUs and other generic resources, indexes of an array.

Source: sbatch(1) of Slurm 22.05, `--mem`, `--gpus`, `--gres`, `--array`.
"""

from __future__ import annotations

import re

from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.slurm.request.kinds import Converter, whole, words

#: Less does not start an interpreter and an agent.
LEAST_MIB = 64
#: MaxArraySize is 4,000,001 at most. Source: slurm.conf(5).
MAX_ARRAY_INDEX = 4_000_000
_MIB = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
_TYPE = r"[\w.+-]*[A-Za-z_][\w.+-]*"
_GPUS = re.compile(rf"(?:{_TYPE}:)?[0-9]{{1,9}}")
_GRES = re.compile(rf"(?P<name>[A-Za-z]\w*)(?::(?P<type>{_TYPE}))?(?::(?P<count>[0-9]{{1,12}}[KMGkmg]?))?")
_SPAN = re.compile(r"(?P<low>[0-9]{1,7})(?:-(?P<high>[0-9]{1,7})(?::(?P<step>[0-9]{1,7}))?)?")


def memory(value: str, where: str) -> str:
    """An amount of memory as sbatch takes it, such as `4G`; `0` is all that a node has.

    Raises:
        BadInput: E_RANGE.
    """
    found = re.fullmatch(r"(?P<number>[0-9]{1,9})(?P<unit>[KMGT]?)(?:i?B)?", value, re.IGNORECASE)
    if not found:
        raise BadInput.of("E_RANGE", where, value, "an amount such as 4G is wanted: a whole number of K, M, G or T")
    number, unit = int(found["number"]), found["unit"].upper() or "M"
    if number and mem_mib(f"{number}{unit}") < LEAST_MIB:
        what = f"{number} {unit}iB, as Slurm reads it, cannot start Python"
        raise BadInput.of("E_RANGE", where, value, what, cure=f"{number}G?")
    return f"{number}{unit}" if number else "0"


def mem_mib(amount: str) -> float:
    """MiB of an amount that `memory` gave; 0 for all that there is."""
    return float(amount[:-1]) * _MIB[amount[-1]] if amount != "0" else 0.0


def gpus(most: int) -> Converter:
    """`2`, `h100:2`, or several by type, `h100:2,a100:1`: 1 to `most` of them together."""

    def convert(value: str, where: str) -> str:
        fits = all(_GPUS.fullmatch(part) for part in value.split(","))
        if not fits or not 1 <= gpu_count(value) <= most:
            what = f"a whole number from 1 to {most} is wanted, or with the type, h100:2"
            raise BadInput.of("E_RANGE", where, value, what)
        return value

    return convert


def gpu_count(spec: str) -> int:
    """How many GPUs `h100:2,a100:1` is."""
    return sum(int(part.rpartition(":")[2]) for part in spec.split(","))


def gres(value: str, where: str) -> str:
    """Generic resources of each node: `gpu:2`, `gpu:h100:2`, `shard:3`, several separated by commas.

    Raises:
        BadInput: E_USAGE, E_RANGE.
    """
    for part in words(value, where).split(","):
        found = _GRES.fullmatch(part)
        if not found:
            what = f"{shown(part)!r} is no generic resource"
            raise BadInput.of("E_USAGE", where, value, what, cure="gpu:2, or with the type, gpu:h100:2")
        if found["name"] == "gpu":
            whole(1, 1024)(found["count"] or "1", where)
    return value


def gpus_in_gres(spec: str) -> int:
    """How many GPUs of each node `gpu:h100:2,shard:3` is."""
    found = [_GRES.fullmatch(part) for part in spec.split(",")]
    return sum(int(part["count"] or 1) for part in found if part and part["name"] == "gpu")


def array(value: str, where: str) -> str:
    """Indexes of an array: `0-15`, `0,6,16-32`, `0-15:4`; at most so many at once: `0-15%4`.

    Raises:
        BadInput: E_RANGE.
    """
    indexes, percent, at_once = value.partition("%")
    if percent:
        whole(1, MAX_ARRAY_INDEX)(at_once, where)
    for part in indexes.split(","):
        _check_span(part, value, where)
    return value


def _check_span(part: str, value: str, where: str) -> None:
    found = _SPAN.fullmatch(part)
    high = int(found["high"] or found["low"]) if found else 0
    if not found or int(found["step"] or 1) == 0 or max(int(found["low"]), high) > MAX_ARRAY_INDEX:
        what = f"indexes from 0 to {MAX_ARRAY_INDEX} are wanted, such as 0-15, 1,3,5 or 0-15:4%2"
        raise BadInput.of("E_RANGE", where, value, what)
    if high < int(found["low"]):
        cure = f"{found['high']}-{found['low']}?"
        raise BadInput.of("E_RANGE", where, value, "array runs backwards", cure=cure)


def array_size(spec: str) -> int:
    """How many jobs `0,6,16-32:2%4` makes; an index that is named twice makes one."""
    return len({index for part in spec.partition("%")[0].split(",") for index in _span(part)})


def _span(part: str) -> range:
    found = _SPAN.fullmatch(part)
    assert found is not None, part
    low = int(found["low"])
    return range(low, int(found["high"] or low) + 1, int(found["step"] or 1))
