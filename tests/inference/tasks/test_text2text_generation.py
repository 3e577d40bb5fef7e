"""Generation, first steps and candidates of T5, Flan-T5 and BART against plain transformers, one row at a time."""

import hashlib
import json
import math
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    T5Model,
)

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer, seq2seq
from inference.checkpoint import open_checkpoint
from inference.errors import ConfigError, ModelError
from inference.tasks import load_task
from inference.tasks.text2text_generation import decode
from tests.conftest import RAGGED_TEXTS
from tests.families import TOKENIZERS, build_checkpoint
from tests.inference.conftest import assert_same, edit_json

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "text2text_generation.json").read_text(encoding="utf-8"))
FLAN: dict[str, Any] = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}
TEXTS = [
    *RAGGED_TEXTS,
    "an end </s> inside",
    "<pad> and <pad>",
    "👩‍🔬👩‍🔬",
    "e\u0301 cafe\u0301 هذا كتاب",
    "read a book",
]
CANDIDATES = ("good", "bad", "a really great film", "", "the world")
STEPS = 9


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T5 of version 1.0: its embedding is also its lm_head, and states are scaled before it."""
    return build_checkpoint(tmp_path_factory.mktemp("t5"), "t5", "seq2seq-lm")


@pytest.fixture(scope="module")
def flan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T5 of version 1.1, as Flan-T5: an lm_head of its own."""
    return build_checkpoint(tmp_path_factory.mktemp("flan"), "t5", "seq2seq-lm", **FLAN)


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder starts with </s>, targets open with <s>, and the last token is forced to be </s>."""
    folder = tmp_path_factory.mktemp("bart")
    tokenizer = TOKENIZERS["roberta"]()
    tokenizer.model_max_length = 64
    layers = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}
    sizes: dict[str, Any] = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in layers.items()}
    torch.manual_seed(3)
    config = BartConfig(vocab_size=len(tokenizer), d_model=32, max_position_embeddings=64, init_std=0.25, **sizes)
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["t5", "flan", "bart"])
def path(request: pytest.FixtureRequest) -> Path:
    """Each of the three."""
    found: Path = request.getfixturevalue(request.param)
    return found


class Answerer:
    """A tokenizer and a predictor, as a user puts them together."""

    def __init__(self, path: Path, *, dtype: Any = "float32", budget: int | None = None, **task: Any) -> None:
        model = ModelConfig(name=str(path), dtype=dtype, max_batch_tokens=budget)
        config = TaskConfig(name="text2text-generation", **task)
        self.tokenizer, self.predictor = Tokenizer(model, config), Predictor(model, config)
        self.module = self.predictor._model._module

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.predictor(self.tokenizer(pa.table({"text": texts}))).to_pylist()
        assert [row["error"] for row in rows] == [None] * len(texts)
        return rows


@cache
def load(path: Path) -> tuple[Any, Any]:
    """The reference: transformers' own model and tokenizer."""
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(path, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(path)


def encode(path: Path, text: str) -> dict[str, Any]:
    return dict(load(path)[1](text, truncation=True, return_tensors="pt"))


def greedy_without_a_cache(path: Path, text: str) -> tuple[list[int], list[torch.Tensor]]:
    """The likeliest token, step after step, each with a whole forward; and the logits of every step."""
    model, inputs = load(path)[0], encode(path, text)
    end, tokens, logits = model.config.eos_token_id, list[int](), list[torch.Tensor]()
    while end not in tokens and len(tokens) < STEPS:
        fed = torch.tensor([[model.config.decoder_start_token_id, *tokens]])
        with torch.no_grad():
            logits.append(model(**inputs, decoder_input_ids=fed, use_cache=False).logits[0, -1])
        is_forced = len(tokens) == STEPS - 1 and model.config.model_type == "bart"
        tokens.append(end if is_forced else int(logits[-1].argmax()))
    return tokens, logits


def close(actual: Any, expected: Any) -> None:
    """Float32 after some layers: 1e-5, and for numbers above 10 a millionth of them."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), atol=1e-5, rtol=1e-6)


def test_greedy_tokens_and_their_logits_are_those_of_a_loop_without_a_cache(path: Path) -> None:
    rows = Answerer(path, options={"max_new_tokens": STEPS, "top_k": 7}, logits=True)(TEXTS)
    tokenizer = load(path)[1]
    for text, row in zip(TEXTS, rows, strict=True):
        tokens, logits = greedy_without_a_cache(path, text)
        assert [step["token_id"] for step in row["steps"]] == tokens
        assert row["prediction"] == tokenizer.decode(tokens, skip_special_tokens=True)
        assert (row["num_generated"], row["finished"]) == (len(tokens), tokens[-1] == tokenizer.eos_token_id)
        logs = [float(step.log_softmax(-1)[token]) for step, token in zip(logits, tokens, strict=True)]
        close([step["log_probability"] for step in row["steps"]], logs)
        close(row["log_probability"], sum(logs))
        close(row["confidence"], math.exp(sum(logs) / len(logs)))
        for step, expected in zip(row["steps"], logits, strict=True):
            assert step["top_ids"] == expected.topk(7).indices.tolist()
            close(step["top_logits"], expected.topk(7).values.tolist())
    assert {row["finished"] for row in rows} == ({True} if "bart" in path.name else {True, False})


@pytest.mark.parametrize("penalty", [1.0, 3.0, -2.0])
def test_beams_are_those_of_generate_for_a_row_alone(path: Path, penalty: float) -> None:
    options = {"max_new_tokens": STEPS, "num_beams": 4, "length_penalty": penalty}
    rows = Answerer(path, options=options, logits=True)(TEXTS)
    model, tokenizer = load(path)
    for text, row in zip(TEXTS, rows, strict=True):
        out = model.generate(**encode(path, text), **options, return_dict_in_generate=True, output_scores=True)
        tokens = out.sequences[0, 1:].tolist()
        assert [step["token_id"] for step in row["steps"]] == tokens
        assert row["prediction"] == tokenizer.decode(tokens, skip_special_tokens=True)
        if "bart" not in path.name:  # there the forced end counts with what the model gave it, not with 1
            close(row["log_probability"] / len(tokens) ** penalty, out.sequences_scores.item())


def test_candidates_have_the_likelihood_that_the_models_own_loss_says(path: Path) -> None:
    model, tokenizer = load(path)
    labels = [tokenizer(text, return_tensors="pt")["input_ids"] for text in CANDIDATES]
    with torch.no_grad():
        losses = [[model(**encode(path, text), labels=ids).loss.item() for ids in labels] for text in TEXTS]
    means = -np.array(losses)
    for score, expected in (("mean", means), ("sum", means * [ids.shape[1] for ids in labels])):
        options = {"candidates": CANDIDATES, "candidate_score": score}
        rows = Answerer(path, options=options, logits=True, scores=True)(TEXTS)
        close([row["logits"] for row in rows], expected)
        scores = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
        close([row["scores"] for row in rows], scores)
        close([row["confidence"] for row in rows], scores.max(axis=1))
        assert [row["label"] for row in rows] == [CANDIDATES[i] for i in scores.argmax(axis=1)]


@pytest.mark.parametrize("name", ["t5", "flan"])
def test_first_token_candidates_are_ranked_as_monot5_ranks(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    model, tokenizer = load(path)
    texts = ["Query: good film Document: the film was great Relevant:", *TEXTS]
    options = {"candidates": ["good", "bad"], "candidate_score": "first_token"}
    rows = Answerer(path, options=options, logits=True)(texts)
    good, bad = (tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in ("good", "bad"))
    for text, row in zip(texts, rows, strict=True):
        with torch.no_grad():
            logits = model(**encode(path, text), decoder_input_ids=torch.tensor([[0]])).logits[0, 0, [good, bad]]
        close(row["logits"], logits.tolist())
        assert row["label"] == ("good", "bad")[int(logits.argmax())]
        close(row["confidence"], logits.softmax(0).max().tolist())


def test_the_first_step_is_the_plain_forwards(path: Path) -> None:
    model, tokenizer = load(path)
    rows = Answerer(path, options={"logits_at": "first", "top_k": 6})(TEXTS)
    start = torch.tensor([[model.config.decoder_start_token_id]])
    for text, row in zip(TEXTS, rows, strict=True):
        with torch.no_grad():
            logits = model(**encode(path, text), decoder_input_ids=start).logits[0, 0]
        top = logits.topk(6)
        assert [item["token_id"] for item in row["first_tokens"]] == top.indices.tolist()
        assert [item["token"] for item in row["first_tokens"]] == tokenizer.convert_ids_to_tokens(top.indices.tolist())
        close([item["logit"] for item in row["first_tokens"]], top.values.tolist())
        close([item["confidence"] for item in row["first_tokens"]], logits.softmax(0)[top.indices].tolist())
        assert row["prediction"] == tokenizer.decode(top.indices[:1].tolist())
        assert row["confidence"] == row["first_tokens"][0]["confidence"]


@pytest.mark.parametrize(("name", "scale"), [("t5", 32**-0.5), ("flan", 1.0)])
def test_logits_are_not_the_last_hidden_state_of_a_t5_model(
    name: str, scale: float, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    bare: Any = T5Model.from_pretrained(path, dtype=torch.float32)
    (row,) = Answerer(path, options={"logits_at": "first", "top_k": 3})(["a good film"])
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        bare(**encode(path, "a good film"))
    with torch.no_grad():
        states = bare(**encode(path, "a good film"), decoder_input_ids=torch.tensor([[0]])).last_hidden_state
        logits = load(path)[0].lm_head(states[0, 0] * scale)
    assert states.shape[-1] == 32 < len(logits)
    close([item["logit"] for item in row["first_tokens"]], logits.topk(3).values.tolist())


@pytest.mark.parametrize("name", ["t5", "flan"])
def test_answers_are_those_of_the_last_transformers_with_this_pipeline(
    name: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    golden = "flan-t5" if name == "flan" else name
    assert hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest() == GOLDEN["weights"][golden]
    inputs, expected = GOLDEN["inputs"], GOLDEN["results"][golden]
    for kind, how in GOLDEN["generation"].items():
        options = {key: value for key, value in how.items() if key != "do_sample"}
        rows = Answerer(path, options=options, logits=True)(inputs)
        assert [row["prediction"] for row in rows] == [result["texts"][kind] for result in expected]
        tokens = [[step["token_id"] for step in row["steps"]] for row in rows]
        if kind == "greedy":
            assert tokens == [result["greedy"]["tokens"] for result in expected]
            for row, result in zip(rows, expected, strict=True):
                close([step["log_probability"] for step in row["steps"]], result["greedy"]["logprobs"])
        else:
            assert tokens == [result["beams"][0]["tokens"] for result in expected]
            means = [row["log_probability"] / row["num_generated"] for row in rows]
            close(means, [result["beams"][0]["score"] for result in expected])
    rows = Answerer(path, options={"logits_at": "first"})(inputs)
    first = [[[item["token_id"], item["logit"]] for item in row["first_tokens"]] for row in rows]
    close(first, [result["first"] for result in expected])
    rows = Answerer(path, options={"candidates": GOLDEN["candidates"]}, logits=True)(inputs)
    close([row["logits"] for row in rows], [[score for score, _ in result["candidates"]] for result in expected])


MODES: list[dict[str, Any]] = [
    {"options": {"max_new_tokens": STEPS, "top_k": 3}, "logits": True},
    {"options": {"max_new_tokens": STEPS, "num_beams": 3}, "logits": True},
    {"options": {"logits_at": "first"}},
    {"options": {"candidates": CANDIDATES}, "logits": True, "scores": True},
]


@pytest.fixture(scope="module", params=MODES, ids=["greedy", "beam", "first", "candidates"])
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How a task is configured."""
    found: dict[str, Any] = request.param
    return found


@pytest.fixture(scope="module")
def answer(t5: Path, mode: dict[str, Any]) -> Answerer:
    return Answerer(t5, **mode)


@pytest.fixture(scope="module")
def together(answer: Answerer) -> list[dict[str, Any]]:
    return answer(TEXTS)


@settings(max_examples=8)
@given(rows=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=20))
def test_neither_order_nor_company_changes_an_answer(
    answer: Answerer, together: list[dict[str, Any]], rows: list[int]
) -> None:
    assert_same(answer([TEXTS[i] for i in rows]), [together[i] for i in rows], 2e-5)


