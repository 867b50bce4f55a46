"""What a demo shows at its end: the findings in the code, and who worked how much."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from pyfi_hpc.db.record import Cursor

_MODULES = 8


def show_findings(console: Console, found: dict[str, Any]) -> None:
    """Totals, a small table of the longest and the most complex functions, and what is imported most."""
    console.print(
        f"{found['files']:,} files · {found['lines']:,} lines · {found['classes']:,} classes ·"
        f" {found['functions']:,} functions"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("longest functions", "most complex functions"):
        table.add_column(title, overflow="ellipsis", no_wrap=True)
    for (lines, longest), (ways, knotted) in zip(found["longest"], found["complex"], strict=False):
        table.add_row(f"{lines:4} lines {longest}", f"{ways:4} ways {knotted}")
    console.print(table)
    imported = sorted(found["imports"].items(), key=lambda entry: (-entry[1], entry[0]))[:_MODULES]
    console.print("most imported: " + " · ".join(f"{module} {times:,}" for module, times in imported))


def calls_by_core(cursor: Cursor) -> str:
    """How many outcomes each core made, by the record."""
    cursor.execute(
        "SELECT w.cores, count(*) FROM pyfi.outcome o JOIN pyfi.worker w ON w.id = o.worker_id"
        " GROUP BY w.cores ORDER BY w.cores"
    )
    return " · ".join(f"core {', '.join(map(str, cores))}: {count:,}" for cores, count in cursor.fetchall())


def calls_by_node(cursor: Cursor) -> str:
    """How many outcomes the workers of each node made, by the record."""
    cursor.execute(
        "SELECT n.host, count(*), count(DISTINCT w.id) FROM pyfi.outcome o JOIN pyfi.worker w ON w.id = o.worker_id"
        " JOIN pyfi.node n ON n.id = w.node_id GROUP BY n.host ORDER BY n.host"
    )
    return " · ".join(f"node {host}: {count:,} by {workers} workers" for host, count, workers in cursor.fetchall())
