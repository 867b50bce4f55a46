"""Arguments from the command line, values back to it."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from typing import Any

import numpy as np
import pytest

from pyfi_hpc.cli.values import arguments, as_text, keywords
from pyfi_hpc.errors import BadInput


def test_arguments_are_json() -> None:
    assert arguments(['"Hello World !"', "3", "[1, null]"]) == ["Hello World !", 3, [1, None]]
    assert keywords(['name="x=y"', "limit=3"]) == {"name": "x=y", "limit": 3}


@pytest.mark.parametrize(
    ("texts", "code", "words"),
    [
        (["limit"], "E_USAGE", "name=json"),
        (["1x=3"], "E_USAGE", "name=json"),
        (["a=1", "a=2"], "E_USAGE", "given before"),
        (["a=b"], "E_TYPE", "--kw a b"),
    ],
)
def test_a_keyword_in_another_form_is_refused(texts: list[str], code: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        keywords(texts)
    assert caught.value.code == code and words in str(caught.value)


def test_an_argument_that_is_no_json_is_refused_with_its_position() -> None:
    with pytest.raises(BadInput) as caught:
        arguments(["1", "Hello World !"])
    assert "args[1] Hello World !" in str(caught.value)
    assert "'\"Hello World !\"'" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Hello World !", "Hello World !"),
        ("two\nlines", "two\nlines"),
        (None, "null"),
        (True, "true"),
        (["ä", 1.5], '["ä", 1.5]'),
        ((1, {"k": (2,)}), '[1, {"k": [2]}]'),
        ({1: "a", (1, 2): "b"}, '{"1": "a", "[1, 2]": "b"}'),
        ({3, 1, 2}, "[1, 2, 3]"),
        (b"\x00\xff", '"AP8="'),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), '"2026-01-02T00:00:00+00:00"'),
        (datetime.timedelta(seconds=1.5), "1.5"),
        (decimal.Decimal("1.10"), '"1.10"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (1 + 2j, "[1.0, 2.0]"),
        (np.arange(4).reshape(2, 2), "[[0, 1], [2, 3]]"),
        (np.float64(0.5), "0.5"),
        (np.int32(5), "5"),
    ],
)
def test_a_string_is_printed_as_it_is_and_all_else_as_json(value: Any, text: str) -> None:
    assert as_text(value) == text
    if not isinstance(value, str):
        json.loads(text)
