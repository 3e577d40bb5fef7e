"""Train the demo's classifier: which library does a docstring come from?

In:  the folder written by `collect.py`; only rows with `held_out` false are learnt from, vocabulary included.
Out: `docs/demo/model/`: a BERT of two layers, its WordPiece tokenizer, and the model card with the held-out scores.
Run it: `python docs/demo/train.py CORPUS_DIR`, a few minutes on two cores. Everything is seeded but the vocabulary
trainer, which takes no seed and breaks ties anew each time: a second run gives a slightly different model.
"""

import datetime as dt
import platform
import random
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softmax
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedTokenizerBase,
    set_seed,
)

MODEL_DIR = Path(__file__).parent / "model"

LABELS = ("numpy", "pandas", "pyarrow", "python", "ray", "torch", "transformers")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, MASK = SPECIAL_TOKENS.index("[PAD]"), SPECIAL_TOKENS.index("[MASK]")

SEED = 20
NUM_THREADS = 2
VOCABULARY_SIZE = 6_000
MAX_LENGTH = 128
MAX_POSITIONS = 256
HIDDEN_SIZE = 128
BATCH_ROWS = 64
BATCHES_PER_SORT = 50
WORD_EPOCHS, WORD_LEARNING_RATE = 3, 3e-3
EPOCHS, LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY = 3, 1e-3, 300, 0.05
LABEL_SMOOTHING = 0.05
HIDDEN_TOKENS = 0.3
"""Share of the tokens hidden from the model at each step; it cannot lean on one tell-tale word."""

SURE = 0.9
"""Confidence from which the card counts a prediction as sure."""

SHORT_TOKENS, LONG_TOKENS = 20, 80
"""Texts of fewer and of at least so many tokens, whose accuracy the card tells apart."""


class Examples(NamedTuple):
    """Docstrings and, in the same order, the index of their library in `LABELS`: int64 (rows)."""

    texts: list[str]
    labels: Tensor


class Scores(NamedTuple):
    """What the held-out rows say; per label in the order of `LABELS`."""

    accuracy: float
    precision: list[float]
    recall: list[float]
    f1: list[float]
    num_rows: list[int]
    mean_confidence: float
    sure_share: float
    sure_accuracy: float
    short_accuracy: float
    long_accuracy: float

    @property
    def macro_f1(self) -> float:
        """Mean of the labels' F1, each counting the same."""
        return sum(self.f1) / len(self.f1)


def read_examples(corpus_dir: Path, *, held_out: bool) -> Examples:
    """Read one side of the corpus, in the order of its shards."""
    table = pq.read_table(corpus_dir, columns=["text", "library"], filters=[("held_out", "==", held_out)])
    labels = [LABELS.index(str(library)) for library in table["library"].to_pylist()]
    return Examples([str(text) for text in table["text"].to_pylist()], torch.tensor(labels))


def train_vocabulary(texts: list[str]) -> Tokenizer:
    """Learn a lowercase WordPiece vocabulary; the parts are those that `BertTokenizer` builds from it again."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token of text, not of access
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=2,
        limit_alphabet=200,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(trained: Tokenizer, probes: list[str]) -> PreTrainedTokenizerBase:
    """Save the tokenizer and return it as users will load it.

    Raises:
        RuntimeError: the loaded tokenizer cuts one of the probes differently than the trained one.
    """
    BertTokenizer(vocab=trained.get_vocab(), do_lower_case=True, model_max_length=MAX_POSITIONS).save_pretrained(
        MODEL_DIR
    )
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(MODEL_DIR)
    # Lengths are no matter here, only the cuts; the warning about long texts would be noise.
    found = loaded(probes, add_special_tokens=False, verbose=False)["input_ids"]
    for probe, ids, expected in zip(probes, found, trained.encode_batch(probes), strict=True):
        if ids != expected.ids:
            msg = f"the saved tokenizer cuts {probe[:60]!r} differently than the trained one"
            raise RuntimeError(msg)
    return loaded


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the token ids of each text, special tokens included, at most `MAX_LENGTH`."""
    sequences: list[list[int]] = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    return sequences


