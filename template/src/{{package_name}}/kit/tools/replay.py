"""Finds where a NaN or an infinity in a training run came from.

Training goes on exactly as it did from what a run saved last, so a run needs to record nothing:
PPO's own functions do the updates again. The first bad one is evaluated one operation at a time,
and each number that is not finite is followed from the operation that made it.
"""

import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from ..env import render
from ..env.keys import raw
from ..env.time_limit import has_not_finite
from ..env.wrappers import wrap_for_evaluation, wrap_for_training
from ..errors import UsageError
from ..ppo.settings import PPOConfig
from ..ppo.state import Totals, TrainingState
from ..ppo.task import Task
from ..run import files, folder, gif
from ..run.display import RETURN
from ..run.loop import evaluations
from ..run.programs import Programs
from ..trace.calls import leaves
from ..trace.causes import Call, Cause, Marked, Traced, Watch, is_finite, take
from ..trace.lines import Frame

SURFACES = ("action", "obs", "reward", "done")  # what ends a run where it is not finite
OF_LEARNING = ("[1].metrics['total_loss']", "[1].metrics", "[0].params", "[0].normalizer")


@dataclass(frozen=True)
class Finding:
    """Where the first number that is not finite came from.

    Attributes:
      text: the sentences that tell all of this.
      leaf: such as `obs[1]`, `pipeline_state['speed']`, `action[0]` or `training/total_loss`.
      value: `nan`, `inf` or `-inf`.
      steps: environment steps from the start of the run, the bad one included.
      seed: of the run.
      environment: its index in the batch; None where learning is the origin.
      step: of the episode, from 1; 0 if `reset` gave it; None if unknown.
      line: the innermost line of the user's own code; None if it could not be found.
    """

    text: str
    leaf: str
    value: str
    steps: int
    seed: int
    environment: int | None
    step: int | None
    line: Frame | None


def replay(
    run: Path,
    tasks: Task | Mapping[str, Task],
    *,
    max_frames: int = 100,
    say: Callable[[str], None] = print,
) -> Finding | None:
    """Finds the origin, tells it and writes the states around it to `RUN/replay/`.

    As many devices are used as in the training, or as there are, because rounding depends on it.

    Args:
      run: the folder that `train` left; nothing else in it changes.
      tasks: what was trained, or the tasks of `config.py`, of which the run names one.
      max_frames: how many of the last states to draw, if the environment has a `render`.
      say: called with each sentence.

    Returns:
      None if all numbers stay finite up to the evaluation after what was saved last.

    Raises:
      UsageError: the run can't be used.
    """
    _, task = folder.task_of(run, tasks)
    trained_on = folder.read_config(run)["num_devices"]
    folder.refuse_other_sizes(run, task.environment())
    files.refuse_no_folder(run / "replay")
    counts = range(1, jax.device_count() + 1)
    programs = Programs(task, max(n for n in counts if trained_on % n == 0))
    changes = folder.changes_since(run, programs.environment, programs.ppo, programs.num_devices)
    for change in changes:
        say(files.printable(change))
    updates = _Updates(run, task.settings, programs)
    bad = updates.first_bad()
    if bad is None:
        why = "so it was stopped by something else, or on another device"
        if changes:
            why = "which may be because of what has changed"
        steps = updates.last * task.settings.steps_per_update
        say(f"Everything stays finite up to step {steps:,}, {why}.")
        return None
    finding, before, after, frames = _Look(task, updates, bad).find()
    text = finding.text + _write(run, programs.environment, before, after, frames[-max_frames:])
    say(text)
    return replace(finding, text=text)


# ---- the first bad update -----------------------------------------------------------------------


class _Bad(NamedTuple):
    """What goes wrong in one seed, of this index: a function of PPO and what it is given."""

    function: str
    state: TrainingState
    member: int


