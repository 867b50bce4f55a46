"""`pyfi call`: whose error is told as whose, and how a call that was not accepted can be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyfi_hpc.cli.call import _print_items, _repeatable
from pyfi_hpc.client.client import raise_refused
from pyfi_hpc.client.sender import REPEAT
from pyfi_hpc.errors import BadInput, BrokerUnavailable, PyfiError, RemoteError


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


def test_a_call_that_was_not_accepted_says_with_which_id_it_can_be_repeated() -> None:
    full = BrokerUnavailable("E_BACKPRESSURE", "the broker does not keep up", cure=REPEAT)
    stream: Any = SimpleNamespace(refused=lambda: [(SimpleNamespace(id="0192f3c1"), full)])

    with pytest.raises(BrokerUnavailable, match="repeat it with its id, 0192f3c1:"):
        raise_refused(stream)
    # as typed, by the option
    with pytest.raises(BrokerUnavailable, match="the same command with --id 0192f3c1:"), _repeatable():
        raise_refused(stream)
