"""Read one INI file: every setting in it with its path and line, or an error with them."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyfi_hpc.config import kinds
from pyfi_hpc.config.sections import KEYS, SECTIONS
from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.model.names import nearest

SITE_FILE = Path("/etc/pyfi/pyfi.ini")


@dataclass(frozen=True)
class Given:
    """A setting as somebody wrote it."""

    key: str
    text: str
    origin: str


def read_file(path: Path) -> Iterator[Given]:
    """All settings in one INI file.

    Raises:
        BadInput: E_CONFIG with path and line, E_CONFIG_MODE.
    """
    text = _text(path)
    parser = _parsed(path, text)
    lines = Lines(text)
    for section in parser.sections():
        _check_section(section, f"{path} line {lines.of(section)}")
        for name, value in parser.items(section):
            yield _given(section, name, value or "", f"{path} line {lines.of(section, name)}")
    if kinds.holds_password(text):
        _check_mode(path)


class Lines:
    """Line numbers of sections and keys, which configparser forgets."""

    _SECTION = re.compile(r"\[(?P<name>[^]]+)\]")
    _KEY = re.compile(r"(?P<name>[^\s#;=:\[][^=:]*?)\s*[=:]")

    def __init__(self, text: str) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        section = ""
        for number, line in enumerate(text.splitlines(), start=1):
            if head := self._SECTION.match(line):
                section = head["name"]
                self._numbers[section, ""] = number
            elif entry := self._KEY.match(line):
                self._numbers[section, spelled(entry["name"])] = number

    def of(self, section: str, name: str = "") -> int:
        return self._numbers.get((section, name)) or self._numbers.get((section, ""), 1)


def spelled(name: str) -> str:
    """A key's name as we write it: `Management URI` is `management_uri`."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def unknown(place: str, name: str) -> BadInput:
    """No such setting, with the nearest one."""
    near = nearest(name, KEYS)
    cure = f"did you mean {near}?" if near else "pyfi config show lists all settings"
    return BadInput("E_CONFIG", f"no setting {shown(name)!r}", at=place, cure=cure, field=name)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _broken(path, None, "is not UTF-8 text") from error
    except OSError as error:
        raise _broken(path, None, (error.strerror or "cannot be read").lower()) from error


def _parsed(path: Path, text: str) -> configparser.RawConfigParser:
    # no interpolation: a password may hold a %; no default section: it would hide where a value comes from
    parser = configparser.RawConfigParser(default_section="\0", interpolation=None, strict=True)
    parser.optionxform = spelled  # type: ignore[method-assign, assignment]
    try:
        parser.read_string(text.removeprefix("\ufeff"))
    except (configparser.DuplicateSectionError, configparser.DuplicateOptionError) as error:
        what = f"section [{error.section}]" if isinstance(error, configparser.DuplicateSectionError) else error.option
        raise _broken(path, error.lineno, f"{what} is there twice") from None
    except configparser.MissingSectionHeaderError as error:
        raise _broken(path, error.lineno, "a [section] must come first") from None
    except configparser.ParsingError as error:
        raise _broken(path, error.errors[0][0] if error.errors else None, "is no 'key = value'") from None
    return parser


def _check_section(section: str, place: str) -> None:
    if section not in SECTIONS:
        near = nearest(section, SECTIONS)
        cure = f"did you mean [{near}]?" if near else f"one of {', '.join(SECTIONS)}"
        raise BadInput("E_CONFIG", f"no section [{shown(section)}]", at=place, cure=cure, field=section)


def _given(section: str, name: str, value: str, place: str) -> Given:
    key = f"{section}.{name}"
    if key not in KEYS:
        raise unknown(place, key)
    if re.search(r"%\([^)]*\)s", value):
        what = "settings take no %(name)s from each other"
        raise BadInput("E_CONFIG", what, at=place, cure="write the value out", field=key)
    return Given(key, value, place)


def _broken(path: Path, line: int | None, what: str) -> BadInput:
    place = f"{path} line {line}" if line else str(path)
    return BadInput("E_CONFIG", f"settings: {what}", at=place, field="path", path=str(path), line=line)


def _check_mode(path: Path) -> None:
    # the site's own file may be shared with a group of its choice
    if path.stat().st_mode & (0o004 if path == SITE_FILE else 0o044):
        raise BadInput(
            "E_CONFIG_MODE",
            "a file with a password in it can be read by others",
            at=str(path),
            cure=f"chmod 600 {path}",
            field="path",
            path=str(path),
        )