class _Updates:
    """The updates of a run, done again exactly.

    Attributes:
      started: how many updates were done when the run was saved.
      last: at how many the run was to be evaluated next.
    """

    def __init__(self, run: Path, settings: PPOConfig, programs: Programs) -> None:
        self._settings, self._programs = settings, programs
        saved = folder.load_resume(run, folder.Saved(programs.shapes))
        programs.compile()
        self._start = programs.init() if saved is None else programs.to_devices(saved.state)
        self.started = int(np.max(self._start.updates))
        evaluated = {row["steps"] for row in folder.read_metrics(run)}
        marks = evaluations(settings)
        self._to_evaluate = {n for n in marks if n * settings.steps_per_update not in evaluated}
        # A run that goes on longer has been evaluated, and what came from it saved.
        self.last = min((mark for mark in marks if mark > self.started), default=self.started)

    def _again(self) -> Iterator[tuple[int, TrainingState, Totals | None]]:
        """How many updates are done, the state after them, and what the last one measured."""
        state, totals = self._start, None
        for done in range(self.started, self.last + 1):
            yield done, state, totals
            if done < self.last:  # `epoch` consumes its state
                copied = self._programs.to_devices(jax.tree.map(jnp.copy, state))
                state, totals = self._programs.epoch(copied, 1)

    def first_bad(self) -> _Bad | None:
        before = self._start
        for done, state, totals in self._again():
            function, given, bad = "update", before, self._is_bad(state, totals)
            if done in self._to_evaluate and not bad.any():
                returns = np.atleast_1d(self._programs.evaluate(state)[RETURN])
                function, given, bad = "evaluate", state, ~np.isfinite(returns)
            if bad.any():
                member = int(np.argmax(bad))
                return _Bad(function, self._of(given, member), member)
            before = state
        return None

    def last_finite(self, path: str, member: int, row: int, end: int) -> TrainingState | None:
        """The last state before update `end` in which a leaf was finite for an environment."""
        found = None
        for _, state, _ in itertools.islice(self._again(), end - self.started):
            one = self._of(state, member)
            if is_finite(take(leaves(one)[path], row, self._settings.num_envs)):
                found = one
        return found

    def _of(self, tree: Any, member: int) -> Any:
        """What belongs to one seed."""
        if self._settings.num_seeds > 1:
            tree = jax.tree.map(lambda x: x[member], tree)
        return jax.device_put(tree, jax.devices()[0])

    def _is_bad(self, state: TrainingState, totals: Totals | None) -> np.ndarray:
        """Whether a number is not finite that training uses or reports, (num_seeds,) bool."""
        env = state.env_state
        tree: Any = [state.params, state.normalizer_params, env.obs, env.reward, env.done]
        if totals is not None:
            tree += [totals.metrics, jnp.where(totals.not_finite > 0, jnp.nan, 0.0)]
        if self._settings.num_seeds == 1:
            tree = jax.tree.map(lambda x: jnp.asarray(x)[None], tree)
        return np.asarray(has_not_finite(tree))


# ---- what happened ------------------------------------------------------------------------------

# A finding, what to save from before and after, and states to draw.
_Found = tuple[Finding, dict[str, Any], dict[str, Any], list[State]]


