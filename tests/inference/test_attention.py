"""Sequences without padding against padded ones: attention itself, every family on the list with every task.

The kernel of a GPU runs only where there is one; what it is called with is checked on tensors without values.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface
from transformers.initialization import no_init_weights

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer, available_tasks
from inference.attention import PACKED, attend_first, packed_attention
from inference.checkpoint import open_checkpoint
from inference.config import Dtype
from inference.joined import join
from inference.model import Model
from inference.packing import FAMILIES, Packing
from inference.sequences import Sequences
from inference.tasks import load_task
from inference.trimmed import trim
from tests.families import supports
from tests.inference.conftest import assert_same
from tests.inference.tasks import examples

# CamemBERT is XLM-R under another name, and `tests.families` has no tiny checkpoint of it.
TINY = [family for family in FAMILIES if family != "camembert"]
EVERY_CASE = [
    (config, family)
    for task in available_tasks()
    for config in examples.configs(task)
    for family in TINY
    if supports(family, examples.head(task))
]
LENGTHS = [31, 30, 30, 12, 12, 12, 3, 2, 1, 1]

Build = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`build(task, family)`: a tiny checkpoint, made once."""
    made: dict[tuple[str, str], Path] = {}

    def checkpoint(task: str, family: str) -> Path:
        key = (task if task in examples.LABELS else examples.head(task), family)
        if key not in made:
            made[key] = examples.checkpoint(tmp_path_factory.mktemp(family), task, family)
        return made[key]

    return checkpoint


def load(path: Path, task: str = "feature-extraction", *, dtype: Dtype = "float32", **settings: Any) -> Model:
    config = ModelConfig(name=str(path), dtype=dtype, **settings)
    checkpoint = open_checkpoint(config)
    return Model(config, checkpoint, load_task(TaskConfig(name=task), checkpoint))


def ragged(lengths: list[int]) -> Sequences:
    """Random ids, every one that there is: a text may also spell the padding token."""
    offsets = np.cumsum([0, *lengths])
    ids = np.random.default_rng(1).integers(100, size=offsets[-1], dtype=np.int32)
    return Sequences(ids=ids, features={}, offsets=offsets, row_index=np.arange(len(lengths)))


def hidden_states(model: Model, lengths: list[int]) -> torch.Tensor:
    """What the base model says of every token, in float64."""
    sequences, order = ragged(lengths), np.arange(len(lengths))
    with torch.inference_mode():
        batch = model._packed(sequences, order) if model.is_packed else model._padded(sequences, order)
        values: torch.Tensor = batch.of_tokens(model._module.base_model(**batch.inputs).last_hidden_state)
        return values.double()


def attention_alone(states: list[torch.Tensor], lengths: list[int], window: int | None) -> torch.Tensor:
    """Attention written out, one sequence at a time, in float64."""
    parts = []
    for q, k, v in zip(*(torch.split(x[0].double(), lengths, dim=1) for x in states), strict=True):
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        places = torch.arange(q.shape[1])
        if window is not None:
            scores.masked_fill_((places[:, None] - places[None, :]).abs() >= window, float("-inf"))
        parts.append((scores.softmax(dim=-1) @ v).transpose(0, 1))
    return torch.cat(parts)[None]


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12)
    | st.builds(lambda length, count: [length] * count, st.integers(1, 9), st.integers(1, 30)),
    window=st.none() | st.integers(1, 12),
)
def test_a_token_attends_to_its_own_sequence_alone(lengths: list[int], window: int | None) -> None:
    torch.manual_seed(sum(lengths))
    states = [torch.randn(1, 2, sum(lengths), 8) for _ in range(3)]
    runs = tuple((1, length) for length in lengths) if len(set(lengths)) > 1 else ((len(lengths), lengths[0]),)
    found, weights = packed_attention(
        None, states[0], states[1], states[2], None, cu_seq_lens_q=torch.empty(0), runs=runs, sliding_window=window
    )
    assert weights is None
    torch.testing.assert_close(found.double(), attention_alone(states, lengths, window), rtol=0, atol=2e-6)


