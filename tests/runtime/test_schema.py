"""Patterns of parameters, in time that is linear in what they are matched with."""

import time

import pytest

from safe_jax.runtime import schema


@pytest.mark.parametrize(
    ("pattern", "text", "matched"),
    [
        ("attnpool/.*", "attnpool/q_proj/kernel", True),
        ("attnpool", "attnpool/q_proj/kernel", False),  # the whole text, not its beginning
        ("kernel", "attnpool/q_proj/kernel", False),
        ("down|up", "up", True),
        ("down|up", "downup", False),
        ("attnpool/[qk]_proj/(bias|kernel)", "attnpool/k_proj/bias", True),
        ("(?i)KEYS", "keys", True),
        ("keys$", "keys\n", False),
        ("", "", True),
    ],
)
def test_a_pattern_matches_the_whole_text(pattern, text, matched):
    assert schema.matches(pattern, text) is matched


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(a|a)*b", "(a*)*b", "a*a*a*a*a*a*a*a*a*a*b", "(.*)*b"]
)
def test_no_pattern_takes_long(pattern):
    began = time.perf_counter()
    assert not schema.matches(pattern, "a" * 60)  # `re` would take years
    assert time.perf_counter() - began < 5
