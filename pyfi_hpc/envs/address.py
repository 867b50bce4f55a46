"""A repository's address taken apart and written in one way, from its text alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit

from pyfi_hpc.errors import BadInput

SCHEMES = frozenset({"https", "http", "ssh", "git", "file"})
DEFAULT_PORTS = {"https": 443, "http": 80, "ssh": 22, "git": 9418}
KNOWN = "https, ssh, git and file addresses are used"

_TRANSPORT = re.compile(r"[A-Za-z0-9+.-]*::")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_FILE = re.compile(r"file:(//[^/]*)?/", re.IGNORECASE)
# git's own rule: a colon before the first slash makes it `host:path`
_SCP = re.compile(r"(?:(?P<user>[^/@:]+)@)?(?P<host>[^/@:]+):(?P<path>.+)")
_PASSWORD = re.compile(r"(?P<before>^|//)[^/@:]*:[^/]*@")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|[0-9A-Fa-f:]+")
_HIDDEN = re.compile(r"%(2f|5c|00)", re.IGNORECASE)
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Address:
    """What is compared with the allow-list.

    Attributes:
        scheme: one of `SCHEMES`.
        host: in lower case, with `:port` when it is not the scheme's own; empty for `file`.
        path: absolute, decoded, without `.`, `..`, empty parts or a slash at the end.
        written: the same address in the form that git is given.
    """

    scheme: str
    host: str
    path: str
    written: str


def parse(url: str) -> Address:
    """Take `url` apart.

    Raises:
        BadInput: E_REPO_URL no address; E_REPO_SCHEME a transport we never use; E_REPO_SECRET it holds a
            password; E_REPO_DENIED its path is written so that it could lead elsewhere.
    """
    if transport := _TRANSPORT.match(url):
        raise BadInput.of("E_REPO_SCHEME", "gitrepo", transport[0] + "…", cure=KNOWN)
    _check_characters(url)
    _check_secret(url)
    if url.startswith("/"):
        return _file(url, unquoted=url)
    if match := _FILE.match(url):
        return _of_file(url, (match[1] or "")[2:], "/" + url[match.end() :])
    if match := _URL.match(url):
        return _of_url(url, match[1].lower())
    if match := _SCP.fullmatch(url):
        return _of_scp(url, match)
    raise BadInput.of("E_REPO_URL", "gitrepo", url, cure=f"write the absolute path, or an address: {KNOWN}")


def _check_characters(url: str) -> None:
    if not url:
        raise BadInput.of("E_REPO_URL", "gitrepo", url, "the repository's address is empty")
    if url.startswith("-"):
        raise BadInput.of("E_REPO_URL", "gitrepo", url, "the repository's address looks like an option")
    if any(char.isspace() or not char.isprintable() or char == "\\" for char in url):
        raise BadInput.of("E_REPO_URL", "gitrepo", url, "the repository's address has a character that none has")


def _check_secret(url: str) -> None:
    """Refuse an address that holds a password or an access token, and show it without."""
    hidden = _PASSWORD.sub(r"\g<before>***@", url)
    user = re.match(r"https?://([^/@]*)@", hidden, re.IGNORECASE)
    if user and _TOKEN.fullmatch(user[1]):
        hidden = hidden.replace(user[1], "***", 1)
    if hidden != url:
        cure = "leave it out: git's credential helper or an ssh key gives it"
        raise BadInput.of("E_REPO_SECRET", "gitrepo", hidden, cure=cure)
    if "?" in url or "#" in url:
        shown = re.split(r"[?#]", url)[0]
        raise BadInput.of("E_REPO_URL", "gitrepo", shown + "…", "the repository's address has a query or a fragment")


def _of_file(url: str, host: str, path: str) -> Address:
    if host not in ("", "localhost"):
        raise BadInput.of("E_REPO_URL", "gitrepo", url, "a file address names no host: file:///path")
    return _file(url, unquoted=_decoded(url, path))


def _file(url: str, unquoted: str) -> Address:
    path = _cleaned(url, unquoted)
    return Address("file", "", path, f"file://{quote(path)}")


def _of_url(url: str, scheme: str) -> Address:
    if scheme == "file":
        raise BadInput.of("E_REPO_URL", "gitrepo", url)
    if scheme not in SCHEMES:
        raise BadInput.of("E_REPO_SCHEME", "gitrepo", url, cure=KNOWN)
    try:
        split = urlsplit(url)
        host, port = (split.hostname or "").rstrip("."), split.port
    except ValueError as error:
        raise BadInput.of("E_REPO_URL", "gitrepo", url) from error
    host = _checked_host(url, host)
    if port not in (None, DEFAULT_PORTS[scheme]):
        host = f"{host}:{port}"
    path = _cleaned(url, _decoded(url, split.path))
    login = f"{_checked_user(url, split.username)}@" if split.username is not None else ""
    return Address(scheme, host, path, f"{scheme}://{login}{host}{quote(path, safe='/~@:+,=')}")


def _of_scp(url: str, match: re.Match[str]) -> Address:
    user, host, path = match["user"], _checked_host(url, match["host"]), match["path"]
    login = f"{_checked_user(url, user)}@" if user else ""
    clean = _cleaned(url, "/" + path)
    # `host:path` is below the login's home and `host:/path` is not: keep what was written
    return Address("ssh", host, clean, f"{login}{host}:{clean if path.startswith('/') else clean[1:]}")


def _checked_host(url: str, host: str) -> str:
    if not _HOST.fullmatch(host):
        raise BadInput.of("E_REPO_URL", "gitrepo", url, "the repository's address has no usable host")
    return f"[{host.lower()}]" if ":" in host else host.lower()


def _checked_user(url: str, user: str) -> str:
    if not _USER.fullmatch(user):
        raise BadInput.of("E_REPO_URL", "gitrepo", url, "the repository's address has no usable login")
    return user


def _decoded(url: str, path: str) -> str:
    """`path` without `%` escapes; one that hides a separator is refused."""
    if _HIDDEN.search(path):
        _refuse_path(url)
    return unquote(path)


def _cleaned(url: str, path: str) -> str:
    parts = [part for part in path.split("/") if part]
    if "." in parts or ".." in parts or _HIDDEN.search(path) or "%2e" in path.lower():
        _refuse_path(url)
    if not parts or any(not char.isprintable() or char == "\\" for char in path):
        raise BadInput.of("E_REPO_URL", "gitrepo", url, "the repository's address has no usable path")
    if parts[0].startswith("-"):
        raise BadInput.of("E_REPO_URL", "gitrepo", url, "the repository's path looks like an option")
    return "/" + "/".join(parts)


def _refuse_path(url: str) -> NoReturn:
    what = "the repository's path could lead elsewhere, so git.allow cannot judge it"
    raise BadInput.of("E_REPO_DENIED", "gitrepo", url, what, cure="write the path as it is, without '..' or '%'")
