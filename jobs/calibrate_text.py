"""What a calibration says to people, and the file of options it leaves."""

import dataclasses

import yaml

from inference.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE
from jobs.calibrate import Calibration

_NAMES = {
    "negative_log_likelihood": ("NLL", ".4f"),
    "calibration_error": ("calibration error", ".4f"),
    "accuracy": ("accuracy", ".1%"),
    "micro_f1": ("micro F1", ".1%"),
    "macro_f1": ("macro F1", ".1%"),
}
_WIDTH = 20
_NEAR = 0.001


def to_yaml(found: Calibration) -> str:
    """The options, below a line that says where they are from."""
    likelihoods = f"NLL {found.before.negative_log_likelihood:.4f} -> {found.after.negative_log_likelihood:.4f}"
    comment = (
        f"# shardlabel calibrate {found.output} --gold {found.gold}, seed {found.seed}: fitted on {found.num_fitted:,} "
        f"rows; on {found.num_held_out:,} others {likelihoods}\n"
    )
    return comment + yaml.safe_dump(found.options, sort_keys=False, allow_unicode=True)


def describe(found: Calibration) -> str:
    """The numbers of the held-out rows before and after, and the options."""
    halves = f"{found.num_fitted:,} rows fitted on, {found.num_held_out:,} held out (seed {found.seed})"
    lines = [
        f"gold {found.gold}: {halves}, {found.num_left_out:,} without gold or failed",
        "",
        f"{'held-out rows':{_WIDTH}}{'before':>9}{'after':>9}",
    ]
    before, after = dataclasses.asdict(found.before), dataclasses.asdict(found.after)
    for key, (name, form) in _NAMES.items():
        if before[key] is not None:
            lines.append(f"{name:{_WIDTH}}{format(before[key], form):>9}{format(after[key], form):>9}")
    if found.after.coverage is not None:
        right = found.after.accepted_accuracy
        lines.append(
            f"{found.after.coverage:.1%} of the rows get a label"
            + ("" if right is None else f", of them {right:.1%} are right")
        )
    lines += ["", yaml.safe_dump(found.options, sort_keys=False, allow_unicode=True).rstrip()]
    if at_end := _at_end(found):
        lines.append(f"at the end of what was searched, {MIN_TEMPERATURE} to {MAX_TEMPERATURE}: {', '.join(at_end)}")
    if found.unfitted_labels:
        lines.append(f"too few gold rows, left as they are: {', '.join(found.unfitted_labels)}")
    return "\n".join(lines)


def _at_end(found: Calibration) -> list[str]:
    """Temperatures that would have gone on."""
    temperature = found.options["temperature"]
    named = temperature if isinstance(temperature, dict) else {"temperature": temperature}
    low, high = MIN_TEMPERATURE * (1 + _NEAR), MAX_TEMPERATURE * (1 - _NEAR)
    return [name for name, value in named.items() if not low < value < high]
