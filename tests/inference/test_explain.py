"""Validation errors as sentences."""

from typing import Any

import pytest
from pydantic import Field, ValidationError, field_validator

from inference.config import Frozen
from inference.explain import explain_validation_error


class Oven(Frozen):
    """Nested options."""

    temperature: int = 180
    fan: bool = False


class Kitchen(Frozen):
    """Options."""

    name: str
    oven: Oven = Field(default_factory=Oven)
    spare: Oven | None = None
    shelves: int = 1

    @field_validator("shelves")
    @classmethod
    def _few(cls, value: int) -> int:
        if value > 3:
            msg = "there is room for 3"
            raise ValueError(msg)
        return value


def explain(content: dict[str, Any], prefix: str = "") -> str:
    with pytest.raises(ValidationError) as caught:
        Kitchen.model_validate(content)
    return explain_validation_error(caught.value, Kitchen, prefix)


def test_an_unknown_key_is_answered_with_the_nearest_known_one() -> None:
    assert explain({"name": "a", "shelfs": 1}) == "shelfs: unknown key; did you mean 'shelves'?"


def test_an_unknown_key_like_no_other_is_answered_with_all_of_them() -> None:
    assert explain({"name": "a", "zzz": 1}) == "zzz: unknown key; expected one of name, oven, spare, shelves"


@pytest.mark.parametrize("key", ["oven", "spare"])
def test_a_nested_unknown_key_is_answered_with_the_nearest_of_its_own_level(key: str) -> None:
    sentence = explain({"name": "a", key: {"temprature": 200}})
    assert sentence == f"{key}.temprature: unknown key; did you mean 'temperature'?"


def test_a_value_of_the_wrong_type_is_quoted() -> None:
    sentence = explain({"name": "a", "oven": {"temperature": "hot"}})
    assert sentence.startswith("oven.temperature: Input should be a valid integer")
    assert sentence.endswith("but got 'hot'")


def test_a_missing_key_says_only_that_it_is_required() -> None:
    assert explain({"shelves": 2}) == "name: Field required"


def test_a_rule_of_our_own_stands_as_it_was_written() -> None:
    assert explain({"name": "a", "shelves": 9}) == "shelves: there is room for 3, but got 9"


def test_every_wrong_key_is_named_below_the_prefix() -> None:
    sentence = explain({"shelfs": 1, "oven": {"fun": True}}, prefix="house.kitchen")
    assert [part.split(":")[0] for part in sentence.split("; ") if part.startswith("house")] == [
        "house.kitchen.name",
        "house.kitchen.oven.fun",
        "house.kitchen.shelfs",
    ]
