"""Successive halving: which settings train, on how many seeds, and which of them go on.

It neither trains nor proposes settings nor reads files; docs/tune.md says in words what it does.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...ppo.settings import PPOConfig
from .trainer import Curves

RUNGS = 6  # on 1, 4, 16, 32, 48 and 64 seeds
SOLVED_RUNGS = 18  # with a threshold: on 16 more each time, to 256, while it is reached on all
ALONE = 2  # the rung from which on one setting of a round trains alone
LEADERS = 3  # structures that are searched on after each got a round

BATCHES: dict[str, dict[str, Any]] = {
    # The defaults of this project.
    "large": {
        **{"num_envs": 16, "unroll_length": 16, "batch_size": 16, "num_minibatches": 16},
        **{"num_updates_per_batch": 8, "learning_rate_schedule": "linear", "max_grad_norm": 1.0},
    },
    # Those of CleanRL's ppo.py (Huang et al. 2022, JMLR 23:274).
    "small": {
        **{"num_envs": 4, "unroll_length": 128, "batch_size": 1, "num_minibatches": 4},
        **{"num_updates_per_batch": 4, "learning_rate_schedule": "linear", "max_grad_norm": 0.5},
    },
    "own": {},
}
# Searched on a logarithmic scale; those of `FROM_1` as their distances from 1.
RANGES = {
    "learning_rate": (1e-4, 1e-2),
    "entropy_cost": (1e-4, 1e-1),
    "discounting": (1e-3, 1e-1),
    "gae_lambda": (1e-2, 2e-1),
    "clipping_epsilon": (0.1, 0.4),
    "reward_scaling": (1e-2, 1e1),
}
FROM_1 = ("discounting", "gae_lambda")


class Structure(NamedTuple):
    """The settings that all members of a round share."""

    batches: str
    normalize_observations: bool
    init_value_from_rollouts: bool

    def __str__(self) -> str:
        return f"{self.batches} batches, {'' if self.normalize_observations else 'not '}normalised"

    def settings(self) -> dict[str, Any]:
        """As keyword arguments of `PPOConfig`."""
        return {
            **BATCHES[self.batches],
            "normalize_observations": self.normalize_observations,
            "init_value_from_rollouts": self.init_value_from_rollouts,
        }


@dataclass(frozen=True)
class Result:
    """Settings, and what several seeds reached with them.

    Attributes:
      settings: keyword arguments of `PPOConfig`; empty for those of config.py.
      curves: one for each seed.
      rung: the last one that they reached, from 0; config.py is on the highest one that any are
        on, and at least on 1.
      chosen_on: how many of the seeds, the first ones, the settings were chosen on.
    """

    settings: dict[str, Any]
    curves: Curves
    rung: int
    chosen_on: int = 0

    @property
    def score(self) -> float:
        return score(self.curves)

    @property
    def confirmed(self) -> Curves:
        """The seeds that had no part in the choice: none before the settings are confirmed."""
        return Curves(self.curves.steps, self.curves.returns[:, self.chosen_on :])

    def solves(self, threshold: float | None) -> bool:
        """Whether every seed ends at the threshold or above; False if there is none."""
        return threshold is not None and bool((self.curves.returns[-1] >= threshold).all())


def score(curves: Curves) -> float:
    """The mean of all evaluations, of which the n-th counts n^3 times.

    So the return at the end counts most, and among settings that end at the same return the one
    that reached it first wins. It is a mean over seeds, because one seed that fails has to cost
    more than slowness. NaN if one has diverged.
    """
    means = curves.returns.mean(axis=1)
    return float(np.average(means, weights=np.arange(1, len(means) + 1) ** 3))


def solved_after(curves: Curves, threshold: float) -> np.ndarray:
    """(seeds,) steps after which the return stays at the threshold or above; else infinity."""
    stays = np.logical_and.accumulate(curves.returns[::-1] >= threshold)[::-1]
    return np.where(stays[-1], curves.steps[stays.argmax(axis=0)], np.inf)


@dataclass
class Candidate:
    """Settings that were proposed, and the curves of each rung that they trained on."""

    numbers: dict[str, float]
    curves: list[Curves] = field(default_factory=list)

    def seen(self, rung: int) -> Curves:
        """The curves that count on a rung: from `ALONE` on, those of the rungs before too."""
        curves = self.curves[min(rung, ALONE)]
        for more in self.curves[ALONE + 1 : rung + 1]:
            curves = curves.beside(more)
        return curves

    def scores(self) -> dict[int, float]:
        """By rung; without those on which a seed has diverged."""
        found = {rung: score(self.seen(rung)) for rung in range(len(self.curves))}
        return {rung: x for rung, x in found.items() if np.isfinite(x)}


@dataclass
class Round:
    """Settings that start together.

    Attributes:
      structure: what they share.
      candidates: the settings.
      going_on: places in `candidates` of those that train on the next rung, best first.
      rung: the last one that was trained on; -1 at first.
    """

    structure: Structure
    candidates: list[Candidate]
    going_on: list[int]
    rung: int = -1

    def next(self) -> list[Candidate]:
        """Those that go on."""
        return [self.candidates[place] for place in self.going_on]

    def found(self, curves: Curves) -> None:
        """Adds the curves of those that went on, whose seeds take turns, on the next rung."""
        training = self.next()
        for candidate, own in zip(training, curves.split(len(training)), strict=True):
            candidate.curves.append(own)
        self.rung += 1


class Ladder:
    """All that a search knows.

    Attributes:
      structures: to be tried, in this order.
      count: how many settings, or seeds of fewer settings, train at once.
      seed: the first of the seeds that one setting of a round trains on alone.
      threshold: the return at which the task is solved.
      steps: how long settings train; None before that is known.
      own: the curves of config.py.
      rounds: oldest first.
    """

    def __init__(
        self, structures: list[Structure], count: int, seed: int, threshold: float | None
    ) -> None:
        self.structures, self.count = structures, count
        self.seed, self.threshold = seed, threshold
        self.rungs = RUNGS if threshold is None else SOLVED_RUNGS
        self.steps: int | None = None
        self.own: Curves | None = None
        self.rounds: list[Round] = []

    def add(self, record: Any) -> None:
        """Takes what a line of the journal holds; raises ValueError or the like for anything else.

        A line is one of
          {"num_timesteps": how long settings train}
          {"own": curves of config.py, on more seeds}
          {"structure": of a new round, "numbers": [of each of its settings]}
          {"round": number from 0, "found": curves, "go_on": [places of settings in the round]}
        """
        match record:
            case {"num_timesteps": int(steps)}:
                self.steps = steps
            case {"own": found}:
                more = _loaded(found)
                self.own = self.own.beside(more) if self.own else more
            case {"structure": structure, "numbers": [*numbers]}:
                candidates = [Candidate(x) for x in numbers]
                places = list(range(len(numbers)))
                self.rounds.append(Round(Structure(*structure), candidates, places))
            case {"round": int(number), "found": found, "go_on": [*go_on]}:
                self.rounds[number].found(_loaded(found))
                self.rounds[number].going_on = go_on
            case _:
                raise ValueError(f"no line of a search: {record}")

    # ---- what comes next ------------------------------------------------------------------------

    def first_seed(self, number: int, rung: int) -> int:
        """Of those that a round trains on; from `ALONE` on it is the same for all rounds."""
        if rung < ALONE:
            return 10_000 + (2 * number + rung) * self.count
        return (self.seed + (rung - ALONE) * self.count) % 2**32

    def unfinished(self, skip: Collection[Structure]) -> int | None:
        """The number of a round that was stopped, but for some structures."""
        for number, round in enumerate(self.rounds):
            if round.going_on and round.rung < self.rungs - 1 and round.structure not in skip:
                return number
        return None

    def structure(self, skip: Collection[Structure]) -> Structure | None:
        """That of a new round: each structure once, then the best ones in turn, but for some."""
        best: dict[Structure, tuple[float, ...]] = {}
        for round in self.rounds:
            results = [self._result(round, x) for x in round.candidates]
            order = min([(1.0,), *(self.order(x) for x in results if x)])
            best[round.structure] = min(order, best.get(round.structure, order))
        left = [x for x in self.structures if x not in best and x not in skip]
        if not left:
            left = sorted((x for x in best if x not in skip), key=lambda x: best[x])[:LEADERS]
        times = [round.structure for round in self.rounds]
        return min(left, key=times.count, default=None)

    def ranked(self, structure: Structure) -> list[dict[str, float]]:
        """The numbers of the settings of a structure, worst first.

        The later the last rung without a seed that diverged, the better; then the score there.
        """
        known = [x for y in self.rounds if y.structure == structure for x in y.candidates]
        return [x.numbers for x in sorted(known, key=lambda x: max(x.scores().items(), default=()))]

    def choose(self, round: Round) -> list[int]:
        """Places of those that go on from the rung that a round has trained on, best first.

        Their score is among the best quarter of all rounds. One that trained alone goes on if it
        solves the task on all of its seeds, where there is a threshold.
        """
        rung = round.rung
        known = {place: round.candidates[place].scores().get(rung) for place in round.going_on}
        scores = {place: x for place, x in known.items() if x is not None}
        if not scores or rung == self.rungs - 1:
            return []
        if rung >= ALONE and self.threshold is not None:
            ends = {place: round.candidates[place].seen(rung).returns[-1] for place in scores}
            return [place for place in scores if (ends[place] >= self.threshold).all()]
        everyone = [x.scores().get(rung) for y in self.rounds for x in y.candidates]
        least = np.quantile([x for x in everyone if x is not None], 0.75)
        good = [place for place in scores if scores[place] >= least]
        count = max(1, self.count // 4 ** (rung + 1))
        return sorted(good, key=lambda place: -scores[place])[:count]

    # ---- what is known --------------------------------------------------------------------------

    def results(self) -> list[Result]:
        """All settings that trained to an end without diverging, in `order`."""
        found = [self._result(round, x) for round in self.rounds for x in round.candidates]
        known = [x for x in found if x]
        if self.own:
            known.append(Result({}, self.own, max([1, *(x.rung for x in known)])))
        return sorted((x for x in known if np.isfinite(x.score)), key=self.order)

    def _result(self, round: Round, candidate: Candidate) -> Result | None:
        """On the last rung without a seed that diverged."""
        rung = max(candidate.scores(), default=None)
        if rung is None:
            return None
        settings = round.structure.settings() | as_settings(candidate.numbers)
        chosen_on = candidate.seen(min(rung, ALONE)).returns.shape[1]
        return Result(settings, candidate.seen(rung), rung, chosen_on)

    def order(self, result: Result) -> tuple[float, ...]:
        """Smaller for a better one."""
        return -result.rung, not result.solves(self.threshold), -result.score

    def is_solved(self) -> bool:
        """Whether settings have reached the threshold on all seeds of the last rung."""
        found = self.results()
        return any(x.rung == self.rungs - 1 and x.solves(self.threshold) for x in found)


def as_settings(numbers: Mapping[str, float]) -> dict[str, float]:
    """As keyword arguments of `PPOConfig`."""
    return dict(numbers) | {x: round(1 - numbers[x], 6) for x in FROM_1 if x in numbers}


def structures(own: PPOConfig, fits: Callable[[PPOConfig], bool]) -> list[Structure]:
    """The structures to try, in this order, of which `fits` says whether the memory suffices."""
    asked = own.normalize_observations
    found: dict[PPOConfig, Structure] = {}
    # Observations that are not centred need no value at the best constant, and explore better
    # without (docs/training.md). The first two structures differ most.
    for structure in (
        Structure("large", asked, asked),
        Structure("small", not asked, not asked),
        Structure("large", not asked, not asked),
        Structure("small", asked, asked),
        Structure("own", asked, own.init_value_from_rollouts),
        Structure("own", not asked, not asked),
    ):
        settings = dataclasses.replace(own, **structure.settings())
        if structure.batches == "own" or fits(settings):
            found.setdefault(settings, structure)
    return list(found.values())


def saved(curves: Curves) -> dict[str, Any]:
    """As a line of the journal has it."""
    return {"steps": curves.steps.tolist(), "returns": curves.returns.tolist()}


def _loaded(saved: Any) -> Curves:
    return Curves(np.array(saved["steps"], int), np.array(saved["returns"], float))
