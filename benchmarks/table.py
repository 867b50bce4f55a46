"""Medians over the rounds, and their ratios to the peer's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TypeAlias

from rich.table import Table

from benchmarks.measures import FIGURES, Figure

#: One round: system -> figure -> value.
Round: TypeAlias = Mapping[str, Mapping[str, float]]


def medians(rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """System -> figure -> the median over the rounds."""
    return {
        system: {figure: median(each[system][figure] for each in rounds) for figure in figures}
        for system, figures in rounds[0].items()
    }


def table(rounds: Sequence[Round], whats: Mapping[str, str], peer: str) -> Table:
    """A row for each system; a figure's ratio to that of `peer` stands beside it, a fraction where less is better."""
    middle = medians(rounds)
    shown = Table(title=f"medians of {len(rounds)} rounds" if len(rounds) > 1 else "one round", title_justify="left")
    shown.add_column("system")
    names = [name for name in FIGURES if name in next(iter(middle.values()))]
    for name in names:
        shown.add_column(FIGURES[name].heading, justify="right")
    for system, figures in middle.items():
        base = middle.get(peer) if system != peer else None
        cells = [_cell(FIGURES[name], figures[name], base[name] if base else None) for name in names]
        shown.add_row(whats[system], *cells)
    return shown


def _cell(figure: Figure, value: float, base: float | None) -> str:
    text = figure.form.format(value)
    if base is None or not value:
        return text
    ratio = value / base
    return f"{text} ({ratio:.3g}×)" if ratio >= 1 or figure.more_is_better else f"{text} (1/{1 / ratio:.3g})"
