"""If these fail, a number that somebody mistyped is read as another one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cardlab.core.errors import CardlabError
from cardlab.core.numerals import decimal, whole
from cardlab.profilers.measure.sweep import choose_frequencies
from cardlab.split.codecs.registry import codec_named
from cardlab.split.keys import split_address
from cardlab.split.shaping import parse_link

ARABIC = "\u0663\u0660"


@pytest.mark.parametrize("text", ["5", "-5.25", "+.5", "5.", "1e3", " 1E-3 ", "nan", "-inf"])
def test_numbers_are_read(text: str) -> None:
    assert str(decimal(text)) == str(float(text))


@pytest.mark.parametrize("text", ["5_3", ARABIC, "0x10", "", "1,5", "1e", "five"])
def test_what_is_no_number_is_refused(text: str) -> None:
    for read in (decimal, whole):
        with pytest.raises(ValueError, match="is not a"):
            read(text)


@pytest.mark.parametrize(
    "read",
    [
        lambda: codec_named("dense:0_4"),
        lambda: codec_named("dense:\u0664"),
        lambda: codec_named("topk:0.1_0:8"),
        lambda: parse_link(f"{ARABIC}mbit"),
        lambda: parse_link(f"100mbit,{ARABIC}ms"),
        lambda: choose_frequencies((3e8, 6e8), f"{ARABIC}0MHz"),
        lambda: choose_frequencies((3e8, 6e8), "\u0662"),
        lambda: choose_frequencies((3e8, 6e8), "\u00b2"),
        lambda: split_address("host:\u0662\u0662", 1),
        lambda: split_address("host:\u00b2", 1),
    ],
)
def test_names_with_such_numbers_are_refused(read: Callable[[], object]) -> None:
    with pytest.raises(CardlabError, match="is no|is not a|names no"):
        read()
