"""`pyfi call --items`: whose error is told as whose."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyfi_hpc.cli.call import _print_items
from pyfi_hpc.errors import BadInput, PyfiError, RemoteError


def ends_with(error: Exception) -> Any:
    """A call that yields one item, and then no more."""

    def items(timeout: float | None) -> Iterator[str]:
        yield "first"
        raise error

    return SimpleNamespace(items=items, identity=b"i" * 16, id="i")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (BadInput("E_TYPE", "its task does not yield"), BadInput, "E_TYPE"),
        (ValueError("no more"), RemoteError, "E_REMOTE"),
    ],
)
def test_our_own_word_is_not_told_as_the_tasks(
    error: Exception, kind: type[PyfiError], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(kind) as raised:
        _print_items(ends_with(error), None, "raw")

    assert raised.value.code == code
    assert capsys.readouterr().out == "first\n"
