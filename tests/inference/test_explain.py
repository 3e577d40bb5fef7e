"""Validation errors as sentences."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from inference.config import Frozen
from inference.explain import explain_validation_error

Heat = Annotated[float, Field(gt=0)]


class Oven(Frozen):
    """Nested options."""

    temperature: int = 180
    fan: bool = False


class Trays(Frozen):
    """Options with a rule of their own, which pydantic's name of them says."""

    fewest: int = 1

    @model_validator(mode="after")
    def _some(self) -> "Trays":
        return self


class Kitchen(Frozen):
    """Options."""

    name: str
    oven: Oven = Field(default_factory=Oven)
    spare: Oven | None = None
    shelves: int = 1
    heat: Heat | dict[str, Heat] | None = None
    plates: PositiveInt | Oven | Literal["auto"] = "auto"
    trays: PositiveInt | Trays = 1

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
    known = "name, oven, spare, shelves, heat, plates, trays"
    assert explain({"name": "a", "zzz": 1}) == f"zzz: unknown key; expected one of {known}"


def test_a_value_of_several_types_has_one_sentence_that_names_no_class_of_pydantic() -> None:
    assert explain({"name": "a", "heat": "hot"}) == (
        "heat: Input should be a valid number, unable to parse string as a number or "
        "Input should be a valid dictionary, but got 'hot'"
    )
    sentence = explain({"name": "a", "plates": "many"})
    assert sentence.startswith("plates: Input should be a valid integer, unable to parse string as an integer or ")
    assert sentence.endswith(" or Input should be 'auto', but got 'many'")
    assert sentence.count("plates") == 1
    for name in ("constrained", "dict[", "literal[", "Oven."):
        assert name not in sentence


def test_a_label_may_be_called_like_a_type_and_a_key_of_one_of_several_types_is_answered() -> None:
    sentence = explain({"name": "a", "heat": {"float": "hot"}})
    assert "heat.float: Input should be a valid number, unable to parse string as a number, but got 'hot'" in sentence
    for key, typo, known in (("plates", "temprature", "temperature"), ("trays", "fewst", "fewest")):
        assert f"{key}.{typo}: unknown key; did you mean '{known}'?" in explain({"name": "a", key: {typo: 3}})


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
