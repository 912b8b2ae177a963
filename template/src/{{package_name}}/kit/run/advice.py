"""Advice while a run trains."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..env.actions import ActionSpace, Continuous, Discrete
from ..ppo.settings import PPOConfig
from .display import Row

FEW_UPDATES = 20


def few_updates(settings: PPOConfig, num_devices: int) -> list[str]:
    """A sentence about a new run of so few updates that it can hardly learn, if it is one."""
    if settings.num_updates >= FEW_UPDATES:
        return []
    divided = num_devices if settings.num_seeds == 1 else 1
    per_rollout = settings.steps_per_update // settings.batch_size
    more = f"--num-timesteps {FEW_UPDATES * settings.steps_per_update}"
    for batch in range(settings.batch_size - 1, 0, -1):
        is_valid = not (batch * settings.num_minibatches % settings.num_envs or batch % divided)
        if is_valid and -(-settings.num_timesteps // (batch * per_rollout)) >= FEW_UPDATES:
            more = f"--batch-size {batch} or {more}"
            break
    updates = "1 update" if settings.num_updates == 1 else f"{settings.num_updates} updates"
    return [f"Little can be learned in {updates}: for {FEW_UPDATES} or more, try {more}."]


def advice(
    settings: PPOConfig, action_space: ActionSpace, rows: Sequence[Row], statistics: Any = None
) -> list[str]:
    """What may be wrong with a run, and what to try.

    A text depends on the settings alone, so that `Display.advise` can say each once.

    Args:
      rows: all evaluations so far, and the `training/...` values of any updates between them, each
        with its "steps" and, with several seeds, its "seed".
      statistics: the running statistics of the observations, with any leading axes; None before
        training.
    """
    sampled_better = _where_sampled_actions_are_better(settings, rows)
    found = {
        f"Nearly every episode was cut off by the time limit of {settings.episode_length} steps, "
        "which may be too short to reach the task's own end: try a larger "
        "--episode-length.": _is_cut_off(settings, rows) and not any(sampled_better[-1:]),
        "Training episodes, whose actions are sampled, have a much higher return than the "
        "evaluation, which takes the most likely action: it may repeat one action for ever. To "
        "evaluate sampled actions, use --no-deterministic-eval. If some actions change nothing, "
        "mask them. Or the best policy is stochastic, as in example 13.1 of Sutton and Barto, and "
        "has to be sampled.": len(sampled_better) > 1 and all(sampled_better[-2:]),
        "The reward has been the same at every step so far, so there is nothing to learn from. "
        "Reward progress in `step` too, or let episodes start nearer to the goal; a larger "
        "--episode-length may help to reach it.": _is_reward_constant(rows),
        "Some components of the observation vary more than 1,000 times as much as others, which "
        "networks learn badly from: try --normalize-observations.": (
            not settings.normalize_observations and _differ_in_scale(statistics)
        ),
        "The policy's entropy collapsed in the first tenth of training, so it hardly explores any "
        "more: try a larger --entropy-cost or a smaller --learning-rate.": _is_collapsed(
            settings.num_timesteps, action_space, rows
        ),
    }
    return [text for text, applies in found.items() if applies]


def _evaluations(rows: Sequence[Row]) -> list[Row]:
    """The rows of evaluations; empty as long as none of them follows training."""
    found = [row for row in rows if "eval/episode_reward" in row]
    return found if any(row["steps"] > 0 for row in found) else []


def _is_cut_off(settings: PPOConfig, rows: Sequence[Row]) -> bool:
    """Whether the time limit ended more than 95 % of the episodes of every evaluation, but not all.

    And training episodes, whose actions are sampled, were hardly shorter. Where it ended all of
    them, the task seems to have no end of its own.
    """
    evaluations, limit = _evaluations(rows), settings.episode_length
    shares = [row["eval/time_limit_reached"] for row in evaluations]
    sampled = [row.get("training/episode_length", limit) for row in evaluations]
    return bool(shares) and min(shares) < 1 and min(shares) > 0.95 and min(sampled) > 0.95 * limit


def _where_sampled_actions_are_better(settings: PPOConfig, rows: Sequence[Row]) -> list[bool]:
    """For each evaluation after training began: did training episodes have a much higher return?

    The difference has to be larger than the standard deviation of the evaluation's episodes, than
    three standard errors of their mean, and than a quarter of the range of all mean returns so
    far, which is how much there was to learn. Lower returns mean nothing: a policy that gets
    better is ahead of its training episodes. Where there was no time for two episodes as long as
    the evaluation's, only the short ones have ended in training, and nothing is known.
    """
    if not settings.deterministic_eval:
        return []
    evaluations: dict[float, list[Row]] = {}
    for row in _evaluations(rows):
        evaluations.setdefault(row["steps"], []).append(row)
    names = ["eval/episode_reward", "training/episode_reward"]
    names += ["eval/episode_reward_std", "eval/avg_episode_length"]
    found: list[bool] = []
    returns: list[float] = []
    before = 0.0
    for steps, group in sorted(evaluations.items()):
        evaluated, sampled, std, length = (
            float(np.mean([row.get(name, math.nan) for row in group])) for name in names
        )
        returns += [evaluated, sampled]
        had_time = steps - before >= 2 * length * settings.num_envs
        noise = std * max(1.0, 3 / math.sqrt(settings.num_eval_envs))
        much = max(noise, (np.nanmax(returns) - np.nanmin(returns)) / 4)
        if steps > 0:
            found.append(bool(had_time and sampled - evaluated > much))
        before = steps
    return found


def _is_reward_constant(rows: Sequence[Row]) -> bool:
    """Whether every reward of training was the same, and so was every return.

    A reward of 1 for each step until a fall is the same too; but there the length of episodes
    differs, and with it the return.
    """
    ranges = [
        (row["training/reward_min"], row["training/reward_max"])
        for row in rows
        if row.keys() >= {"training/reward_min", "training/reward_max"}
    ]
    if not ranges or not _evaluations(rows):
        return False
    low, high = np.transpose(ranges)
    largest = np.abs(ranges).max()
    # They are means over updates. Those of one row are rounded alike, those of two rows, which may
    # be over 1 update and over 10,000, are not.
    if (high - low).max() > 1e-6 * largest or high.max() - low.min() > 1e-3 * largest:
        return False
    lengths = [row["eval/avg_episode_length"] for row in _evaluations(rows)]
    lengths += [row["training/episode_length"] for row in rows if row.get("training/episodes")]
    return bool(largest == 0 or max(lengths) - min(lengths) < 1e-3)


def _differ_in_scale(statistics: Any) -> bool:
    """Whether standard deviations differ by more than 1e3; constant components don't count."""
    if statistics is None:
        return False
    flat = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)] or [np.zeros(0)])
        for tree in (statistics.mean, statistics.std)
    ]
    mean, std = np.abs(flat[0]), flat[1]
    # Brax's statistics never go below 1e-6, and float32 rounds sums of large constants.
    varies = std > np.maximum(2e-6, 1e-5 * mean)
    return bool(varies.any() and std[varies].max() > 1e3 * std[varies].min())


