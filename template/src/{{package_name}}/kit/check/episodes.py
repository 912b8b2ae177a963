"""Rules: whole episodes, run in a batch under every kind of action."""

from collections.abc import Iterator

import numpy as np

from ..env.actions import ActionSpace, Discrete, MultiDiscrete
from ..trace.calls import key_of, leaves, part
from .engine import Finding, Unseen, error, names, warning
from .rollout import Rollout
from .stages import Subject, Traced


def _at(rollout: Rollout, t: int, i: int) -> str:
    """When and under which actions: the step within its episode, and of the whole run."""
    began = int(np.flatnonzero(rollout.series["restart"][: t + 1, i])[-1])
    later = f" of a later episode (step {t + 1} in all)" if began else ""
    return f"at step {t + 1 - began}{later} under {rollout.kinds[i]}"


@error("runs-compiled", "what can be traced can be compiled and run")
def runs_compiled(rollout: Rollout) -> Iterator[Finding]:
    yield from ()  # the scheduler reports what is raised on the way


@error("reset-at-zero", "after `reset`, `reward` and `done` are 0")
def reset_at_zero(rollout: Rollout) -> Iterator[Finding]:
    for name, values in (
        ("reward", rollout.series["reset_reward"]),
        ("done", rollout.series["reset_done"]),
    ):
        values = values[rollout.series["restart"]]
        if np.any(wrong := values != 0):
            what = f"{name} is {values[wrong][0]:g} after {np.sum(wrong)} of {len(values)} resets"
            yield Finding(what, f"{name}=jnp.zeros(())  # in reset", (name,))


@error("done-binary", "`done` is 0 or 1")
def done_binary(traced: Traced, rollout: Rollout) -> Iterator[Finding | Unseen]:
    done, fix = rollout.series["done"], "done=(done > 0.5).astype(jnp.float32)"
    wrong = np.argwhere((done != 0) & (done != 1) & ~np.isnan(done))
    possible = traced.step.outputs["done"].possible or {0.5}
    ends = possible - {0.0}  # what `done` is at an episode's end, as far as tracing can tell
    if len(wrong):
        t, i = wrong[0]
        yield Finding(f"done is {done[t, i]:g} {_at(rollout, t, i)}", fix, ("done",))
    elif ends and ends.isdisjoint({1.0, 0.5}):
        values = names(f"{x:g}" for x in sorted(ends))
        yield Finding(f"done is {values} at the end of an episode", fix, ("done",))
    elif not ends <= {1.0} and not np.any(done == 1):
        yield Unseen(f"no episode ended by itself in {rollout.steps} steps")


