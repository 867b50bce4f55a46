"""The environment variables of a build: the site's compilers, proxies and package index, and nothing of ours."""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from pathlib import Path

_NAMES = (
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TMPDIR TMP TEMP XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME"
    " SSL_CERT_FILE SSL_CERT_DIR SSL_CLIENT_CERT REQUESTS_CA_BUNDLE CURL_CA_BUNDLE"
    " HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy"
    " CC CXX FC F77 LD AR CFLAGS CXXFLAGS CPPFLAGS FFLAGS LDFLAGS CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH"
    " LIBRARY_PATH LD_LIBRARY_PATH PKG_CONFIG_PATH CMAKE_PREFIX_PATH MAKEFLAGS"
    " CUDA_HOME CUDA_PATH MPICC MPICXX MPI_HOME HDF5_DIR RUSTUP_HOME CARGO_HOME"
)
_KEPT = frozenset(_NAMES.split())
#: pip's setting -> uv's variable, what parts its values, and the variables that a person may have set for it already.
_INDEX = {
    "index-url": ("UV_DEFAULT_INDEX", " ", ("UV_DEFAULT_INDEX", "UV_INDEX_URL")),
    "extra-index-url": ("UV_EXTRA_INDEX_URL", " ", ("UV_INDEX", "UV_EXTRA_INDEX_URL")),
    "find-links": ("UV_FIND_LINKS", ",", ("UV_FIND_LINKS",)),
    "trusted-host": ("UV_INSECURE_HOST", " ", ("UV_INSECURE_HOST",)),
    "cert": ("SSL_CERT_FILE", " ", ("SSL_CERT_FILE",)),
}


def of_build(own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a build gets of our `own` variables, with pip's index settings in uv's words."""
    kept = {name: value for name, value in own.items() if name in _KEPT or name.startswith("LC_")}
    kept |= {name: value for name, value in own.items() if name.startswith("UV_") and "PUBLISH" not in name}
    kept |= _index(pip_settings(own), kept)
    return kept | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1", "PYTHONNOUSERSITE": "1"}


def _index(pip: Mapping[str, list[str]], kept: Mapping[str, str]) -> dict[str, str]:
    named = {}
    for setting, (variable, separator, taken) in _INDEX.items():
        if setting in pip and not any(name in kept for name in taken):
            named[variable] = separator.join(pip[setting])
    if "UV_EXTRA_INDEX_URL" in named and "UV_INDEX_STRATEGY" not in kept:
        named["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # all indexes are one to pip
    return named


def pip_settings(own: Mapping[str, str]) -> dict[str, list[str]]:
    """The words of each of pip's settings, by its long option; a later file wins, a variable wins over files.

    Source: pip's documentation, "Configuration".
    """
    found: dict[str, list[str]] = {}
    for path in _pip_files(own):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip tells the person; a build goes on with what it can read
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= {name.replace("_", "-"): value.split() for name, value in parser.items(section)}
    variables = {name[4:].lower().replace("_", "-"): value for name, value in own.items() if name.startswith("PIP_")}
    return {name: words for name, words in (found | {n: v.split() for n, v in variables.items()}).items() if words}


def _pip_files(own: Mapping[str, str]) -> list[Path]:
    named = own.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(own.get("HOME", "/"))
    site = [Path(folder) / "pip" for folder in own.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    user = [home / ".pip", Path(own.get("XDG_CONFIG_HOME", home / ".config")) / "pip"]
    folders = [*reversed(site), Path("/etc"), *user, Path(sys.prefix)]
    return [folder / "pip.conf" for folder in folders] + ([Path(named)] if named else [])
