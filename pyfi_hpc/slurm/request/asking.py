"""What was asked for in several places, as one request: later places win, and what is asked for keeps its origin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.slurm.request.options import Given, by_flag

#: Fields of which sbatch takes one.
_RIVALS = ({"mem", "mem_per_cpu"},)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, whose workers it brings (None: nobody said), and where each of its values comes from.

    `origins` names fields, and the further options by their words.
    """

    request: ResourceRequest = field(default_factory=ResourceRequest)
    processor: str | None = None
    origins: dict[str, str] = field(default_factory=dict)


def settled(places: Sequence[Iterable[Given]], setup: str = "") -> Asked:
    """What `places` come to; the last one wins.

    Raises:
        BadInput: E_ARGUMENT, one place asks for two things of which Slurm takes one.
    """
    found: dict[str, Given] = {}
    extra: dict[str, Given] = {}
    for place in places:
        here: dict[str, Given] = {}
        for given in place:
            if given.field == "extra":
                extra[given.value.partition("=")[0]] = given
            else:
                here[given.field] = given
        for rivals in _RIVALS:
            _let_win(here, found, rivals)
        found |= here
    values: dict[str, Any] = {name: given.value for name, given in found.items()}
    processor = values.pop("processor", None)
    words = tuple(given.value for given in extra.values())
    origins = {name: given.origin for name, given in found.items()}
    origins |= {given.value: given.origin for given in extra.values()}
    return Asked(ResourceRequest(**values, extra=words, setup=setup), processor, origins)


def _let_win(here: dict[str, Given], found: dict[str, Given], rivals: set[str]) -> None:
    """What is asked for here drives out a rival of an earlier place."""
    both = sorted(here.keys() & rivals)
    if len(both) > 1:
        flags = {option.field: option.long for option in by_flag().values()}
        names = " and ".join(flags[name] for name in both)
        raise BadInput("E_ARGUMENT", f"{names} cannot both hold", at=here[both[1]].origin, cure="leave one out")
    if both:
        for name in rivals:
            found.pop(name, None)
