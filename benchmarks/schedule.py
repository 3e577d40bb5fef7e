"""What is measured in which order, and what is left out when the time does not suffice.

Blocks in order of importance; a block whose estimate does not fit loses its last workloads, then is left out whole and
listed as not measured. Estimates are corrected by how long earlier blocks really took.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.budget import BUDGETS, measure_budget
from benchmarks.catalog import PEERS
from benchmarks.compare import Cell, Results, build_cell, run_round
from benchmarks.growth import measure_growth
from benchmarks.jobs_cold import measure_cold, measure_ray_share
from benchmarks.process import PeerFailedError
from benchmarks.workloads import is_available

_LOAD_SECONDS, _CELL_SECONDS, _FIRST_SECONDS = 10.0, 9.0, 18.0
"""First guesses: a process that loads a model; a warm-up and a timing; tuning and the check."""

CORE_MODELS = ("minilm", "distilbert", "bert-base")
CORE_WORKLOADS = ("tweets", "reviews", "long")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asked for."""

    models: list[str]
    workloads: list[str]
    peers: list[str]
    rounds: int
    seconds: float
    parts: list[str]


class Schedule:
    """One run of the benchmark."""

    def __init__(
        self, request: Request, results: Results, save: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        """Start the clock."""
        self.request, self.results, self.save, self.say = request, results, save, say
        self.ends = time.perf_counter() + request.seconds
        self.correction = 1.0

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.perf_counter()

    def run(self) -> None:  # noqa: C901 - a list
        """All blocks, the most important first."""
        wanted, models = self.request.workloads, self.request.models
        core = [name for name in wanted if name in CORE_WORKLOADS]
        others = [name for name in wanted if name not in CORE_WORKLOADS and is_available(name)]
        for missing in [name for name in wanted if not is_available(name)]:
            self._skip({"workload": missing}, "its source is not on this machine")
        core_models = [name for name in models if name in CORE_MODELS]
        if "compare" in self.request.parts:
            for model in core_models:
                self._block(model, [*core, *(name for name in others if name == "packages")])
        if "ray" in self.request.parts and models:
            name = models[0]
            self._other("Ray's share", 600 * self.request.rounds, lambda: self._ray_share(name))
        if "cold" in self.request.parts:
            rounds = self.request.rounds
            seconds = 60.0 * rounds * len(core_models)
            self._other(
                "cold runs", seconds, lambda: measure_cold(core_models or models, self.results, rounds, self.say)
            )
        if "growth" in self.request.parts and models:
            rounds = self.request.rounds
            self._other("growth", 210.0 * rounds, lambda: measure_growth(models[0], self.results, rounds, self.say))
        if "budget" in self.request.parts and models:
            rounds = self.request.rounds
            seconds = len(core_models) * (_LOAD_SECONDS + rounds * len(BUDGETS) * 1.5 * _CELL_SECONDS)
            self._other(
                "budget", seconds, lambda: measure_budget(core_models or models, self.results, rounds, self.say)
            )
        if "compare" in self.request.parts:
            for model in core_models:
                self._block(model, [name for name in others if name != "packages"])
            for model in models:
                if model not in core_models:
                    # The shape of the lengths matters more than the family, so one workload says enough of a family.
                    self._block(model, ["reviews"] if "reviews" in wanted else wanted)

    def _ray_share(self, model: str) -> None:
        measure_ray_share(model, self.results, self.request.rounds, self.say)

    def _other(self, name: str, estimate: float, measure: Callable[[], None]) -> None:
        if estimate * self.results.scale > self.left:
            self._skip({"part": name}, "no time left")
            return
        try:
            measure()
        except PeerFailedError as error:
            self._skip({"part": name}, str(error))
        self.save()

    def _block(self, model: str, workloads: list[str]) -> None:
        """As many of the workloads as fit, all peers, all rounds; then again what was disturbed, once or twice."""
        names = [name for name in dict.fromkeys(workloads) if name in self.request.workloads]
        while names and self._estimate(names) * self.correction > self.left:
            self._skip({"model": model, "workload": names.pop()}, "no time left")
        if not names:
            return
        begun = time.perf_counter()
        try:
            cells = {name: build_cell(model, name, self.results) for name in names}
        except Exception as error:  # noqa: BLE001 - nobody watches, and the other models shall still be measured
            self._skip({"model": model}, f"it cannot be built: {type(error).__name__}: {error}".partition("\n")[0])
            return
        for number in range(1, self.request.rounds + 1):
            for peer in self.request.peers:
                self._turn(peer, [cells[name] for name in names], number)
        actual = time.perf_counter() - begun
        self.correction = actual / self._estimate(names)
        for extra in range(1, self.request.rounds):
            for peer in self.request.peers:
                lacking = [cells[name] for name in names if self._lacks(peer, model, name)]
                if lacking and self.left > 2 * actual / len(self.request.peers) / self.request.rounds:
                    self._turn(peer, lacking, self.request.rounds + extra)

    def _turn(self, peer: str, cells: list[Cell], number: int) -> None:
        runnable = []
        for cell in cells:
            reason = PEERS[peer].why_not(cell.workload)
            if reason is None and cell.model == "t5-small" and PEERS[peer].logits_column == "embedding":
                reason = "T5's encoder alone is another model"
            facts = {"peer": peer, "model": cell.model, "workload": cell.workload}
            failed = any(facts.items() <= failure.items() for failure in self.results.failures)
            if reason is None and not failed:
                runnable.append(cell)
            elif number == 1 and reason is not None:
                self.results.failures.append(facts | {"error": reason})
        if runnable:
            run_round(peer, runnable, number, self.results, self.say)
            self.save()

    def _lacks(self, peer: str, model: str, workload: str) -> bool:
        key = {"peer": peer, "model": model, "workload": workload}
        found = [entry for entry in self.results.measurements if key.items() <= entry.items()]
        quiet = [entry for entry in found if not self.results.is_disturbed(entry)]
        return bool(found) and len(quiet) < self.request.rounds

    def _estimate(self, workloads: list[str]) -> float:
        cells = len(workloads) * (_CELL_SECONDS * self.request.rounds + _FIRST_SECONDS) * min(self.results.scale, 1)
        return len(self.request.peers) * (_LOAD_SECONDS * self.request.rounds + cells)

    def _skip(self, facts: dict[str, str], reason: str) -> None:
        self.results.not_measured.append(facts | {"reason": reason})
        self.say(f"not measured: {' '.join(facts.values())}: {reason}")