@settings(max_examples=10)
@given(text=st.text(max_size=60))
def test_any_text_is_answered_as_when_alone(answer: Answerer, text: str) -> None:
    assert_same(answer(["a good film", text, "x" * 50])[1], answer([text])[0], 2e-5)


@pytest.mark.parametrize("budget", [1, 70, 100_000])
def test_the_token_budget_changes_no_answer(t5: Path, mode: dict[str, Any], answer: Answerer, budget: int) -> None:
    assert_same(Answerer(t5, budget=budget, **mode)(TEXTS), answer(TEXTS), 2e-5)


def test_logits_never_outgrow_their_limit_and_slices_change_no_answer(
    t5: Path, mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Answerer(t5, budget=100_000, **mode)
    expected = whole(TEXTS)
    sizes: list[int] = []
    whole.module.lm_head.register_forward_hook(lambda _module, _inputs, logits: sizes.append(logits.numel()))
    limit = STEPS * whole.module.config.vocab_size  # one row of a whole answer, or the first steps of nine
    monkeypatch.setattr(seq2seq, "_MAX_LOGITS", limit)
    assert_same(whole(TEXTS), expected, 2e-5)
    assert max(sizes) <= limit
    monkeypatch.setattr(seq2seq, "_MAX_LOGITS", 1)
    assert_same(whole(TEXTS), expected, 2e-5)
    monkeypatch.setattr(seq2seq, "_MAX_CACHED_TOKENS", STEPS)
    assert_same(whole(TEXTS), expected, 2e-5)


def test_the_encoder_and_its_keys_are_computed_once_however_many_the_candidates(t5: Path) -> None:
    answer = Answerer(t5, options={"candidates": CANDIDATES})
    calls: list[str] = []
    decoder = answer.module.decoder.block[0].layer
    answer.module.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    decoder[1].EncDecAttention.k.register_forward_hook(lambda *_: calls.append("keys"))
    decoder[0].SelfAttention.k.register_forward_hook(lambda *_: calls.append("decoder"))
    answer(["a good film", "bad"])
    assert sorted(calls) == ["decoder"] * len(CANDIDATES) + ["encoder", "keys"]


def test_a_generation_config_in_the_checkpoint_changes_no_answer(t5: Path, tmp_path: Path) -> None:
    spoilt = Path(shutil.copytree(t5, tmp_path / "spoilt"))
    opinions = {"num_beams": 3, "no_repeat_ngram_size": 1, "min_length": 8, "max_length": 5, "repetition_penalty": 9.0}
    edit_json(spoilt / "generation_config.json", do_sample=True, temperature=9.0, **opinions)
    options = {"max_new_tokens": STEPS}
    expected = Answerer(t5, options=options)(TEXTS)
    assert Answerer(spoilt, options=options)(TEXTS) == expected
    model, tokenizer = load(spoilt)
    torch.manual_seed(0)
    swayed = model.generate(**encode(spoilt, "good"), **options)[0]
    assert tokenizer.decode(swayed, skip_special_tokens=True) != expected[TEXTS.index("read a book")]["prediction"]


def test_bfloat16_logits_are_normalised_in_float32(t5: Path) -> None:
    vocabulary = load(t5)[0].config.vocab_size
    task: dict[str, Any] = {"options": {"max_new_tokens": STEPS, "top_k": vocabulary}, "logits": True}
    for row in Answerer(t5, dtype="bfloat16", **task)(TEXTS):
        for step in row["steps"]:
            logits = np.array(step["top_logits"], np.float64)
            chosen = logits[step["top_ids"].index(step["token_id"])]
            assert step["log_probability"] == pytest.approx(chosen - np.log(np.exp(logits).sum()), abs=1e-5)
    task = {"options": {"candidates": CANDIDATES}, "scores": True}
    whole, half = (Answerer(t5, dtype=dtype, **task)(TEXTS) for dtype in ("float32", "bfloat16"))
    assert_same([row["scores"] for row in half], [row["scores"] for row in whole], 0.05)


def test_a_text_of_a_hundred_thousand_characters_is_cut_or_refused(t5: Path) -> None:
    long = "the film was good " * 5_556
    (row,) = Answerer(t5, options={"max_new_tokens": 3})([long])
    assert (row["truncated"], row["num_tokens"]) == (True, 64)
    assert row["prediction"] == Answerer(t5, options={"max_new_tokens": 3})([long[:2000]])[0]["prediction"]
    model = ModelConfig(name=str(t5))
    task = TaskConfig(name="text2text-generation", options={"long_text": "error"})
    refused = Tokenizer(model, task)(pa.table({"text": [long, "short"]})).column("error").to_pylist()
    assert refused == ["InputError: the text has more tokens than the 64 of a sequence", None]


def test_too_many_new_tokens_for_the_decoders_positions_are_refused(bart: Path) -> None:
    model, task = ModelConfig(name=str(bart)), TaskConfig(name="text2text-generation", options={"max_new_tokens": 65})
    with pytest.raises(ConfigError, match="max_new_tokens: 65 exceeds the decoder's 64 positions; lower it"):
        Predictor(model, task)(Tokenizer(model, task)(pa.table({"text": ["good"]})))


def test_spaces_before_punctuation_are_kept_as_the_pipeline_kept_them(t5: Path) -> None:
    tokenizer = load(t5)[1]
    ids = tokenizer("good , bad .")["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=True, skip_special_tokens=True) == "good, bad."
    assert decode(tokenizer, ids, skip_special_tokens=True) == "good , bad ."


def halve(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A temperature of 2."""
    return logits / 2


def test_a_function_over_the_likelihoods_changes_the_scores(t5: Path) -> None:
    options: dict[str, Any] = {"candidates": CANDIDATES}
    plain = Answerer(t5, options=options, logits=True)(TEXTS)
    options["postprocess"] = f"{__name__}:halve"
    halved = Answerer(t5, options=options, scores=True)
    rows = halved(TEXTS)
    assert halved.predictor._task.hook.identity == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    logits = np.array([row["logits"] for row in plain]) / 2
    close([row["scores"] for row in rows], np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"options": {"candidates": []}}, "task.options.candidates: it is empty"),
        ({"options": {"candidates": ["good", "good "]}}, "candidates: 'good ' is the same tokens as 'good'; remove it"),
        ({"options": {"candidates": [True, False]}}, "candidates.0: Input should be a valid string, but got True"),
        ({"options": {"candidates": ["good"], "num_beams": 2}}, "num_beams: it says nothing beside candidates"),
        ({"options": {"candidates": ["good"], "logits_at": "first"}}, "logits_at: it says nothing beside candidates"),
        ({"options": {"logits_at": "first", "max_new_tokens": 3}}, "max_new_tokens: it says nothing beside logits_at"),
        ({"options": {"candidate_score": "mean"}}, "candidate_score: it is about candidates; name them"),
        ({"options": {"postprocess": "a:b"}}, "postprocess: it is about candidates"),
        ({"options": {"length_penalty": 2.0}}, "length_penalty: it compares beams, and num_beams is 1"),
        ({"options": {"top_k": 2}}, "top_k: the steps of a generation are kept with output.logits"),
        ({"options": {"num_beam": 2}}, "num_beam: unknown key; did you mean 'num_beams'?"),
        ({"options": {"long_text": "window"}}, "long_text: Input should be 'truncate' or 'error'"),
        ({"scores": True}, "output.scores: only task.options.candidates"),
        (
            {"options": {"candidates": ["good", "a film"], "candidate_score": "first_token"}},
            "first_token needs texts of one token and nothing before it, and 'a film' is ['▁a', '▁film']; use sum",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(t5: Path, task: dict[str, Any], message: str) -> None:
    config = TaskConfig(name="text2text-generation", **task)
    with pytest.raises(ConfigError) as error:
        load_task(config, open_checkpoint(ModelConfig(name=str(t5))))
    assert message in str(error.value)


def test_candidates_are_checked_by_the_first_batch_where_there_is_no_tokenizer_json(t5: Path, bart: Path) -> None:
    for path in (t5, bart):
        task: Any = Answerer(path, options={"candidates": ["good"]}).predictor._task
        backend = load(path)[1].backend_tokenizer
        assert task.mode.encode(backend) == [load(path)[1]("good")["input_ids"]]
        task.mode.labels = ("good", " good" if path == t5 else "good")
        with pytest.raises(ConfigError, match="the same tokens as 'good'"):
            task.mode.encode(backend)


def test_a_decoder_without_a_start_token_is_refused(t5: Path) -> None:
    module: Any = Answerer(t5).module
    module.generation_config.decoder_start_token_id = module.config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="no decoder_start_token_id"):
        seq2seq.start_token(module)


def test_the_architecture_that_old_t5_checkpoints_name_is_known(t5: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(t5, tmp_path / "old"))
    edit_json(old / "config.json", architectures=["T5WithLMHeadModel"])
    assert Answerer(old, options={"max_new_tokens": 3})(TEXTS) == Answerer(t5, options={"max_new_tokens": 3})(TEXTS)
    edit_json(old / "config.json", architectures=["T5Model"])
    with pytest.raises(ModelError, match="T5Model checkpoint without a trained head for text2text-generation"):
        Answerer(old)


ENDS = ["a good </s> film", "</s>", "</s></s> the </s>", "bad </s> </s> and slow"]


@pytest.mark.parametrize("settings", [{}, FLAN], ids=["t5", "flan"])
@pytest.mark.parametrize("budget", [None, 1])
def test_a_t5_classifier_answers_every_row_whatever_ends_are_in_the_texts(
    tmp_path: Path, settings: dict[str, Any], budget: int | None
) -> None:
    path = build_checkpoint(tmp_path, "t5", "sequence-classification", **settings)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    texts = [text for pair in zip(TEXTS, ENDS * 4, strict=False) for text in pair]
    config = ModelConfig(name=str(path), dtype="float32", max_batch_tokens=budget)
    task = TaskConfig(logits=True)
    rows = Predictor(config, task)(Tokenizer(config, task)(pa.table({"text": texts}))).to_pylist()
    assert {row["error"] for row in rows} == {None}
    with torch.no_grad():
        logits = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0].tolist() for text in texts]
        with pytest.raises(ValueError, match="same number of <eos>"):
            model(**tokenizer(["good", "</s>"], padding=True, return_tensors="pt"))
    assert_same([row["logits"] for row in rows], logits)
    assert len({row["label"] for row in rows}) > 1