def test_without_bounds_or_with_a_mask_there_is_no_attention_at_all() -> None:
    states = torch.randn(1, 2, 5, 8)
    for mask, bounds in ((None, None), (torch.ones(1, 1, 5, 5), torch.tensor([0, 5]))):
        with pytest.raises(AssertionError, match="others would see one another"):
            packed_attention(None, states, states, states, mask, cu_seq_lens_q=bounds)


@pytest.mark.parametrize("family", TINY)
def test_every_hidden_state_is_that_of_padded_sequences(build: Build, family: str) -> None:
    path = build("feature-extraction", family)
    padded, packed = load(path, packed=False), load(path, packed=True)
    assert packed.is_packed
    expected = hidden_states(padded, LENGTHS)
    torch.testing.assert_close(
        hidden_states(packed, LENGTHS), expected, rtol=0, atol=2e-6 * float(expected.abs().max())
    )


@given(lengths=st.lists(st.sampled_from([1, 2, 3, 9, 9, 17, 32]), min_size=1, max_size=9))
@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_whatever_the_lengths_are(family: str, lengths: list[int], models: dict[str, tuple[Model, Model]]) -> None:
    padded, packed = (hidden_states(model, lengths) for model in models[family])
    torch.testing.assert_close(packed, padded, rtol=0, atol=2e-6 * float(padded.abs().max()))


@pytest.fixture(scope="module")
def models(build: Build) -> dict[str, tuple[Model, Model]]:
    """Padded and packed, of the two families with ways of their own: offset positions, local attention."""
    paths = {family: build("feature-extraction", family) for family in ("roberta", "modernbert")}
    return {family: (load(path, packed=False), load(path, packed=True)) for family, path in paths.items()}


@pytest.mark.parametrize(
    ("config", "family"),
    EVERY_CASE,
    ids=lambda case: case if isinstance(case, str) else "-".join([case.name, *case.options]),
)
def test_every_task_says_the_same_without_padding(build: Build, config: TaskConfig, family: str) -> None:
    path = build(config.name, family)
    rows = examples.table(config.name, path)
    answers = []
    for packed in (False, True):
        model = ModelConfig(name=str(path), dtype="float32", packed=packed, max_batch_tokens=100)
        predictor = Predictor(model, config)
        assert predictor._model.is_packed == packed
        answers.append(predictor(Tokenizer(model, config)(rows)))
    assert answers[1].schema == answers[0].schema
    assert_same(answers[1].to_pylist(), answers[0].to_pylist(), 1e-5)