def cut_batches(order: list[int], sequences: list[list[int]], sort_rows: int) -> list[list[int]]:
    """Cut an order of rows into batches of similar length, sorting within runs of `sort_rows`."""
    batches = []
    for start in range(0, len(order), sort_rows):
        run = sorted(order[start : start + sort_rows], key=lambda row: len(sequences[row]))
        batches += [run[first : first + BATCH_ROWS] for first in range(0, len(run), BATCH_ROWS)]
    return batches


def shuffled_batches(sequences: list[list[int]]) -> list[list[int]]:
    """Return the batches of one epoch, as rows, in a new random order at each call."""
    order = random.sample(range(len(sequences)), len(sequences))
    batches = cut_batches(order, sequences, BATCH_ROWS * BATCHES_PER_SORT)
    return random.sample(batches, len(batches))


def pad(sequences: list[list[int]]) -> Tensor:
    """Return token ids as int64 (rows, longest), filled with `PAD` on the right."""
    return nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=PAD)


def hide_tokens(token_ids: Tensor, replacement: int) -> Tensor:
    """Replace `HIDDEN_TOKENS` of the words, chosen at random, and none of the special tokens."""
    hidden = (torch.rand(token_ids.shape) < HIDDEN_TOKENS) & (token_ids >= len(SPECIAL_TOKENS))
    return token_ids.masked_fill(hidden, replacement)


def label_weights(labels: Tensor) -> Tensor:
    """Weigh labels by the inverse square root of their frequency: float32 (labels).

    Half-way between ignoring the small libraries and over-predicting them.
    """
    num_rows = torch.bincount(labels, minlength=len(LABELS)).float()
    return (num_rows.mean() / num_rows).sqrt()


def train_words(sequences: list[list[int]], labels: Tensor, vocabulary_size: int) -> Tensor:
    """Train word vectors in a bag-of-words classifier: float32 (vocabulary, hidden).

    A BERT that starts from them was right 78.0 % of the time after 3 epochs, one that starts from noise 77.1 % after 7,
    on modules split off the training rows.
    """
    bag = nn.EmbeddingBag(vocabulary_size, HIDDEN_SIZE, mode="mean", padding_idx=PAD)
    nn.init.normal_(bag.weight, std=0.1)
    head = nn.Linear(HIDDEN_SIZE, len(LABELS))
    optimizer = torch.optim.Adam([*bag.parameters(), *head.parameters()], lr=WORD_LEARNING_RATE)
    for epoch in range(WORD_EPOCHS):
        total = 0.0
        for rows in (batches := shuffled_batches(sequences)):
            logits = head(bag(hide_tokens(pad([sequences[row] for row in rows]), PAD)))
            loss = cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
            optimizer.step()
            total += loss.item()
        print(f"words, epoch {epoch + 1} of {WORD_EPOCHS}: loss {total / len(batches):.3f}", flush=True)
    return bag.weight.detach()


def new_model(words: Tensor) -> BertForSequenceClassification:
    """Build the untrained model around trained word vectors."""
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words),
            hidden_size=HIDDEN_SIZE,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=4 * HIDDEN_SIZE,
            max_position_embeddings=MAX_POSITIONS,
            hidden_dropout_prob=0.2,
            attention_probs_dropout_prob=0.2,
            pad_token_id=PAD,
            problem_type="single_label_classification",
            id2label=dict(enumerate(LABELS)),
            label2id={label: index for index, label in enumerate(LABELS)},
        )
    )
    # A standard deviation of 0.05 is loud enough to stand out of the random position vectors, of 0.02.
    model.bert.embeddings.word_embeddings.weight.data.copy_(words * (0.05 / words.std()))
    return model


