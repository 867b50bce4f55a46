"""Which repositories may be used: the allow-list, judged on the address as a person wrote it.

An entry of `git.allow` or `git.deny` is the beginning of an address, `https://host/group/`, cut at a `/`.
An entry without a scheme means https where it allows and every scheme where it denies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from pyfi_hpc.envs.address import DEFAULT_PORTS, KNOWN, SCHEMES, Address, parse
from pyfi_hpc.errors import BadInput


@dataclass(frozen=True)
class Allow:
    """The rules: `deny` wins over `allow`; nothing that neither names is used.

    Attributes:
        own_files: also allow folders that belong to the calling user (the embedded mode's default).
    """

    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    own_files: bool = False


@dataclass(frozen=True)
class _Entry:
    """One line of a list; `scheme` None is any, `host` None is any, `parts` are path components."""

    scheme: str | None
    host: str | None
    parts: tuple[str, ...]


def check(url: str, rules: Allow) -> str:
    """`url` in the form that git is given.

    Raises:
        BadInput: E_REPO_SCHEME, E_REPO_URL, E_REPO_SECRET as `parse` says; E_REPO_DENIED the rules forbid it.
    """
    address = parse(url)
    allowed = [_entry(text, "git.allow", "https") for text in rules.allow]
    denied = [_entry(text, "git.deny", None) for text in rules.deny]
    if address.scheme == "http" and not any(entry.scheme == "http" for entry in allowed):
        what = "plain http is used only where git.allow lists it"
        raise BadInput.of("E_REPO_SCHEME", "gitrepo", url, what, cure=KNOWN)
    if any(_matches(entry, address, fold=True) for entry in denied):
        raise _denied(url, address, "is on the deny-list", "ask for another repository: git.deny names this one")
    if not any(_matches(entry, address) for entry in allowed) and not _is_own(url, address, rules):
        raise _denied(url, address, "is not on the allow-list", f"add {_suggestion(address)} to the setting git.allow")
    return address.written


def _denied(url: str, address: Address, why: str, cure: str) -> BadInput:
    place = f"host {address.host}" if address.host else f"path {address.path}"
    return BadInput.of("E_REPO_DENIED", "gitrepo", url, f"the repository's {place} {why}", cure=cure)


def _suggestion(address: Address) -> str:
    return f"{address.scheme}://{address.host}{os.path.dirname(address.path).rstrip('/')}/"


def _entry(text: str, setting: str, scheme: str | None) -> _Entry:
    """One entry of a list, taken apart.

    Raises:
        BadInput: E_CONFIG, its scheme is not one of ours.
    """
    written = text.strip()
    if written.startswith("/"):
        written = f"file://{written}"
    if ":" in written.split("/")[0] and "//" not in written:
        head, _, rest = written.partition(":")
        written = f"file:///{rest.lstrip('/')}" if head == "file" else f"ssh://{head}/{rest}"
    if "://" in written:
        scheme, _, written = written.partition("://")
        scheme = scheme.lower()
        if scheme not in SCHEMES:
            raise BadInput.of("E_CONFIG", setting, text, f"{setting} has an entry of an unknown scheme", cure=KNOWN)
    host, _, path = written.partition("/")
    host = host.rpartition("@")[2]
    if scheme in DEFAULT_PORTS:
        host = host.removesuffix(f":{DEFAULT_PORTS[scheme]}")
    return _Entry(scheme, host.lower().rstrip(".") or None, tuple(part for part in unquote(path).split("/") if part))


def _matches(entry: _Entry, address: Address, *, fold: bool = False) -> bool:
    """Whether `address` lies below `entry`; `fold` ignores case, as many hosts do, so that nobody slips by."""
    if entry.scheme not in (None, address.scheme) or entry.host not in (None, address.host):
        return False
    if entry.scheme is None and entry.host is None:
        return False
    want, have = _components(entry.parts, fold), _components(tuple(address.path[1:].split("/")), fold)
    return have[: len(want)] == want or (len(have) == len(want) and _bare(have) == _bare(want))


def _components(parts: tuple[str, ...], fold: bool) -> tuple[str, ...]:
    return tuple(part.lower() for part in parts) if fold else parts


def _bare(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Without the `.git` that hosts let people leave out."""
    return (*parts[:-1], parts[-1].removesuffix(".git")) if parts else parts


def _is_own(url: str, address: Address, rules: Allow) -> bool:
    if not rules.own_files or address.scheme != "file":
        return False
    try:
        return os.stat(address.path).st_uid == os.getuid()
    except FileNotFoundError as error:
        raise BadInput.of("E_REPO_URL", "gitrepo", url, "no folder is at the repository's address") from error
    except OSError:
        return False
