"""Which column holds what, guessed from a sample of the rows, and which task a checkpoint was made for."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from inference.errors import InputError
from inference.tasks import is_text

_TEXT_NAMES = frozenset(
    {"abstract", "article", "body", "caption", "comment", "content", "contents", "description", "document", "message"}
    | {"passage", "post", "review", "sentence", "summary", "text", "transcript", "tweet", "utterance"}
)
_ROLE_NAMES = {
    "context": frozenset({"context", "document", "paragraph", "passage", "text"}),
    "query": frozenset({"query", "question", "search"}),
    "question": frozenset({"question", "query"}),
}
_ID_NAMES = frozenset({"guid", "id", "key", "uid", "uuid"})

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|www\.)\S+", re.IGNORECASE)
_NUMBER = re.compile(r"[\d\s.,:+/TZ%$€-]+")

# Identifiers and categories are short: a UUID has 36 characters.
_MAX_NAME = 64
_MIN_VALUES = 20


class Kind(StrEnum):
    """What the values of a column of strings look like."""

    TEXT = "text"
    ID = "an id"
    URL = "addresses"
    NUMBER = "numbers or dates"
    CATEGORY = "a category"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLook:
    """What a sample says of a column of strings."""

    name: str
    kind: Kind
    num_values: int
    """Of the sample, nulls not counted."""
    num_distinct: int
    mean_characters: float
    null_fraction: float
    example: str

    @property
    def score(self) -> float:
        """How much it looks like the text to label: its length where it is there, thrice if its name says so."""
        named = 3.0 if _words(self.name) & _TEXT_NAMES else 1.0
        return self.mean_characters * (1 - self.null_fraction) * named

    def __str__(self) -> str:
        """What was seen, for people."""
        seen = f"{self.mean_characters:,.0f} characters on average"
        if self.kind is Kind.CATEGORY:
            seen = f"{self.kind}: {self.num_distinct:,} values in {self.num_values:,} rows"
        elif self.kind is not Kind.TEXT:
            seen = str(self.kind)
        return seen + (f", {self.null_fraction:.0%} null" if self.null_fraction else "")


def look_at(sample: pa.Table) -> list[ColumnLook]:
    """Every column of strings, the likeliest text first."""
    columns = [_look(field.name, sample.column(field.name)) for field in sample.schema if is_text(field.type)]
    return sorted(columns, key=lambda column: (column.kind is not Kind.TEXT, -column.score))


def assign(roles: Sequence[str], looks: Sequence[ColumnLook]) -> dict[str, ColumnLook]:
    """The column for each of the columns that a task reads: by its name, or the likeliest that is left.

    Raises:
        InputError: there are fewer columns of strings than the task reads.
    """
    if len(looks) < len(roles):
        names = ", ".join(look.name for look in looks) or "none"
        msg = f"INPUT: the task reads {' and '.join(roles)}, and the columns of text are: {names}; name another task"
        raise InputError(msg)
    found: dict[str, ColumnLook] = {}
    # First a role that a column is named for, lest another one takes it; then the last one: that has the long text.
    is_named = {role: any(_is_named(role, look) for look in looks) for role in roles}
    for role in sorted(roles, key=lambda role: (not is_named[role], -roles.index(role))):
        free = [look for look in looks if look not in found.values()]
        found[role] = max(free, key=lambda look: _fitness(role, look))  # the first of equals, and they are sorted
    return {role: found[role] for role in roles}


def guess_id(sample: pa.Table, looks: Sequence[ColumnLook]) -> str | None:
    """The column that tells rows apart, if one does."""
    ids = [look.name for look in looks if look.kind is Kind.ID and not look.null_fraction]
    for field in sample.schema:
        column = sample.column(field.name)
        is_unique = not column.null_count and (field.name in ids or pa.types.is_integer(field.type))
        if is_unique and _words(field.name) & _ID_NAMES and len(column.unique()) == len(column):
            return str(field.name)
    return ids[0] if ids else None


def choose_task(fitting: Sequence[str], columns: Collection[str], *, has_masks: bool) -> str:
    """One of the tasks that a checkpoint fits: what only the columns can tell, they tell.

    Args:
        fitting: the tasks, at least one, those with a head of their own first.
        columns: names in the table.
        has_masks: whether texts hold the checkpoint's mask token.
    """
    for name, column in {"text-ranking": "query", "zero-shot-classification": "candidate_labels"}.items():
        if name in fitting and column in columns:
            return name
    left = [name for name in fitting if name != "fill-mask" or has_masks] or list(fitting)
    return next((name for name in left if name == "text-classification"), left[0])


def _look(name: str, column: pa.ChunkedArray) -> ColumnLook:
    raw = column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()  # what is no UTF-8 fails later, as rows
    values = [value.decode(errors="replace") for value in raw if value is not None]
    lengths = [len(value) for value in values]
    return ColumnLook(
        name=name,
        kind=_kind(values),
        num_values=len(values),
        num_distinct=len(set(values)),
        mean_characters=sum(lengths) / max(len(lengths), 1),
        null_fraction=1 - len(values) / max(len(column), 1),
        example=next((value for value in values if value.strip()), ""),
    )


def _kind(values: list[str]) -> Kind:
    filled = [value for value in values if value.strip()]
    if not filled:
        return Kind.EMPTY
    most, num_distinct = 0.9 * len(filled), len(set(filled))
    if sum(map(bool, map(_URL.fullmatch, filled))) >= most:
        return Kind.URL
    if sum(map(bool, map(_NUMBER.fullmatch, filled))) >= most:
        return Kind.NUMBER
    is_short = sum(map(len, filled)) <= _MAX_NAME * len(filled)
    if is_short and len(filled) >= _MIN_VALUES and num_distinct <= 0.1 * len(filled):
        return Kind.CATEGORY
    has_no_blanks = sum(" " not in value for value in filled) >= most
    if is_short and has_no_blanks and len(filled) > 1 and num_distinct >= most:
        return Kind.ID
    return Kind.TEXT


def _fitness(role: str, look: ColumnLook) -> tuple[bool, bool, bool, float]:
    is_own = look.name == role
    # A category that happens to be called "text" is not what is to be labelled; a short "question" is one.
    is_likely = look.kind is Kind.TEXT or (is_own and role in _ROLE_NAMES)
    return is_likely, is_own, _is_named(role, look), look.score


def _is_named(role: str, look: ColumnLook) -> bool:
    return look.name == role or bool(_words(look.name) & _ROLE_NAMES.get(role, frozenset()))


def _words(name: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_").replace(".", "_").split("_"))
