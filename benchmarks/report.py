"""What a run found, to be shown, kept, and put on a page: `python -m benchmarks.report FILE… [--into PAGE]`."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.table import Round, markdown, middle, table

#: Between these lines of a page stand the tables.
BEGIN, END = "<!-- figures: written by benchmarks.report -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Report:
    """Of one run: `whats` and `versions` by system, the figures of each round."""

    machine: Mapping[str, Any]
    seconds: float
    whats: Mapping[str, str]
    versions: Mapping[str, Mapping[str, str]]
    rounds: Sequence[Round]

    def show(self, console: Console) -> None:
        """A table for each measure."""
        for measure in self.rounds[0]:
            console.print(table(self.rounds, measure, self.whats))

    def as_json(self) -> dict[str, Any]:
        """All of it, and the medians."""
        return {
            "machine": self.machine,
            "seconds": self.seconds,
            "systems": self.whats,
            "versions": self.versions,
            "medians": middle(self.rounds),
            "rounds": self.rounds,
        }

    @classmethod
    def read(cls, file: Path) -> list[Report]:
        """What `as_json` gave, once or several times."""
        found = json.loads(file.read_text())
        return [
            cls(each["machine"], each["seconds"], each["systems"], each["versions"], each["rounds"])
            for each in (found if isinstance(found, list) else [found])
        ]

    def markdown(self) -> str:
        """For a page."""
        rounds = f"{len(self.rounds)} rounds" if len(self.rounds) > 1 else "one round"
        known = self.machine
        machine = f"{known['cpus']} CPUs ({known['model']}), {known['memory_gib']} GiB, load before {known['load']}"
        software = {name: version for of in self.versions.values() for name, version in of.items()}
        listed = ", ".join(f"{name} {version}" for name, version in sorted(software.items()))
        what = f"{rounds.capitalize()}, {self.seconds:g} s for each figure"
        intro = f"{what}. {machine}; Python {known['python']}; {listed}.\n"
        return "\n".join([intro, *(markdown(self.rounds, measure, self.whats) for measure in self.rounds[0])])


def machine() -> dict[str, object]:
    """What the figures depend on, now."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpus": os.cpu_count(),
        "model": model[1] if model else platform.machine(),
        "memory_gib": round(memory_gib),
        "python": platform.python_version(),
        "load": " ".join(f"{value:.1f}" for value in os.getloadavg()),
    }


def put_into(page: str, text: str) -> str:
    """`page` with `text` between its two marks.

    Raises:
        click.ClickException: they are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise click.ClickException(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--into", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A page with two marks.")
def main(files: tuple[Path, ...], into: Path | None) -> None:
    """Show the figures that runs wrote with --json, or put their tables into a page."""
    reports = [report for file in files for report in Report.read(file)]
    if into is None:
        for report in reports:
            report.show(Console())
    else:
        into.write_text(put_into(into.read_text(), "\n".join(report.markdown() for report in reports)))


if __name__ == "__main__":
    main()
