"""Golden answers of the question-answering pipeline of transformers 4.57.6, the last 4.x release.

Two environments, because this project builds the checkpoints and an older transformers answers:

    .venv/bin/python -m tests.golden.build_checkpoints FOLDER
    OLD/bin/python -m tests.golden.make_question_answering FOLDER tests/golden/question_answering.json

where OLD holds `torch==2.13.0 transformers==4.57.6`. The JSON:

    versions        what computed the numbers
    checkpoints     name -> arguments of `tests.families.build_checkpoint`
    weights         name -> SHA-256 of model.safetensors
    encodings       name -> SHA-256 of ids and offsets of all rows (`oracle.digest`); if it differs, so will answers
    rows            [question, context]
    options         name -> arguments of the pipeline's call
    results         checkpoint -> options -> one result per row, null where it was not asked

A result is a list of answers [score, start, end, text], best first (the pipeline itself returns one answer without
its list), or {"raises": "Type: message"}. The pipeline refuses an empty question or context; such a result is
{"raises": …, "streamed": …}, the latter being what a generator of rows gets, which goes past that check.

Two things are not worth reproducing: "ValueError: kth(=n) out of bounds (n)", a bug of 4.57.6, and answers of score 0,
which fill the list in no particular order where a window has too few spans.
"""

from collections.abc import Callable
from typing import Any

from tests.golden import oracle

FILM = "The film was written in the place where the people read. Then they write about it, and the film was good. "
WORLD = "There is one library in the world that is really fast; all the other places are slow. "
LOVELACE = (
    "Ada Lovelace was born in London in 1815. She wrote the first program for the Analytical Engine, a machine that "
    "was never built. Charles Babbage, who had designed it, called her the Enchantress of Numbers. "
)

ROWS: list[tuple[str, str]] = [
    ("Where was the film written?", FILM),
    ("which one is good?", "a good library"),
    ("who?", LOVELACE),
    ("Who wrote the program?", LOVELACE * 2),
    ("what is fast?", WORLD * 5),
    ("which tool?", "The fast tool. THE FAST TOOL. the fast tool! " * 4),
    ("is it good?", "not good, not bad; naïve"),
    ("where is it?", "Le café « Zoë » est à Orléans, près de l'église."),
    ("who is there?", "the model 🐶 read 😀😀 to the family 👩‍👩‍👧 in the library ☕🏽"),
    ("أين؟", "القاهرة هي عاصمة مصر، وهي مدينة كبيرة على نهر النيل."),
    ("how much?", "It cost $1,234.56 (about €1.1k) on 3/4/2024, e.g. in a state-of-the-art place."),
    ("what?", "\tone\n\n two   three\u00a0four\u2003five \r\n"),
    ("good", "good"),
    ("good", "film"),
    ("a", "b"),
    ("what is the place that all of them read about in the new library, and who is it for?", FILM * 2),
    ("what is it? " * 12, "a tool"),
    ("what is it? " * 12, FILM * 4),
    ("", "a good film"),
    ("what is it?", ""),
    ("", ""),
    (" ", "film"),
    ("what is it?", "   "),
    ("[CLS] <s> it?", "a [CLS] good <s> tool </s> [SEP] film [MASK]"),
    ("what is long?", "x" * 70 + " end"),
]

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "top 3": {"top_k": 3},
    "no answer": {"handle_impossible_answer": True},
    "no answer, top 4": {"handle_impossible_answer": True, "top_k": 4},
    "short answers": {"max_answer_len": 4},
    "one token": {"max_answer_len": 1, "top_k": 2},
    "small windows": {"max_seq_len": 32, "doc_stride": 6},
    "small windows, top 3": {"max_seq_len": 32, "doc_stride": 10, "top_k": 3, "max_answer_len": 8},
    "no overlap": {"max_seq_len": 40, "doc_stride": 0, "top_k": 2},
    "tokens": {"align_to_words": False},
    "tokens, top 3": {"align_to_words": False, "top_k": 3},
    "everything": {
        "max_seq_len": 36,
        "doc_stride": 10,
        "max_answer_len": 5,
        "top_k": 3,
        "handle_impossible_answer": True,
        "align_to_words": False,
    },
}

# "kth out of bounds" is raised where n * n candidates are wanted of a window of n tokens, which has just as many:
# 2 * top_k + 10 with align_to_words, else top_k.
AS_MANY_AS_THERE_ARE: dict[str, dict[str, Any]] = {
    "16 candidates": {"top_k": 3, "max_answer_len": 2},
    "25 candidates": {"top_k": 25, "align_to_words": False, "max_answer_len": 2},
    "36 candidates": {"top_k": 13},
}
SHORT_ROWS = {12, 13, 14, 21}


def main() -> None:
    """Write the answers of every checkpoint of a folder that has a question-answering head."""
    arguments = oracle.arguments(__doc__)
    built = oracle.checkpoints(arguments.folder, "question-answering")
    golden: dict[str, Any] = {
        "versions": oracle.versions(),
        "checkpoints": {name: how["build"] for name, how in built.items()},
        "weights": {name: how["weights"] for name, how in built.items()},
        "encodings": {},
        "rows": ROWS,
        "options": OPTIONS | AS_MANY_AS_THERE_ARE,
        "results": {},
    }
    for name, how in built.items():
        pipe = oracle.open_pipeline("question-answering", arguments.folder / name, how)
        golden["encodings"][name] = oracle.digest([pipe.tokenizer(*row, return_offsets_mapping=True) for row in ROWS])
        golden["results"][name] = {key: results(pipe, key) for key in golden["options"]}
    oracle.write(golden, arguments.output)


def results(pipe: Any, key: str) -> list[Any]:
    """One result per row; the options that are about short windows only for those rows."""
    options = (OPTIONS | AS_MANY_AS_THERE_ARE)[key]
    rows = SHORT_ROWS if key in AS_MANY_AS_THERE_ARE else range(len(ROWS))
    return [result(pipe, row, options) if i in rows else None for i, row in enumerate(ROWS)]


def result(pipe: Any, row: tuple[str, str], options: dict[str, Any]) -> Any:
    """Answers, or what was raised; a row with an empty text is also sent past the pipeline's argument check."""
    question, context = row
    asked = attempt(lambda: pipe(question=question, context=context, **options))
    if question and context:
        return asked
    rows = (item for item in [{"question": question, "context": context}])
    return {**asked, "streamed": attempt(lambda: next(iter(pipe(rows, **options))))}


def attempt(ask: Callable[[], Any]) -> Any:
    """Answers as rows of four, or the exception: the Rust tokenizer's panic is not even an `Exception`."""
    try:
        answers = ask()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the golden value
        return {"raises": f"{type(error).__name__}: {error}"}
    if isinstance(answers, dict):
        answers = [answers]
    return [[answer[key] for key in ("score", "start", "end", "answer")] for answer in answers]


if __name__ == "__main__":
    main()