def _is_collapsed(total_steps: int, action_space: ActionSpace, rows: Sequence[Row]) -> bool:
    """Whether a seed's `training/entropy`, in nats, fell too far too early, for no better return.

    Looked at are the rows of the first tenth of training, or the first one where that is later.
    Choices: below 2 % of the entropy of uniformly random ones. Continuous actions, whose entropy
    has no lower bound: more than 4 nats for each dimension below the first value, which is a
    standard deviation divided by more than 50, or as much pressed against the bounds.
    """
    returns: dict[float, list[float]] = {}
    for row in _evaluations(rows):
        returns.setdefault(row["steps"], []).append(row["eval/episode_reward"])
    if not returns or np.mean(returns[max(returns)]) > np.mean(returns[min(returns)]):
        return False
    seeds: dict[float | None, list[float]] = {}
    for row in rows:
        if "training/entropy" in row:
            entropies = seeds.setdefault(row.get("seed"), [])
            if not entropies or row["steps"] <= total_steps / 10:
                entropies.append(row["training/entropy"])
    if isinstance(action_space, Continuous):
        return any(
            first - min(rest) > 4 * action_space.size for first, *rest in seeds.values() if rest
        )
    choices = (
        (action_space.size,) if isinstance(action_space, Discrete) else action_space.num_choices
    )
    least = 0.02 * sum(map(math.log, choices))
    return any(min(entropies) < least for entropies in seeds.values())
