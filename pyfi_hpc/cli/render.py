"""Rows as text: table, JSON, YAML, CSV, names. Pure: rows in, text out."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyfi_hpc.errors import shown

Row = Mapping[str, Any]
GAP = "  "
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"(?P<day>\d{4}-\d\d-\d\d)T(?P<time>\d\d:\d\d:\d\d)(\.\d+)?Z")


def plain(value: Any) -> Any:
    """`value` in the types that JSON has: ids and times as text, times in UTC."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, uuid.UUID | Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    # enum members of text are text
    return str(value) if isinstance(value, str) else value


def as_json(rows: Iterable[Row]) -> str:
    """One object, only ever added to."""
    return json.dumps({"version": 1, "items": [plain(row) for row in rows]}, indent=2, ensure_ascii=False)


def as_yaml(rows: Iterable[Row]) -> str:
    import yaml

    document = {"version": 1, "items": [plain(row) for row in rows]}
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")


def as_csv(rows: Iterable[Row], columns: Sequence[str], header: bool) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows([_bare(row.get(column)) for column in columns] for row in rows)
    return file.getvalue().rstrip("\n")


def as_parsable(rows: Iterable[Row], columns: Sequence[str], header: bool) -> str:
    """`|` between fields; `\\` before a `|` or `\\` of the text."""
    lines = [list(columns)] if header else []
    lines += [[_bare(row.get(column)) for column in columns] for row in rows]
    return "\n".join("|".join(cell.replace("\\", "\\\\").replace("|", "\\|") for cell in line) for line in lines)


def as_names(rows: Iterable[Row]) -> str:
    return "\n".join(_bare(row.get("name") or row.get("id")) for row in rows)


def as_table(rows: Sequence[Row], columns: Sequence[str], *, header: bool, width: int | None, whole_ids: bool) -> str:
    """Columns as wide as their widest cell; the last ones are cut where `width` is too small for all."""
    cells = [[cell(row.get(column), whole_ids) for column in columns] for row in rows]
    if header:
        cells.insert(0, [column.replace("_", " ").upper() for column in columns])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [GAP.join(f"{text:<{size}}" for text, size in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(line if width is None or len(line) <= width else line[: width - 1] + "…" for line in lines)


def tame(text: str) -> str:
    """`text` with nothing in it that could steer a terminal: only line ends and tabs stay as they are."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(shown(part, len(part) * 10 + 1) for part in line.split("\t")) for line in lines)


def as_card(row: Row) -> str:
    """One object: a line for each field that has a value, more for text of several lines and for lists of objects."""
    fields = {name: _block(value) for name, value in row.items() if value is not None}
    size = max(map(len, fields), default=0)
    indent = "\n" + " " * (size + len(GAP))
    return "\n".join(f"{name:<{size}}{GAP}{indent.join(lines)}" for name, lines in fields.items())


def _block(value: Any) -> list[str]:
    if isinstance(value, str) and "\n" in value:
        return [shown(line, 10_000) for line in value.splitlines()]
    if isinstance(value, Mapping) and any(isinstance(part, str) and "\n" in part for part in value.values()):
        # such as a processor's reason with the end of its build's log
        return as_card(value).splitlines()
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return [
            "  ".join(f"{key} {cell(part)}" for key, part in item.items() if part not in (None, "")) for item in value
        ]
    return [cell(value, whole_ids=True, limit=10_000)]


def cell(value: Any, whole_ids: bool = False, limit: int = 120) -> str:
    """`value` on one line for a person; ids are shown by their last ten digits."""
    text = _bare(value)
    if _ID.fullmatch(text) and not whole_ids:
        return text.replace("-", "")[-10:]
    if found := _TIME.fullmatch(text):
        return f"{found['day']} {found['time']}"
    return shown(text, limit) or "-"


def _bare(value: Any) -> str:
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ",".join(map(str, value))
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:.10g}" if isinstance(value, float) else str(value)
