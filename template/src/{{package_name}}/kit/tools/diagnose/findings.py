"""What follows from what `diagnose` measured: findings, a verdict and a table.

Each finding is one function; `FINDINGS` has their ids in the order in which to fix them.
"""

from collections.abc import Callable

import numpy as np
from rich.table import Table

from ...run.display import number
from .evidence import TRAINED, Evidence, is_above_0


def numbers_are_not_finite(seen: Evidence) -> str | None:
    """A return is NaN or infinite."""
    wrong = [
        x for x in ROWS if x in seen.played and not np.all(np.isfinite(seen.played[x].returns))
    ]
    if not wrong:
        return None
    run = "`replay RUN`" if seen.policy else "training stops there, and `replay RUN`"
    return (
        f"Some rewards are NaN or infinite, with {' and '.join(ROWS[x] for x in wrong)}: `check` "
        f"says where they come from. Where it finds nothing, {run} does."
    )


def episodes_end_at_once(seen: Evidence) -> str | None:
    """Every episode ended by itself at its first action, whatever it was."""
    if seen.limit <= seen.repeat or any(
        np.any(x.lengths > 1) or not np.all(x.ended) for x in seen.without_learning
    ):
        return None
    return (
        "Every episode ends at its first step, whatever the action: unless this is a bandit, see "
        "what sets `done` in `step`."
    )


def action_changes_nothing(seen: Evidence) -> str | None:
    """Random and constant actions led from each start to the same states, rewards and ends."""
    if seen.action_changes:
        return None
    return "The action changes nothing, neither state nor reward: see how `step` uses it."


def actions_are_weak(seen: Evidence) -> str | None:
    """Returns from one start differ by less than 2 % of how much they differ between starts."""
    change, between = float(np.mean(seen.spread)), float(np.std(seen.played["random"].returns))
    if seen.is_flat or change >= 0.02 * between:
        return None
    return (
        f"Actions hardly matter: from one start they change the return by {change:.3g}, while "
        f"returns from other starts differ by {between:.3g}. See how `step` scales them."
    )


