"""What a Predictor has done so far, in plain numbers: for whoever exports metrics."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Sums over all micro-batches that went through."""

    num_micro_batches: int = 0
    num_tokens: int = 0
    """Of the sequences, without padding."""
    num_slots: int = 0
    """Tokens with padding, and those that fill a packed micro-batch up: what was computed."""
    forward_seconds: float = 0.0
    """From the first launch of a table to its last output, so that nothing has to wait for a device to be measured."""
    num_halvings: int = 0
    """How often memory ran out and micro-batches became smaller."""

    def __add__(self, other: "Stats") -> "Stats":
        """What two have done together."""
        return Stats(
            num_micro_batches=self.num_micro_batches + other.num_micro_batches,
            num_tokens=self.num_tokens + other.num_tokens,
            num_slots=self.num_slots + other.num_slots,
            forward_seconds=self.forward_seconds + other.forward_seconds,
            num_halvings=self.num_halvings + other.num_halvings,
        )

    def since(self, earlier: "Stats") -> "Stats":
        """What was done after `earlier`."""
        return Stats(
            num_micro_batches=self.num_micro_batches - earlier.num_micro_batches,
            num_tokens=self.num_tokens - earlier.num_tokens,
            num_slots=self.num_slots - earlier.num_slots,
            forward_seconds=self.forward_seconds - earlier.forward_seconds,
            num_halvings=self.num_halvings - earlier.num_halvings,
        )