def new_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer; biases and norms do not decay."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE)


def train(model: BertForSequenceClassification, sequences: list[list[int]], labels: Tensor) -> None:
    """Train in place for `EPOCHS`, the learning rate rising for `WARMUP_STEPS` and then falling to nothing."""
    optimizer = new_optimizer(model)
    num_steps = EPOCHS * len(shuffled_batches(sequences))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 1 - step / num_steps)
    )
    weights = label_weights(labels)
    model.train()
    for epoch in range(EPOCHS):
        total, started = 0.0, time.monotonic()
        for rows in (batches := shuffled_batches(sequences)):
            token_ids = pad([sequences[row] for row in rows])
            logits = model(hide_tokens(token_ids, MASK), attention_mask=(token_ids != PAD).long()).logits
            loss = cross_entropy(logits, labels[rows], weights, label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.monotonic() - started
        print(f"model, epoch {epoch + 1} of {EPOCHS}: loss {total / len(batches):.3f}, {seconds:.0f} s", flush=True)


@torch.inference_mode()
def predict(model: nn.Module, sequences: list[list[int]]) -> Tensor:
    """Return logits in the order of the sequences: float32 (rows, labels)."""
    logits = torch.empty(len(sequences), len(LABELS))
    for rows in cut_batches(list(range(len(sequences))), sequences, len(sequences)):
        token_ids = pad([sequences[row] for row in rows])
        logits[rows] = model(token_ids, attention_mask=(token_ids != PAD).long()).logits
    return logits


def load_saved() -> nn.Module:
    """Load the saved model as users will.

    Raises:
        RuntimeError: weights are missing, unexpected or of another shape.
    """
    model, found = AutoModelForSequenceClassification.from_pretrained(
        MODEL_DIR, use_safetensors=True, output_loading_info=True
    )
    if any(found.values()):
        msg = f"{MODEL_DIR} does not load cleanly: {found}"
        raise RuntimeError(msg)
    loaded: nn.Module = model.eval()
    return loaded


def score(logits: Tensor, gold: Tensor, num_tokens: Tensor) -> Scores:
    """Compare logits (rows, labels) with gold labels (rows) of texts of so many tokens (rows)."""
    confidence, predicted = softmax(logits, dim=-1).max(dim=-1)
    right = predicted == gold
    hits = torch.bincount(gold[right], minlength=len(LABELS))
    num_predicted = torch.bincount(predicted, minlength=len(LABELS))
    num_rows = torch.bincount(gold, minlength=len(LABELS))
    sure = confidence >= SURE
    return Scores(
        accuracy=right.float().mean().item(),
        precision=(hits / num_predicted.clamp(min=1)).tolist(),
        recall=(hits / num_rows).tolist(),
        f1=(2 * hits / (num_predicted + num_rows)).tolist(),
        num_rows=num_rows.tolist(),
        mean_confidence=confidence.mean().item(),
        sure_share=sure.float().mean().item(),
        sure_accuracy=right[sure].float().mean().item(),
        short_accuracy=right[num_tokens < SHORT_TOKENS].float().mean().item(),
        long_accuracy=right[num_tokens >= LONG_TOKENS].float().mean().item(),
    )


def score_table(scores: Scores, train_labels: Tensor) -> str:
    """Return the scores per label as a Markdown table."""
    num_train = Counter(train_labels.tolist())
    lines = ["| label | training rows | held-out rows | precision | recall | F1 |", "|---|---:|---:|---:|---:|---:|"]
    columns = zip(LABELS, scores.num_rows, scores.precision, scores.recall, scores.f1, strict=True)
    for index, (label, num_rows, precision, recall, f1) in enumerate(columns):
        lines.append(f"| {label} | {num_train[index]:,} | {num_rows:,} | {precision:.3f} | {recall:.3f} | {f1:.3f} |")
    return "\n".join(lines)


def model_card(scores: Scores, train_labels: Tensor, seconds: float) -> str:
    """Return the text of the model card; every number in it was measured in this run."""
    versions = [f"{library} {version(library)}" for library in LABELS if library != "python"]
    return f"""---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-classification
---

# Which library does this docstring come from?

A BERT of 2 layers and {HIDDEN_SIZE} hidden units, small enough to live beside the demo that runs it. It was trained
from random weights on docstrings found in one Python environment, and tells seven libraries apart. It shows a job at
work; it is of no other use. Trained on {dt.datetime.now(dt.UTC).date()}.

## Held-out scores

Accuracy **{scores.accuracy:.4f}**, macro-F1 **{scores.macro_f1:.4f}** on {sum(scores.num_rows):,} docstrings.

{score_table(scores, train_labels)}

Modules are held out whole, about one in five, so this is the score on new modules of known libraries.

- Many docstrings are one short sentence that could stand in any library, and they count like the others: of texts
  under {SHORT_TOKENS} tokens {scores.short_accuracy:.1%} are right, of those with {LONG_TOKENS}
  and more {scores.long_accuracy:.1%}.
- Libraries repeat themselves from module to module, transformers most of all. Exact duplicates are dropped, near ones
  are not, and its score profits from that.
- Confidence is {scores.mean_confidence:.3f} on average. {scores.sure_share:.0%} of the rows reach {SURE}, and of
  those {scores.sure_accuracy:.1%} are right.

## How it was made

    python docs/demo/collect.py corpus
    python docs/demo/train.py corpus

- Rows: {len(train_labels):,} for training, {sum(scores.num_rows):,} held out. The held-out rows took no part in the
  vocabulary, nor in choosing the settings: those were chosen on modules split off the training rows.
- Tokens: a lowercase WordPiece vocabulary of {VOCABULARY_SIZE:,}; texts are cut at {MAX_LENGTH} tokens.
- Steps: word vectors in a bag of words for {WORD_EPOCHS} epochs, then the whole model for {EPOCHS};
  {seconds:.0f} s on {NUM_THREADS} threads.
- Balance: a label weighs the inverse square root of its frequency in the loss; the largest library has several times
  the rows of the smallest.
- Seed: {SEED}; but the vocabulary trainer takes none, so a second run gives a slightly different model.
- Corpus: the docstrings of Python {platform.python_version()}, {", ".join(versions[:3])},
  {", ".join(versions[3:])}; vocabulary by tokenizers {version("tokenizers")}.
  Other versions give other docstrings, and other scores.

## Licence

The weights are under the licence of this repository. Docstrings remain under the licences of their libraries; none are
shipped here, only the weights and a vocabulary of word pieces.
"""


def main() -> int:
    """Train, save, load again and score what was saved; return the exit status."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - the script and one folder
        print("usage: python docs/demo/train.py CORPUS_DIR", file=sys.stderr)
        return 2
    torch.set_num_threads(NUM_THREADS)
    set_seed(SEED)
    corpus_dir = Path(sys.argv[1])
    examples, held_out = read_examples(corpus_dir, held_out=False), read_examples(corpus_dir, held_out=True)
    started = time.monotonic()
    tokenizer = save_tokenizer(train_vocabulary(examples.texts), held_out.texts)
    sequences = encode(tokenizer, examples.texts)
    model = new_model(train_words(sequences, examples.labels, len(tokenizer)))
    train(model, sequences, examples.labels)
    model.save_pretrained(MODEL_DIR)
    seconds = time.monotonic() - started
    unseen = encode(tokenizer, held_out.texts)
    scores = score(predict(load_saved(), unseen), held_out.labels, torch.tensor([len(ids) for ids in unseen]))
    (MODEL_DIR / "README.md").write_text(model_card(scores, examples.labels, seconds))
    print(score_table(scores, examples.labels))
    print(f"held-out accuracy {scores.accuracy:.4f}, macro-F1 {scores.macro_f1:.4f}; trained in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