@error("finite", "no NaN and no infinity, in any episode or shortly after its end")
def finite(subject: Subject, traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    bad: dict[str, tuple[int, int]] = {}  # the first (t, i) of each leaf
    starts, sizes = leaves(rollout.start), rollout.series["sizes"]
    written = any(call.reading.infinite for _, call in traced.calls)
    for path, values in sizes.items():
        # A state may hold infinity on purpose, as for "nothing yet"; what is observed may not.
        memory = part(path) in ("pipeline_state", "info")
        meant = memory and (written or np.any(np.isinf(starts[path])))
        wrong = np.isnan(values) if meant else ~np.isfinite(values)
        for t, i in np.argwhere(wrong & ~_ended_for_it(subject, rollout, path))[:1]:
            bad[path] = int(t), int(i)
    if bad:
        t, i = min(bad.values())
        first = [path for path in bad if bad[path][0] == t]
        kinds = {"NaN" if np.isnan(sizes[path][bad[path]]) else "infinity" for path in first}
        when, past = _at(rollout, t, i), rollout.series["past"][t, i]
        if t == 0 and not all(np.all(np.isfinite(starts[path])) for path in first):
            when = "after reset"
        elif past > 0:
            when += f", {past} steps past the episode's end"
        later = names(sorted(bad.keys() - first))
        what = f"{names(first)}: {' and '.join(sorted(kinds))} {when}"
        fix = "jnp.sqrt(jnp.maximum(x, 0.0)), x / jnp.maximum(y, 1e-6), jnp.clip(v, -VMAX, VMAX)"
        yield Finding(what + (f"; later {later} too" if later else ""), fix, tuple(first))


def _ended_for_it(subject: Subject, rollout: Rollout, path: str) -> np.ndarray:
    """[T, B]: whether an episode ended as the state became NaN or infinite, so that nobody sees it.

    Nor is what follows from it seen, unless an action is repeated past the end.
    """
    past, sizes = rollout.series["past"], rollout.series["sizes"]
    state = [~np.isfinite(x) for p, x in sizes.items() if part(p) == "pipeline_state"]
    broken = np.any(state, axis=0) if state else np.zeros(past.shape, bool)
    end = np.arange(len(past))[:, None] - np.maximum(past, 0)
    ended = (past >= 0) & np.take_along_axis(broken, np.maximum(end, 0), 0)
    seen = past == 0 if subject.task.settings.action_repeat == 1 else past >= 0
    return ended if part(path) == "pipeline_state" else ended & ~seen


@error(
    "metric-per-step",
    "a metric is the value of this step, not a running sum",
    "same-bits",
    "finite",
)
def metric_per_step(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    paths, outputs, serving = list(traced.reset.leaves), traced.step.outputs, _for_metrics(traced)
    own = [p for p in rollout.stale["metrics"] if part(p) == "metrics"]
    sums = {path: f"{path} is computed from its own last value" for path in own}
    for path in (p for p in outputs if part(p) == "metrics" and p not in own):
        for index, memory in enumerate(paths):
            # In every branch `step` adds something to it that does not depend on it.
            grows = outputs[memory].slopes.get(index) == 1 and memory not in traced.unchanged
            if memory in serving and grows and outputs[path].slopes.get(index):
                what = f"{path} adds up: step adds to {memory}, which serves metrics alone"
                sums |= {path: what} if _lasts(rollout, path) else {}
    for path, what in sorted(sums.items()):
        fix = f"give {key_of(path)!r} what this step adds: evaluation sums each metric up by itself"
        if path in own and outputs[path].slopes.get(paths.index(path)) != 1:
            fix = "keep what it needs of the past in pipeline_state, which auto-reset renews"
        yield Finding(what, fix, (path,))


def _for_metrics(traced: Traced) -> set[str]:
    """Leaves of the state that serve metrics alone, if by way of each other."""
    # A position is a sum too, of rewards for progress, but more than metrics depends on it.
    outputs, paths = traced.step.outputs, list(traced.reset.leaves)
    users = {path: {p for p, x in outputs.items() if i in x.inputs} for i, path in enumerate(paths)}
    found = {path for path in paths if part(path) in ("pipeline_state", "info")}
    while more := {x for x in found if any(part(p) != "metrics" for p in users[x] - found)}:
        found -= more
    return found


def _lasts(rollout: Rollout, path: str) -> bool:
    """Whether a metric can have moved before an episode's last step, where no sum is one yet."""
    values, past = rollout.series["metrics"][path], rollout.series["past"]
    before, last = values[past < 0], values[past == 0]
    moved = np.any(before != before[:1])
    return bool(before.size) and bool(moved or not np.any(last != before[0]))


@error(
    "step-changes", "`step` changes the state, or the action what it pays", "same-bits", "finite"
)
def step_changes(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    paths, outputs = traced.reset.leaves, traced.step.outputs.values()
    moved = [path for path in rollout.moved if part(path) != "info"]
    if not moved and not any(len(paths) in x.inputs for x in outputs):
        what = "step leaves obs and pipeline_state as they are, and does nothing with the action"
        fix = "return state.replace(pipeline_state=..., obs=...)  # replace and x.at[i].set(y) "
        yield Finding(what, fix + "return a new value and leave the old one as it is")


@warning("step-remembers", "what `step` does matters to the next step", "step-changes")
def step_remembers(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    outputs, paths = traced.step.outputs, list(traced.reset.leaves)
    read = {paths[i] for x in outputs.values() for i in x.inputs if i < len(paths)}
    if not rollout.moved & read and outputs["done"].possible != {1.0}:
        what = "step reads nothing that the step before it changed, as if each were the first one"
        yield Finding(what, "return state.replace(pipeline_state=..., ...)  # with the next state")


@error("check-finished", "the check followed episodes to their end before its time was up")
def check_finished(subject: Subject, rollout: Rollout) -> Iterator[Finding]:
    length = subject.task.settings.episode_length
    if rollout.steps < rollout.wanted:
        what = f"episodes were followed for {rollout.steps} of {length} steps"
        yield Finding(what, f"check --time-limit {4 * subject.clock.limit:g}")


@warning("index-in-range", "an index into an array is in range", "finite")
def index_in_range(rollout: Rollout) -> Iterator[Finding]:
    fix = "jnp.clip(index, 0, len(array) - 1)  # if meant"
    for line, outside in rollout.series["outside"].items():
        for t, i in np.argwhere(outside & (rollout.series["past"] <= 0))[:1]:
            what = f"{line} reads past the end of an array {_at(rollout, t, i)}"
            yield Finding(what + "; JAX takes the last element instead", fix)


@warning("action-matters", "every part of the action does something", "same-bits", "finite")
def action_matters(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    space, inert = traced.space, []
    for index, (name, count) in enumerate(_parts(space).items()):
        for same in rollout.alike(index, count):
            if count is None:
                inert.append(f"{name} changes nothing")
            else:
                inert += [f"{name}: choice {c} does the same as {same[0]}" for c in same[1:]]
    if inert:
        fix = "remove it and lower the size of the action space, or use it in step"
        states = len(rollout.samples) * len(rollout.kinds)
        yield Finding(f"{names(inert)} in {states} states", fix)


def _parts(space: ActionSpace) -> dict[str, int | None]:
    """How many choices each part of an action has, by name; None for a number."""
    if isinstance(space, Discrete):
        return {"action": space.size}
    counts = space.num_choices if isinstance(space, MultiDiscrete) else [None] * space.size
    return {f"action[{i}]": count for i, count in enumerate(counts)}


@warning("one-step-episode", "episodes last longer than one step", "done-binary", "finite")
def one_step_episode(rollout: Rollout) -> Iterator[Finding]:
    if np.all(rollout.series["done"][rollout.series["restart"]] == 1):
        what = f"all {int(np.sum(rollout.series['restart']))} episodes ended at their first step"
        yield Finding(what, "done=jnp.zeros(())  # unless this is a bandit")


@warning("episode-ends", "episodes can end before the time limit", "finite", "check-finished")
def episode_ends(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    possible = traced.step.outputs["done"].possible
    if not np.any(rollout.series["past"] == 0) and possible != {0.0}:
        what = f"no episode ended by itself in {rollout.steps} steps: all are cut off by the time "
        fix = "raise episode_length if the task takes longer than that"
        yield Finding(what + "limit", fix)