def time_limit_is_short(seen: Evidence) -> str | None:
    """The planner gains much by more time: its episodes were cut off, and rewards grow after that.

    With twice the time limit it gets more than the rate of the limit's last quarter predicts, by
    more than a quarter of its advantage over random actions.
    """
    if seen.longer is None or actions_are_weak(seen):
        return None
    planner, longer = seen.played["planner"], seen.longer
    # An episode that ended near the limit could have gone on: nothing was planned beyond it.
    rate = np.where(planner.ended, np.maximum(planner.late, 0.0), planner.late)
    expected = planner.returns + (seen.times - 1) * (seen.limit // seen.repeat) * rate
    gain = longer.returns - expected
    least = 0.25 * seen.advantage + 1e-5 * abs(np.mean(expected))
    if not is_above_0(gain) or np.mean(gain) <= least:
        return None
    return (
        f"The time limit of {seen.limit} steps cuts off {1 - np.mean(planner.ended):.0%} of the "
        f"planner's episodes, with a mean return of {seen.mean('planner'):.4g}; within "
        f"{seen.times * seen.limit} steps it reaches {np.mean(longer.returns):.4g}, and "
        f"{np.mean(longer.ended):.0%} end by themselves: raise episode_length in config.py."
    )


def reward_is_constant(seen: Evidence) -> str | None:
    """All returns from a start are equal, and the reward is computed from no state or action.

    Nor is the end of an episode, unless the reward is 0.
    """
    if not seen.is_flat or seen.reward_reads or time_limit_is_short(seen):
        return None
    return (
        f"The reward is always {seen.rewards[0]:g}, whatever happens: compute it from the state in "
        "`step`."
    )


def no_reward_is_reachable(seen: Evidence) -> str | None:
    """All returns from a start are equal, and the reward was the same number at every step."""
    low, high = seen.rewards
    if not seen.is_flat or not seen.reward_reads or low != high or time_limit_is_short(seen):
        return None
    limits = f"{seen.limit} steps"
    limits += f", nor within {seen.times * seen.limit}" if seen.longer else ""
    return (
        f"Planner, random and constant actions all get {low:g} at every step: no other reward is "
        f"reachable within the time limit of {limits}. Start nearer to what is rewarded, or reward "
        "progress towards it."
    )


def reward_ignores_actions(seen: Evidence) -> str | None:
    """All returns from a start are equal, although rewards differ and actions change the state."""
    low, high = seen.rewards
    if not seen.is_flat or low == high or time_limit_is_short(seen):
        return None
    return (
        f"The reward cannot tell actions apart: rewards are from {low:.4g} to {high:.4g}, but from "
        "each start all actions get the same return. Compute the reward from what actions change."
    )


def ending_early_pays(seen: Evidence) -> str | None:
    """A constant action ends episodes as early as the planner does, for about the same return.

    And they could go on: a planner that is paid for each step alone makes them three times as long,
    for a clearly lower return. An end that is hard to reach, or is rewarded itself, is a goal and
    not found here.
    """
    if seen.survivor is None:
        return None
    planner, survivor = seen.played["planner"], seen.survivor
    own, longest = np.mean(planner.lengths), np.mean(survivor.lengths)
    if longest < 3 * own or not is_above_0(planner.returns - survivor.returns):
        return None
    return (
        "Ending early pays more than going on: the planner ends episodes after "
        f"{own * seen.repeat:.0f} steps, though they can last {longest * seen.repeat:.0f}. If the "
        "end is no goal, see the sign of the reward, or pay for each step that the episode goes on."
    )


def goal_is_hidden(seen: Evidence) -> str | None:
    """What is best depends on a part of the state that no observation after the first step shows.

    Two starts that differ in that part alone were followed under the same actions: all their
    observations were equal, but one sequence of actions was better from one and worse from the
    other. A policy that is as good as the planner, which knows it, has seen it or remembers it.
    """
    is_solved = seen.policy and "planner" in seen.played and not seen.is_behind("planner")
    if not seen.hidden or (is_solved and not seen.planner_is_weak):
        return None
    return (
        f"What is best depends on {', '.join(seen.hidden)}, which no observation after the first "
        "step shows: add it to the observation or, where the first one shows it, keep earlier "
        "observations in view with FrameStack."
    )


def constant_is_best(seen: Evidence) -> str | None:
    """One constant action gets as much as the planner, but for 1 % of its advantage over random."""
    if "planner" not in seen.played or seen.is_flat or ending_early_pays(seen):
        return None
    constant = seen.mean("constant")
    better = seen.played["planner"].returns - seen.played["random"].returns
    if not is_above_0(better) or constant < seen.mean("planner") - 0.01 * seen.advantage:
        return None
    return (
        f"Nothing that was tried beats holding the action {seen.best_constant} ({constant:.4g}): a "
        "policy need not look at the observation. If that is not what you mean, the reward asks "
        "for another task than yours."
    )


def sampling_is_better(seen: Evidence) -> str | None:
    """Actions sampled from the policy get clearly more than its most likely ones.

    By more than 10 % of the best advantage over random actions that anything has.
    """
    if seen.policy != "sampled":
        return None
    trained, sampled = seen.mean("trained"), seen.mean("sampled")
    names = [x for x in ROWS if x in seen.played]
    if sampled - trained <= 0.1 * (max(map(seen.mean, names)) - seen.mean("random")):
        return None
    return (
        f"The policy's most likely actions get {trained:.4g}, actions sampled from it "
        f"{sampled:.4g}: evaluation and `play` take the most likely ones. Train for longer until "
        "both agree; if what is best needs chance, evaluate with --no-deterministic-eval."
    )


def planner_knows_more(seen: Evidence) -> str | None:
    """The policy is behind the planner alone, which knows what observations show later."""
    if not seen.knows or "planner" not in seen.played or not seen.is_behind("planner"):
        return None
    if seen.is_behind("constant") or seen.is_behind("random"):
        return None
    return (
        f"{REACHES['planner']} {seen.mean('planner'):.4g}, the policy {policy_mean(seen):.4g}, "
        f"but the planner knows {', '.join(seen.knows)}, which observations show later or in part. "
        "So a policy may not be able to reach it, and training need not be at fault."
    )


def training_is_at_fault(seen: Evidence) -> str | None:
    """The policy is behind the planner, the best constant action or random actions.

    Behind the planner only where it knows no more than observations show.
    """
    rivals = [x for x in REACHES if x in seen.played]
    if seen.hidden or seen.knows:
        rivals = [x for x in rivals if x != "planner"]
    rival = next(
        (x for x in sorted(rivals, key=seen.mean, reverse=True) if seen.is_behind(x)), None
    )
    if rival is None:
        return None
    return (
        f"{REACHES[rival]} {seen.mean(rival):.4g}, the policy {policy_mean(seen):.4g}: training is "
        "at fault. Train for longer, or search for other settings with `tune`."
    )


def policy_mean(seen: Evidence) -> float:
    return seen.mean(seen.policy or "trained")


ROWS = {
    "random": "random actions",
    "constant": "a constant action",
    "planner": "the planner",
    **TRAINED,
}
REACHES = {
    "planner": "A planner reaches",
    "constant": "A constant action reaches",
    "random": "Random actions reach",
}
Rule = Callable[[Evidence], str | None]
# After one of these no comparison means anything, so nothing else is judged.
FATAL: dict[str, Rule] = {
    "numbers_are_not_finite": numbers_are_not_finite,
    "episodes_end_at_once": episodes_end_at_once,
    "action_changes_nothing": action_changes_nothing,
}
# Where these are found, all actions get much the same: no policy is behind.
NO_MATTER: dict[str, Rule] = {
    "reward_is_constant": reward_is_constant,
    "no_reward_is_reachable": no_reward_is_reachable,
    "reward_ignores_actions": reward_ignores_actions,
}
FINDINGS: dict[str, Rule] = {
    "actions_are_weak": actions_are_weak,
    "time_limit_is_short": time_limit_is_short,
    **NO_MATTER,
    "ending_early_pays": ending_early_pays,
    "goal_is_hidden": goal_is_hidden,
    "constant_is_best": constant_is_best,
    "sampling_is_better": sampling_is_better,
    "planner_knows_more": planner_knows_more,
    "training_is_at_fault": training_is_at_fault,
}


def findings(seen: Evidence) -> dict[str, str]:
    """What was found, by its id, in the order in which to fix it.

    Where something is wrong with the task, a policy that is far behind is said to be so beside it.
    """
    for id, rule in FATAL.items():
        if text := rule(seen):
            return {id: text}
    found = {id: text for id, rule in FINDINGS.items() if (text := rule(seen))}
    if found.keys() & {"actions_are_weak", *NO_MATTER}:
        found.pop("training_is_at_fault", None)
    if len(found) > 1 and (text := found.get("training_is_at_fault")):
        found["training_is_at_fault"] = f"The policy is far behind, too. {text}"
    return found


def verdict(seen: Evidence) -> str:
    """What to say where nothing was found."""
    numbers = (
        f"random actions {seen.mean('random'):.4g}, a constant one {seen.mean('constant'):.4g}"
    )
    if seen.policy:
        numbers = f"the policy reaches {policy_mean(seen):.4g}, {numbers}"
    if "planner" not in seen.played:
        enough = f", about --minutes {seen.minutes}" if seen.minutes else ""
        return (
            f"Nothing was found without the planner, which did not come to its end: {numbers}. "
            f"Give it more time{enough}."
        )
    sampling = ""
    if "sampled" in seen.played and seen.is_above("trained", "sampled"):
        sampling = f" Actions sampled from it, as in training, reach {seen.mean('sampled'):.4g}."
    planner, spread = seen.mean("planner"), np.std(seen.played["planner"].returns)
    known = ""
    if seen.knows:
        known = (
            f" The planner knows {', '.join(seen.knows)}, which observations show later or in part."
        )
    if seen.planner_is_weak and not seen.is_flat:
        return (
            f"Nothing was found, but the planner is weak here: it reaches {planner:.4g} ± "
            f"{spread:.4g}, {numbers}. So it does not tell what a policy can reach." + known
        )
    if seen.policy:
        return (
            "Nothing was found: the policy is about as good as the planner "
            f"({policy_mean(seen):.4g} and {planner:.4g}). If it does not do what you want, "
            "the reward asks for something else." + sampling + known
        )
    return (
        f"Nothing is wrong with the task: a planner reaches {planner:.4g}, {numbers}. Train a "
        "policy, and compare it: diagnose RUN." + known
    )


def table(seen: Evidence) -> Table:
    """Means and standard deviations of each policy's returns and lengths."""
    made = Table("policy", "return", "± std", "length", "± std", "ended by itself")
    for name in ROWS:
        if x := seen.played.get(name):
            lengths = x.lengths * seen.repeat
            numbers = (np.mean(x.returns), np.std(x.returns), np.mean(lengths), np.std(lengths))
            shown = {"constant": f"constant: {seen.best_constant}", "sampled": "trained, sampled"}
            made.add_row(shown.get(name, name), *map(number, numbers), f"{np.mean(x.ended):.0%}")
    return made
