"""Notes: a refusal becomes a finding with its advice, once, and hides nothing that comes after it."""

import pytest

from inference.errors import ConfigError
from inference.findings import Notes


def refuse(sentence: str) -> None:
    raise ConfigError(sentence)


@pytest.mark.parametrize(
    ("sentence", "message", "advice"),
    [
        ("a: wrong; mend it", "a: wrong", "mend it"),
        ("a: wrong (b; c); mend it", "a: wrong (b; c)", "mend it"),
        ("a: wrong (b; c)", "a: wrong (b; c)", ""),
        ("a: wrong", "a: wrong", ""),
    ],
)
def test_the_advice_is_what_a_sentence_ends_with(sentence: str, message: str, advice: str) -> None:
    notes = Notes()
    assert notes.attempt("a", lambda: refuse(sentence)) is None
    (finding,) = notes.findings
    assert finding.as_dict() == {"check": "a", "level": "error", "message": message, "advice": advice}


def test_an_error_is_said_once_and_what_follows_is_looked_at() -> None:
    notes = Notes()
    notes.attempt("a", lambda: refuse("wrong; mend it"))
    notes.attempt("b", lambda: refuse("wrong; mend it"))
    assert notes.attempt("c", lambda: 3) == 3
    notes.ok("c", "3")
    assert [(finding.check, finding.level) for finding in notes.findings] == [("a", "error"), ("c", "ok")]


def test_what_is_no_refusal_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        Notes().attempt("a", lambda: 1 // 0)
