"""Texts without what may be private."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpose_edge.plain_words import GONE, WORDS, plain, words_of


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("operands could not be broadcast together with shapes (2,17,3) (3,5)",) * 2,
        ("index 5 is out of bounds for axis 0 with size 3", "index 5 is out of bounds for axis 0 with size 3"),
        ("[Errno 2] No such file or directory: '/home/alice/robot/model.onnx'", "[Errno 2] No such file or directory: '…'"),
        (r"cannot open C:\Users\alice\x.npz", "cannot open …:…"),
        ("KeyError: 'hunter2'", "…: '…'"),
        ("could not convert string to float: 'pa55word'", "could not convert string to float: '…'"),
        ("value 0.4183 of joint 12345678", "value … of …"),
        ("alice@lab.example said no", "… no"),
        ("", ""),
    ],
)
def test_what_stays_is_known_words_and_small_whole_numbers(said: str, told: str) -> None:
    assert plain(said) == told


@given(st.text(max_size=400))
def test_nothing_else_ever_stays(text: str) -> None:
    left = plain(text)
    for part in re.findall(r"[^\s()\[\]{}<>,:;=\"'`|]+", left):
        word = part.rstrip(".!?").lower()
        assert part.strip(GONE) == "" or word in WORDS or re.fullmatch(r"-?\d{1,4}", word) or not any(map(str.isalnum, part)), part


def test_a_long_text_is_short_afterwards_and_soon() -> None:
    assert len(plain("shape " * 1_000_000)) <= 400


def says(value: str) -> str:
    if value:
        raise ValueError(f"expected a flavour of custard, got {value!r}")
    return "nothing"


def test_the_programs_own_words_stay_and_what_was_put_into_them_does_not() -> None:
    words = words_of(says.__code__)
    assert {"expected", "custard", "nothing"} <= words
    with pytest.raises(ValueError, match="custard") as caught:
        says("vanilla-of-alice")
    assert plain(str(caught.value), words) == "expected a flavour of custard, got '…'"
