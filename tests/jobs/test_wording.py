"""Numbers and names as people read them."""

import pytest

from jobs import wording


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (5_770_000, "5.8 MB"),
        (1.5e9, "1.5 GB"),
        (2e15, "2,000.0 TB"),
    ],
)
def test_a_size_has_decimal_units(num_bytes: float, text: str) -> None:
    assert wording.size(num_bytes) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 parts"), (1, "1 part"), (2_000, "2,000 parts")])
def test_one_is_singular(number: int, text: str) -> None:
    assert wording.counted(number, "part") == text


def test_three_names_are_shown_and_that_there_are_more() -> None:
    assert wording.few(["a", "b", "c"]) == "a, b, c"
    assert wording.few(["a", "b", "c", "d"]) == "a, b, c, …"
    assert wording.few([]) == ""


def test_a_long_text_is_cut_and_stands_on_one_line() -> None:
    assert wording.short("a\n b\tc") == "a b c"
    assert wording.short("x" * 10, 10) == "x" * 10
    assert wording.short("x" * 11, 10) == "x" * 9 + "…"


def test_a_text_that_is_cut_stays_as_it_is_otherwise() -> None:
    assert wording.cut("a\n b", 9) == "a\n b"
    assert wording.cut("a\n bcd", 4) == "a\n …"
