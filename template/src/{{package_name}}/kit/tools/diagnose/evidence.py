"""What `diagnose` measured, and how returns are compared.

Policies are compared from the same starts, and a difference counts where its mean is above three
standard errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .trials import Outcome

TRAINED = {"trained": "the policy", "sampled": "actions sampled from the policy"}


@dataclass(frozen=True)
class Evidence:
    """What was measured; B starts, of which each policy plays one episode.

    Attributes:
      limit: the time limit, in steps; `repeat`: how many steps an action is applied for.
      played: by the policy's name: "random", each constant action, "constant" for the best of
        these, "planner" for the best of all horizons, if there was time for one, and if there is a
        policy "trained" for its most likely actions and "sampled" for actions sampled from it.
      best_constant: name of the best constant action.
      action_changes: whether the action changes anything: a state, a reward or an end.
      reward_reads: whether the reward, or how often it is paid, is computed from the state or the
        action.
      hidden: parts of the state on which it depends what is best, and which no observation shows.
      knows: what the planner knows and observations show later or in part: parts of the state, or
        tables on `self`.
      longer: the planner with so many `times` the time limit, if that was tried.
      survivor: a planner that is paid for each step alone, if that was tried.
      minutes: about how many a planner needs which ran out of time.
      seconds: what all of it took.
    """

    limit: int
    repeat: int
    played: Mapping[str, Outcome]
    best_constant: str
    action_changes: bool
    reward_reads: bool
    hidden: Sequence[str] = ()
    knows: Sequence[str] = ()
    longer: Outcome | None = None
    times: int = 2
    survivor: Outcome | None = None
    minutes: int | None = None
    seconds: float = 0.0

    @property
    def without_learning(self) -> list[Outcome]:
        """The outcomes of all but the trained policy."""
        return [x for name, x in self.played.items() if name not in TRAINED]

    @property
    def policy(self) -> str | None:
        """How the trained policy plays: sampled only where that is clearly better."""
        if "sampled" in self.played and self.is_above("sampled", "trained"):
            return "sampled"
        return "trained" if "trained" in self.played else None

    @property
    def simple(self) -> str:
        """The better one of random actions and the best constant action."""
        return max(("random", "constant"), key=self.mean)

    @property
    def rewards(self) -> tuple[float, float]:
        """The smallest and the largest reward that was ever met."""
        met = [x.rewards for x in (*self.without_learning, self.longer) if x]
        return min(x[0] for x in met), max(x[1] for x in met)

    @property
    def spread(self) -> np.ndarray:
        """How far apart the returns from each start are, whatever was done, (B,)."""
        return np.ptp([x.returns for x in self.without_learning], axis=0)

    @property
    def is_flat(self) -> bool:
        """Whether the returns are those of any other actions."""
        scale = max(np.max(np.abs(x.returns)) for x in self.without_learning)
        return bool(np.all(self.spread <= 1e-5 * scale))

    @property
    def advantage(self) -> float:
        """Of the planner over random actions."""
        return self.mean("planner") - self.mean("random")

    @property
    def planner_is_weak(self) -> bool:
        """Not clearly better than random and constant actions, or as uncertain as its advantage."""
        spread = float(np.std(self.played["planner"].returns))
        return not self.is_above("planner", self.simple) or spread > self.advantage

    def mean(self, name: str) -> float:
        return float(np.mean(self.played[name].returns))

    def is_above(self, name: str, other: str) -> bool:
        """Whether the first one is better, beyond chance."""
        return is_above_0(self.played[name].returns - self.played[other].returns)

    def is_behind(self, rival: str) -> bool:
        """Whether the policy is clearly worse, by over 10 % of the rival's advantage over random.

        Any policy can hold an action. So behind a constant one it also is where it gets less than
        half as much, or loses twice as much, if that is over 1 % of the advantage.
        """
        if self.policy is None or not self.is_above(rival, self.policy):
            return False
        best, policy = self.mean(rival), self.mean(self.policy)
        gap, advantage = best - policy, best - self.mean("random")
        far = 0.5 * max(abs(best), abs(policy)) if rival == "constant" else np.inf
        return gap > 0.1 * advantage or gap > max(far, 0.01 * advantage)


def is_above_0(differences: np.ndarray) -> bool:
    """Whether the mean is above 0 by more than three standard errors."""
    error = np.std(differences, ddof=1) / len(differences) ** 0.5
    return bool(np.mean(differences) > 3 * error)
