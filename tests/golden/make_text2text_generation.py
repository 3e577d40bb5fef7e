"""Golden texts of the text2text-generation pipeline of transformers 4.57.6, and the log-probabilities behind them.

Run it as make_question_answering.py is, with an output of tests/golden/text2text_generation.json. The JSON:

    versions, checkpoints, weights, encodings   as there; an encoding is of one input, truncated
    generation      name -> arguments of `generate`
    inputs          texts, each truncated to the tokenizer's model_max_length
    candidates      texts whose likelihood is asked
    results         checkpoint -> one result per input

A result has

    texts           name of a generation -> the pipeline's `generated_text`
    greedy          `tokens` without the start token, up to and with the first </s>, and their `logprobs`
    beams           every beam, best first: `tokens` as above, and `score`: sum of log-probabilities / tokens
    first           the five likeliest first tokens as [id, logit]
    candidates      for each candidate [sum of the log-probabilities of its tokens and </s>, number of those tokens]
"""

from typing import Any

import torch

from tests.golden import oracle

INPUTS = [
    "",
    " ",
    "good",
    "read",
    "a good film",
    "the film was bad",
    "question: who wrote it? context: they wrote it after the first film.",
    "translate: the slow library is not a place for fast people",
    "Is this a really great tool? yes or no",
    "summarize: " + "One of the people in the library read a good book, and then they wrote about it. " * 8,
    "write about the new world",
    "café naïve über",
    "القاهرة هي عاصمة مصر",
    "the people 😀 like the library ☕🏽",
    "It cost $1,234.56 on 3/4/2024!",
    "tab\tand\nnew line",
    "who are you? who are they? who is he?",
    "data model tool library film question answer",
    "what would you do if there were no time? " * 2,
    "Query: good film Document: the film was great Relevant:",
    "an answer </s> after the end",
]

CANDIDATES = ["good", "bad", "a really great film", "the world of data"]

MAX_NEW_TOKENS = 12
GENERATION: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False, "num_beams": 1, "max_new_tokens": MAX_NEW_TOKENS},
    "beam": {"do_sample": False, "num_beams": 3, "max_new_tokens": MAX_NEW_TOKENS},
}


def main() -> None:
    """Write the texts and numbers of every sequence-to-sequence checkpoint of a folder."""
    arguments = oracle.arguments(__doc__)
    built = oracle.checkpoints(arguments.folder, "seq2seq-lm")
    golden: dict[str, Any] = {
        "versions": oracle.versions(),
        "checkpoints": {name: how["build"] for name, how in built.items()},
        "weights": {name: how["weights"] for name, how in built.items()},
        "encodings": {},
        "generation": GENERATION,
        "inputs": INPUTS,
        "candidates": CANDIDATES,
        "results": {},
    }
    for name, how in built.items():
        pipe = oracle.open_pipeline("text2text-generation", arguments.folder / name, how)
        encodings = [pipe.tokenizer(text, truncation=True, return_offsets_mapping=True) for text in INPUTS]
        golden["encodings"][name] = oracle.digest(encodings)
        with torch.inference_mode():
            golden["results"][name] = [result(pipe, text) for text in INPUTS]
    oracle.write(golden, arguments.output)


def result(pipe: Any, text: str) -> dict[str, Any]:
    """All that is asked of one input, alone in its batch."""
    inputs = dict(pipe.tokenizer(text, truncation=True, return_tensors="pt"))
    return {
        "texts": {
            name: pipe(text, truncation=True, **options)[0]["generated_text"] for name, options in GENERATION.items()
        },
        "greedy": greedy(pipe.model, inputs),
        "beams": beams(pipe.model, inputs),
        "first": first_tokens(pipe.model, inputs),
        "candidates": [likelihood(pipe, inputs, candidate) for candidate in CANDIDATES],
    }


def greedy(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Greedy tokens, and what the model gave each."""
    out = model.generate(**inputs, **GENERATION["greedy"], return_dict_in_generate=True, output_scores=True)
    logprobs = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)[0]
    tokens = upto_eos(out.sequences[0, 1:].tolist(), model.config.eos_token_id)
    return {"tokens": tokens, "logprobs": logprobs[: len(tokens)].tolist()}


def beams(model: Any, inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """The beams that `generate` would choose from."""
    options = GENERATION["beam"]
    every = {**options, "num_return_sequences": options["num_beams"]}
    out = model.generate(**inputs, **every, return_dict_in_generate=True, output_scores=True)
    sequences = [upto_eos(sequence[1:].tolist(), model.config.eos_token_id) for sequence in out.sequences]
    scores = out.sequences_scores.tolist()
    return [{"tokens": tokens, "score": score} for tokens, score in zip(sequences, scores, strict=True)]


def upto_eos(tokens: list[int], eos: int) -> list[int]:
    """Tokens up to and with the first end; a pad before it is a token like others, and stays."""
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


def first_tokens(model: Any, inputs: dict[str, Any]) -> list[tuple[int, float]]:
    """The likeliest first tokens, from one step of the decoder."""
    start = torch.full((1, 1), model.config.decoder_start_token_id)
    top = model(**inputs, decoder_input_ids=start).logits[0, 0].topk(5)
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def likelihood(pipe: Any, inputs: dict[str, Any], candidate: str) -> tuple[float, int]:
    """Sum of the log-probabilities of a candidate's tokens, from the mean that is the model's own loss."""
    labels = pipe.tokenizer(candidate, return_tensors="pt")["input_ids"]
    length = labels.shape[1]
    return -pipe.model(**inputs, labels=labels).loss.item() * length, length


if __name__ == "__main__":
    main()