# MPNet's and DeBERTa's own attention sees all sequences as one; T5 counts distances across them.
@pytest.mark.parametrize("family", ["mpnet", "deberta", "deberta-v2", "t5"])
def test_a_family_that_is_not_packed_rightly_is_padded_again_and_says_so(
    build: Build, family: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = build("feature-extraction", family)
    expected = hidden_states(load(path), LENGTHS)
    monkeypatch.setitem(FAMILIES, family, False)  # noqa: FBT003 - it takes no type ids
    model = load(path, packed=True)
    assert not model.is_packed
    assert torch.equal(hidden_states(model, LENGTHS), expected)
    assert "sequences without padding differ by" in caplog.text


def test_where_the_kernel_does_not_run_sequences_are_padded(
    build: Build, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    def on_an_old_gpu(*_: Any, **__: Any) -> None:
        msg = "FlashAttention only supports Ampere GPUs or newer."
        raise RuntimeError(msg)

    request.addfinalizer(lambda: AttentionInterface.register(PACKED, packed_attention))
    AttentionInterface.register(PACKED, on_an_old_gpu)
    assert not load(build("feature-extraction", "bert"), packed=True).is_packed
    assert (
        "do not run (RuntimeError: FlashAttention only supports Ampere GPUs or newer.); they are padded" in caplog.text
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", TINY)
def test_the_families_on_the_list_are_packed_in_half_precision_too(build: Build, family: str, dtype: Dtype) -> None:
    path = build("text-classification", family)
    padded, packed = (
        load(path, "text-classification", dtype=dtype, packed=packed, trimmed=False) for packed in (False, True)
    )
    assert packed.is_packed
    one, other = hidden_states(padded, LENGTHS), hidden_states(packed, LENGTHS)
    assert float((one - other).norm() / one.norm()) < 2e-2


@pytest.mark.parametrize(("family", "window"), [("bert", (-1, -1)), ("modernbert", (8, 8))])
@pytest.mark.parametrize("task", ["text-classification", "token-classification", "feature-extraction"])
def test_a_gpu_gets_bounds_and_windows_and_what_comes_back_has_the_shapes(
    build: Build, task: str, family: str, window: tuple[int, int]
) -> None:
    model = without_values(build(task, family), task)
    with Calls() as calls:
        (value,) = model.forward(ragged(LENGTHS), np.array([2, 0, 3, 9])).values.values()
    assert value.shape[0] == (30 + 31 + 12 + 1 if task == "token-classification" else 4)
    assert [list(map(int, call[9])) for call in calls.found] == [[-1, -1], list(window)]
    for query, key, states, bounds, other, longest, *_ in calls.found:
        assert query.shape == key.shape == states.shape == (80, 2, 16)  # a multiple of 160 / 16
        assert bounds is other
        assert (bounds.dtype, len(bounds), longest) == (torch.int32, 4 + 1 + 1, 31)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_gpu_that_wants_first_tokens_asks_once_for_each_sequence(build: Build, family: str) -> None:
    model = without_values(build("text-classification", family), "text-classification")
    join(model._module, (torch.bfloat16,))
    trim(model._module)
    model.is_trimmed = True
    with Calls() as calls:
        (value,) = model.forward(ragged(LENGTHS), np.array([2, 0, 3, 9])).values.values()
    assert value.shape[0] == 4
    query, key, states, each, bounds, num_queries, longest, *_ = calls.found[-1]
    assert query.shape == (5, 2, 16)  # the fifth is of the tokens that fill up
    assert key.shape == states.shape == (80, 2, 16)
    assert (each.dtype, len(each), num_queries) == (torch.int32, 6, 1)
    assert (bounds.dtype, len(bounds), longest) == (torch.int32, 6, 31)


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what torch's kernel for ragged sequences is called with."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "torch_attn":
            self.found.append(args)
        return func(*args, **(kwargs or {}))


def without_values(path: Path, task: str) -> Model:
    """A model as on a GPU, whose tensors have shapes and types alone: a forward that asks for a value would raise."""
    checkpoint = open_checkpoint(ModelConfig(name=str(path)))
    model = Model.__new__(Model)
    model.device, model.dtype, model.is_packed, model._attend = "cuda", "bfloat16", True, None
    model.is_trimmed = False
    model.tokenizer, model._task = None, load_task(TaskConfig(name=task), checkpoint)
    with no_init_weights(), torch.device("meta"):
        auto_class: Any = getattr(transformers, model._task.auto_class)
        model._module = auto_class.from_config(transformers.AutoConfig.from_pretrained(path), dtype=torch.bfloat16)
    model._module.set_attn_implementation(PACKED)
    model._pack = Packing(checkpoint, 0, 160)
    model._to_device = lambda array: torch.empty(  # type: ignore[method-assign]
        array.shape, dtype=torch.from_numpy(array).dtype, device="meta"
    )
    model._module.eval()
    return model


def test_the_kernel_of_a_gpu_agrees_with_attention_written_out() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here: torch's kernel for ragged sequences runs nowhere else")
    lengths = [300, 33, 33, 5, 1]
    states = [torch.randn(1, 4, sum(lengths), 64, dtype=torch.bfloat16) for _ in range(3)]
    bounds = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32, device="cuda")
    for window in (None, 65):
        q, k, v = (x.cuda() for x in states)
        found, _ = packed_attention(None, q, k, v, None, cu_seq_lens_q=bounds, max_length_q=300, sliding_window=window)
        expected = attention_alone(states, lengths, window)
        torch.testing.assert_close(found.cpu().double(), expected, rtol=0, atol=2e-2)
    firsts = bounds[:-1].long()
    alone = attend_first(q[0, :, firsts].transpose(0, 1), k[0].transpose(0, 1), v[0].transpose(0, 1), bounds, 300, ())
    whole = attention_alone(states, lengths, None)[0]
    torch.testing.assert_close(alone.cpu().double(), whole[firsts.cpu()], rtol=0, atol=2e-2)
