"""The kinds of value a setting may have: from the text of a file, variable or option to the value."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import urlsplit

from pyfi_hpc.brokers import amqp
from pyfi_hpc.errors import CODES, shown

MASK = "•••"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_PASSWORD = re.compile(r"(?P<before>//[^/:@\s]*:)\S*(?P<after>@)")
# libpq takes a password as a parameter too
_PARAMETER = re.compile(r"(?P<before>(?:^|[?&\s])(?:password|passwd|sslpassword|token)=)[^&\s]*", re.IGNORECASE)


#: Schemes of a Postgres address -> the one that libpq and SQLAlchemy both know.
_POSTGRES = {"postgresql": "postgresql", "postgres": "postgresql", "postgresql+psycopg2": "postgresql"}
_AMQP = "amqp://USER:PASSWORD@HOST/VHOST"


class Unfit(ValueError):
    """The text is no value of the kind: `code`, `what`, and `value` as it may be shown."""

    def __init__(self, code: str, value: str, what: str = "") -> None:
        self.code, self.value, self.what = code, shown(masked(value)), what or CODES[code]
        super().__init__(self.what)


def masked(text: str) -> str:
    """`text` with the password of any address in it hidden."""
    return _PARAMETER.sub(rf"\g<before>{MASK}", _PASSWORD.sub(rf"\g<before>{MASK}\g<after>", text))


def holds_password(text: str) -> bool:
    """True when an address in `text` has a password in it."""
    return masked(text) != text


def text(value: str) -> str:
    return value.strip()


def words(value: str) -> tuple[str, ...]:
    """A list, separated by commas, spaces or line ends."""
    return tuple(re.split(r"[,\s]+", value.strip())) if value.strip() else ()


def path(value: str) -> Path | None:
    """An absolute path, or None for nothing; `~` is the person's home."""
    if not value.strip():
        return None
    found = Path(value.strip()).expanduser()
    if not found.is_absolute():
        raise Unfit("E_CONFIG", value, "a path in the settings must be absolute or begin with ~")
    return found


def cores(value: str) -> str:
    """A list of cores such as `0-3,8`, or nothing."""
    cores_in(value)
    return value.strip()


def cores_in(value: str) -> set[int]:
    """The cores in such a list; of nothing none."""
    parts = value.split(",") if value.strip() else []
    return {core for part in parts for core in _cores(part.strip(), value)}


def _cores(part: str, value: str) -> range:
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part, re.ASCII)
    if found is None or (found[2] and int(found[2]) < int(found[1])):
        raise Unfit("E_RANGE", value, "cores are written as in 0-3,8")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


def check_cores(value: str, usable: Collection[int]) -> None:
    """Return where all of these cores are `usable`."""
    if missing := cores_in(value) - set(usable):
        what = f"this process may not use core {min(missing)}, only {', '.join(map(str, sorted(usable)))}"
        raise Unfit("E_RANGE", value, what)


def yes_no(value: str) -> bool:
    """True or False; nothing is False."""
    return bool(yes_no_unset(value))


def ip_network(value: str) -> str:
    """A network of IP addresses, or nothing."""
    text = value.strip()
    try:
        return str(ipaddress.ip_network(text, strict=False)) if text else ""
    except ValueError as error:
        raise Unfit("E_CONFIG", value, str(error)) from None


def yes_no_unset(value: str) -> bool | None:
    """True, False, or None for nothing."""
    word = value.strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    if word:
        raise Unfit("E_CHOICE", value, "yes or no is wanted")
    return None


def choice(*allowed: str) -> Callable[[str], str]:
    """One of these words."""

    def convert(value: str) -> str:
        word = value.strip().lower()
        if word not in allowed:
            raise Unfit("E_CHOICE", value, f"one of {', '.join(allowed)} is wanted")
        return word

    return convert


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""

    def convert(value: str) -> int:
        if not re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value) or not low <= int(value) <= high:
            raise Unfit("E_RANGE", value, f"a whole number from {low} to {high} is wanted")
        return int(value)

    return convert


def number(low: float, high: float) -> Callable[[str], float]:
    """A number from `low` to `high`."""

    def convert(value: str) -> float:
        if not re.fullmatch(r"\s*-?[0-9]{1,18}(\.[0-9]{1,9})?\s*", value) or not low <= float(value) <= high:
            raise Unfit("E_RANGE", value, f"a number from {low:.15g} to {high:.15g} is wanted")
        return float(value)

    return convert


def number_or_none(low: float, high: float) -> Callable[[str], float | None]:
    """A number from `low` to `high`, or None for nothing."""
    return lambda value: number(low, high)(value) if value.strip() else None


def database_uri(value: str) -> str:
    """A Postgres address as both libpq and SQLAlchemy read it; empty stays empty (embedded mode)."""
    return _address(value, _POSTGRES, "E_DB_URI", "postgresql://USER@HOST/DATABASE")


def broker_uri(value: str) -> str:
    """An AMQP address, or a database to keep the queues in; empty means the database itself."""
    address = _address(value, {"amqp": "amqp", "amqps": "amqps", **_POSTGRES}, "E_BROKER_URI", _AMQP)
    if address.startswith("amqp"):
        try:
            amqp.tls(amqp.parsed(address))
        except ValueError as error:
            raise _unusable(address, error) from None
    return address


def check_broker_files(address: str) -> None:
    """Return where this host has the files that a broker's address names.

    Raises:
        Unfit: with the file, and what is wrong with it.
    """
    if not address.startswith("amqps://"):
        return
    from pyfi_hpc.brokers import tls  # most addresses need none of it

    try:
        tls.context(amqp.tls(amqp.parsed(address)) or amqp.Tls())
    except ValueError as error:
        raise _unusable(address, error) from None


def _unusable(address: str, why: ValueError) -> Unfit:
    return Unfit("E_BROKER_URI", address, f"{CODES['E_BROKER_URI']}: {why}")


def http_uri(value: str) -> str:
    """An HTTP address, or nothing."""
    return _address(value, {"http": "http", "https": "https"}, "E_BROKER_URI", "http://USER@HOST:15672")


def _address(value: str, schemes: dict[str, str], code: str, form: str) -> str:
    value = value.strip()
    if not value:
        return ""
    scheme, separator, rest = value.partition("://")
    if not separator or scheme.lower() not in schemes:
        raise Unfit(code, value, f"an address such as {form} is wanted")
    if any(not char.isprintable() or char.isspace() for char in value):
        raise Unfit(code, value, "an address has no spaces or control characters")
    _check_port(value, code)
    return f"{schemes[scheme.lower()]}://{rest}"


def _check_port(value: str, code: str) -> None:
    try:
        host = urlsplit(value).netloc.rpartition("@")[2]
    except ValueError as error:
        raise Unfit(code, value, f"{CODES[code]}: {error}") from error
    port = re.fullmatch(r"(?:\[[^]]*\]|[^:]*):(.+)", host)
    if port and "@" in value.partition(host)[2]:
        raise Unfit(code, value, "in a password, / ? # and @ are written %2F %3F %23 and %40")
    if port and (not re.fullmatch(r"[0-9]{1,5}", port[1]) or not 1 <= int(port[1]) <= 65535):
        raise Unfit("E_RANGE", f"port {port[1]}", "a port is a number from 1 to 65535")