class _Look:
    """Follows a number back from what ended the run to what made it, which may be long before."""

    def __init__(self, task: Task, updates: _Updates, bad: _Bad) -> None:
        self._task, self._updates, self._bad = task, updates, bad
        self._seed = int(bad.state.seed)
        self._row = 0  # of the environment

    def find(self) -> _Found:
        name, state, _ = self._bad
        watch, outputs = self._watch(name, state, None)
        if watch.ended is None:
            return self._in_learning(outputs)
        self._row, others = int(np.argmax(watch.ended)), int(watch.ended.sum()) - 1
        watch, _ = self._watch(name, state, self._row)
        call = end = next(x for x in watch.calls if any(p.startswith(SURFACES) for p in x.causes))
        frames = [*(x.given[0] for x in watch.calls if len(x.given) > 1), end.after]
        path = next(p for start in SURFACES for p in end.causes if p.startswith(start))
        cause = end.causes[path]
        surfaced = self._became(end, path, None, name, state)[0]
        while isinstance(cause, int):  # the state had it already
            leaf = list(leaves(state))[cause]
            good = self._updates.last_finite(leaf, self._bad.member, self._row, int(state.updates))
            if good is None and self._updates.started > 0:
                return self._saved(leaf, surfaced)
            name, state = ("init", self._bad.state) if good is None else ("update", good)
            watch, outputs = self._watch(name, state, self._row)
            causes = {path: cause for path, (_, cause) in outputs.items()}
            if name == "init":  # which may have ended
                causes = {f"env_state.{path}": x for path, x in watch.calls[-1].causes.items()}
            cause = next(x for path, x in causes.items() if path.endswith(leaf))
        if isinstance(cause, Cause) and cause.call is not None and cause.path:
            call, path = cause.call, cause.path
        text, (leaf, value), steps, step = self._became(call, path, cause, name, state)
        if call is not end and text != surfaced:
            text = f"{surfaced} That came from what happened before: {text}"
        elif others:
            text += f" It happened in {others} more of the environments at the same time."
        before, after = {}, {} if path == "action" else leaves(call.after)
        if len(call.given) > 1:
            before = {**leaves(call.given[0]), "action": call.given[1]}
        text, line = f"{text}\n{cause}", cause.line if isinstance(cause, Cause) else None
        finding = Finding(text, leaf, value, steps, self._seed, self._row, step, line)
        return finding, before, after, frames

    def _watch(
        self, name: str, state: TrainingState, row: int | None
    ) -> tuple[Watch, dict[str, Traced]]:
        """Watches a function of PPO; also gives its outputs by path, unless a step ends the run."""
        task, own, batch = self._task, wrap_for_training, self._task.settings.num_envs
        if name == "evaluate":
            own, batch = wrap_for_evaluation, task.settings.num_eval_envs
            # That wrapper does not keep the last observation.
            task = replace(task, settings=replace(task.settings, bootstrap_on_timeout=False))
        wrap: Callable[..., Env] = task.wrap_env_fn or own
        structures: dict[str, Any] = {}

        def mark(env: Env, **options: Any) -> Env:
            return Marked(wrap(env, **options), structures)

        function = getattr(replace(task, wrap_env_fn=mark).make_ppo(), name)
        watch = Watch(structures, batch, row, one_episode=name == "evaluate")
        return watch, watch.run(function, state.seed if name == "init" else state)

    def _became(
        self, call: Call, path: str, cause: Any, name: str, state: TrainingState
    ) -> tuple[str, tuple[str, str], int, int | None]:
        """What a call made bad, in function `name` of PPO.

        Returns:
          A sentence, the name of the leaf and its value, the run's step and that of the episode.
        """
        leaf, value = _entry(call.given[1] if path == "action" else leaves(call.after)[path], path)
        what = f"{leaf} became {value}"
        if path == "action":
            what = f"The policy gave {leaf} = {value} for a finite observation"
        before, at, step = call.given[0], "in", None
        if len(call.given) == 1 or (isinstance(cause, Cause) and cause.is_in("_reset_done")):
            at, step = "in the first state of an episode of", 0
        elif "steps" in before.info:
            step = int(before.info["steps"][0] * (before.done[0] == 0)) + 1
            if isinstance(cause, Cause) and cause.is_in("_repeat"):
                step += cause.loops[len(call.loops)]
            at = f"at step {step} of an episode of"
        settings = self._task.settings
        steps = 0 if name == "init" else int(state.updates) * settings.steps_per_update
        if name == "update" and call.loops:
            number = call.loops[0] * settings.unroll_length + call.loops[1] + 1
            steps += number * settings.num_envs * settings.action_repeat
        when = f"{steps:,} environment steps into the run"
        if name == "evaluate":
            when = f"in the evaluation {when}"
        text = f"{what} {at} environment {self._row} (seed {self._seed}), {when}."
        return text, (leaf, value), steps, step

    def _saved(self, path: str, surfaced: str) -> _Found:
        """What was bad already in the state that the run saved."""
        settings = self._task.settings
        state = take(self._bad.state, self._row, settings.num_envs)
        name, value = _entry(leaves(state)[path], path.removeprefix("env_state."))
        text = (
            f"{surfaced} That came from before: {name} was {value} already when the run was saved "
            "last, and what was before that is not known. Train again with --num-evals 2 and a "
            "large --checkpoint-every, which save less often, and replay that run."
        )
        steps = self._updates.started * settings.steps_per_update
        finding = Finding(text, name, value, steps, self._seed, self._row, None, None)
        return finding, {}, leaves(state.env_state), [state.env_state]

    def _in_learning(self, outputs: Mapping[str, Traced]) -> _Found:
        name, state, _ = self._bad
        number = int(state.updates) + (name == "update")
        steps = number * self._task.settings.steps_per_update
        what = "update" if name == "update" else "the evaluation after update"
        when = f"in {what} {number} (seed {self._seed}), {steps:,} environment steps into the run"
        in_order = (p for start in OF_LEARNING for p in outputs if p.startswith(start))
        path = next((path for path in in_order if not is_finite(outputs[path][0])), "")
        x, cause = outputs.get(path, (np.float32(np.nan), Cause("", (), ())))
        leaf, value = _entry(x[None], path.removeprefix("[0]."))
        if path.startswith("[1]"):
            leaf = "training/" + path.split("'")[1]
        text = f"{leaf or 'Something'} became {value} {when}, while the environments stayed finite."
        line = cause.line if isinstance(cause, Cause) else None
        if isinstance(cause, int):
            text += f" {list(leaves(state))[cause]} was not finite before."
        elif cause is not None:
            if cause.is_in("learn") and len(cause.loops) > 1:
                number, minibatch = (i + 1 for i in cause.loops[:2])
                text += f" It began in minibatch {minibatch} of pass {number}."
            text += f"\n{cause}"
        before = leaves((state.params, state.normalizer_params))
        return Finding(text, leaf, value, steps, self._seed, None, None, line), before, {}, []


def _write(
    run: Path,
    environment: Env,
    before: dict[str, Any],
    after: dict[str, Any],
    frames: list[State],
) -> str:
    """Writes leaves as .npz and draws `frames`; says where, as the end of a text."""
    place, written, problem = run / "replay", list[str](), ""
    try:
        files.folder(run, "replay")
        for name, arrays in {"before.npz": before, "after.npz": after}.items():
            if arrays:
                one = {p: raw(x[0] if x.shape[:1] == (1,) else x) for p, x in arrays.items()}
                buffer = io.BytesIO()
                np.savez(buffer, **one)
                files.write(place / name, buffer.getvalue())
                written.append(name)
        if frames:
            gif.save_gif(place / "replay.gif", [render.draw(environment, x) for x in frames])
            written.append("replay.gif with the states up to it")
    except OSError as error:
        problem = f"; the rest can't be written ({files.reason(error)})"
    except UsageError as error:
        problem = f"; no GIF: {error}"
    return f"\n{files.printable(place)} holds {', '.join(written) or 'nothing'}{problem}."


def _entry(x: Any, path: str) -> tuple[str, str]:
    """Name and value of the first number that is not finite in (1, ...) `x`."""
    x = np.asarray(x)
    index = np.unravel_index(np.argmax(~np.isfinite(x)), x.shape)
    return path + "".join(f"[{i}]" for i in index[1:]), str(x[index])
