"""Medians over the rounds, what they spread over, and ours beside each peer's: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import TypeAlias

from rich.table import Table

from benchmarks.measures import Figure, described

#: One round: measure -> system -> figure -> value.
Round: TypeAlias = Mapping[str, Mapping[str, Mapping[str, float]]]
#: Which systems are ours: their figures are set against everybody else's.
OURS = "pyfi-"


def middle(rounds: Sequence[Round]) -> dict[str, dict[str, dict[str, float]]]:
    """The medians over the rounds, in the shape of a round."""
    return {
        measure: {
            system: {name: median(_values(rounds, measure, system, name)) for name in figures}
            for system, figures in of.items()
        }
        for measure, of in rounds[0].items()
    }


def ratios(rounds: Sequence[Round], measure: str, figure: str) -> dict[str, dict[str, float]]:
    """Ours -> each system that is not -> the median over the rounds of our figure by theirs in the same round."""
    systems = rounds[0][measure]
    return {
        own: {
            peer: median(each[measure][own][figure] / each[measure][peer][figure] for each in rounds)
            for peer in systems
            if not peer.startswith(OURS)
        }
        for own in systems
        if own.startswith(OURS)
    }


def table(rounds: Sequence[Round], measure: str, whats: Mapping[str, str]) -> Table:
    """One measure, a row for each system."""
    shown = Table(title=f"{measure}: {described(measure)[0]}", title_justify="left")
    head, *rest = _lines(rounds, measure, whats)
    for number, cell in enumerate(head):
        shown.add_column(cell, justify="right" if number else "left")
    for line in rest:
        shown.add_row(*line)
    return shown


def markdown(rounds: Sequence[Round], measure: str, whats: Mapping[str, str]) -> str:
    """The same as `table`, for a page."""
    head, *rest = _lines(rounds, measure, whats)
    rule = ["---", *["---:"] * (len(head) - 1)]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))
    return f"**`{measure}`**: {described(measure)[0]}.\n\n{rows}\n"


def _lines(rounds: Sequence[Round], measure: str, whats: Mapping[str, str]) -> list[list[str]]:
    """The cells, with a first line of headings."""
    systems = rounds[0][measure]
    known = {name for figures in systems.values() for name in figures}
    figures = {name: figure for name, figure in described(measure)[1].items() if name in known}
    columns = [column for name, figure in figures.items() for column in _columns(rounds, measure, name, figure)]
    body = [[whats[system], *(cell(system) for _, cell in columns)] for system in systems]
    return [["system", *(heading for heading, _ in columns)], *body]


def _columns(
    rounds: Sequence[Round], measure: str, name: str, figure: Figure
) -> list[tuple[str, Callable[[str], str]]]:
    """A figure's own column, and one for each of ours beside everybody else's."""
    shown: list[tuple[str, Callable[[str], str]]] = [(figure.heading, partial(_spread, figure, rounds, measure, name))]
    if figure.compared:
        shown += [(f"{own} has", partial(_beside, by)) for own, by in ratios(rounds, measure, name).items() if by]
    return shown


def _beside(by: Mapping[str, float], system: str) -> str:
    return ratio(by[system]) if system in by else ""


def _spread(figure: Figure, rounds: Sequence[Round], measure: str, name: str, system: str) -> str:
    """The median, and where there are several rounds the least and the most."""
    if name not in rounds[0][measure][system]:
        return ""
    values = _values(rounds, measure, system, name)
    text = figure.form.format(median(values))
    if len(values) == 1:
        return text
    return f"{text} ({figure.form.format(min(values))}–{figure.form.format(max(values))})"


def _values(rounds: Sequence[Round], measure: str, system: str, figure: str) -> list[float]:
    return [each[measure][system][figure] for each in rounds]


def ratio(value: float) -> str:
    """Such as 12×, 0.71×, 1/45."""
    return f"1/{1 / value:.3g}" if 0 < value < 0.1 else f"{value:.3g}×"
