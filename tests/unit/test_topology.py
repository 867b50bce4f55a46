"""Which keys a topic's binding fits, held against the words of the AMQP specification."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.db.topology import matches


def fits(pattern: Sequence[str], key: Sequence[str]) -> bool:
    """`*` is exactly one word, `#` is zero or more. Source: AMQP 0-9-1, 3.1.3.3."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return any(fits(pattern[1:], key[taken:]) for taken in range(len(key) + 1))
    return bool(key) and pattern[0] in ("*", key[0]) and fits(pattern[1:], key[1:])


@pytest.mark.parametrize(
    ("pattern", "key", "fit"),
    [
        ("#", "", True),
        ("#", "a.b.c", True),
        ("*", "a", True),
        ("*", "", False),
        ("a.#.#", "a", True),
        ("#.#.a", "a", True),
        ("*", "a.b", False),
        ("a.#", "a", True),
        ("a.#", "ab", False),
        ("#.a", "a", True),
        ("a.#.b", "a.b", True),
        ("a.*.b", "a.b", False),
        ("a.*.b", "a.x.b", True),
        ("a+b", "aab", False),
    ],
)
def test_a_binding_fits_keys_as_amqp_says(pattern: str, key: str, fit: bool) -> None:
    assert matches(pattern, key) is fit


WORDS = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=5)


@given(st.lists(st.sampled_from(["a", "b", "ab", "*", "#"]), min_size=1, max_size=5), WORDS)
def test_any_binding_fits_what_the_specification_says(pattern: list[str], key: list[str]) -> None:
    assert matches(".".join(pattern), ".".join(key)) is fits(pattern, key)
