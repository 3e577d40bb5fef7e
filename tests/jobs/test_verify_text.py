"""What `shardlabel verify` prints, where a number could say more than it means."""

import pytest

from jobs.verify_text import _percent


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100%"), (0.99999, "99.99%"), (147 / 148, "99.32%"), (0.98, "98%"), (0.29, "29%"), (0.0, "0%")],
)
def test_only_all_rows_are_a_hundred_per_cent(share: float, text: str) -> None:
    assert _percent(share) == text
