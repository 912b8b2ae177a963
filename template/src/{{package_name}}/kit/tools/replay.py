"""Finds where a NaN or an infinity in a training run came from.

Training goes on exactly as it did from what a run saved last, so a run needs to record nothing:
the updates are done again up to the first bad one, which is then taken apart step by step.
"""

import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State, Wrapper
from brax.training.agents.ppo.networks import make_inference_fn

from ..env import render
from ..env.auto_reset import AutoResetWrapper
from ..env.keys import raw
from ..env.time_limit import WRAPPER_INFO, has_not_finite
from ..errors import UsageError
from ..ppo.settings import PPOConfig
from ..ppo.state import Totals, TrainingState, policy_params
from ..ppo.task import Task, choose
from ..run import files, folder, gif
from ..run.programs import Programs
from ..run.train import RETURN, evaluations
from .origin import Origin, find, is_finite

SURFACES = (".obs", ".reward", ".done")  # what ends a run where it is not finite
ORDER = (".pipeline_state", *SURFACES, ".metrics", ".info")


@dataclass(frozen=True)
class Finding:
    """Where the first number that is not finite came from.

    Attributes:
      text: the sentences that tell all of this.
      leaf: `obs[1]`, `pipeline_state['speed']`, `reward`, `action[0]`, `training/total_loss`,
        `params.policy...`.
      value: `nan`, `inf` or `-inf`.
      steps: environment steps from the start of the run, the bad one included.
      seed: of the run.
      environment: its index in the batch; None where learning is the origin.
      step: of the episode, from 1; 0 if `reset` gave it; None if unknown.
      origin: the operation and its line; None if it could not be found.
    """

    text: str
    leaf: str
    value: str
    steps: int
    seed: int
    environment: int | None
    step: int | None
    origin: Origin | None


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
    saved = folder.read_config(run)
    task = tasks if isinstance(tasks, Task) else choose(tasks, saved["task"])[1]
    task = replace(task, settings=PPOConfig(**saved["settings"]))
    folder.refuse_other_sizes(run, task.environment())
    files.refuse_no_folder(run / "replay")
    counts = range(1, jax.device_count() + 1)
    programs = Programs(task, max(n for n in counts if saved["num_devices"] % n == 0))
    changes = folder.changes_since(run, programs.environment, programs.ppo, programs.num_devices)
    for change in changes:
        say(files.printable(change))
    search = _Search(run, task.settings, programs)
    bad = search.first_bad()
    if bad is None:
        why = (
            "which may be because of what has changed"
            if changes
            else "so it was stopped by something else, or on another device"
        )
        steps = search.done * task.settings.steps_per_update
        say(f"Everything stays finite up to step {steps:,}, {why}.")
        return None
    finding = _Look(run, task, search, bad, max_frames).find()
    say(finding.text)
    return finding


# ---- the first bad update -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Bad:
    """What goes wrong in one seed, of this index: the update after a state, or its evaluation.

    Attributes:
      state: before it.
      after: what the update gave; None for an evaluation, or if `state` is bad already.
    """

    state: TrainingState
    member: int
    in_evaluation: bool = False
    after: tuple[TrainingState, Totals] | None = None


class _Search:
    """Does the updates of a run again, exactly.

    Attributes:
      started: how many updates were done when the run was saved.
      done: how many are done now.
    """

    def __init__(self, run: Path, config: PPOConfig, programs: Programs) -> None:
        self.config, self.programs = config, programs
        saved = folder.load_resume(run, folder.Saved(programs.shapes))
        programs.compile()
        self._start = programs.init() if saved is None else programs.to_devices(saved.state)
        self.started = self.done = int(np.max(self._start.updates))
        evaluated = {row["steps"] for row in folder.read_metrics(run)}
        marks = evaluations(config)
        self._to_evaluate = {n for n in marks if n * config.steps_per_update not in evaluated}
        # A run that goes on longer has been evaluated, and what came from it saved.
        self._last = min((mark for mark in marks if mark > self.started), default=self.started)
        self._is_bad = jax.jit(self._look)

    def first_bad(self) -> _Bad | None:
        state = self._copy(self._start)
        if (bad := self._is_bad(state)).any():
            return self._bad(state, bad)
        while True:
            if self.done in self._to_evaluate:
                bad = ~np.isfinite(np.atleast_1d(self.programs.evaluate(state)[RETURN]))
                if bad.any():
                    return self._bad(state, bad, in_evaluation=True)
            if self.done >= self._last:
                return None
            before = self._copy(state)
            state, totals = self.programs.epoch(state, 1)
            if (bad := self._is_bad(state, totals)).any():
                return self._bad(before, bad, after=(state, totals))
            self.done += 1

    def last_finite(self, path: str, member: int, row: int, end: int) -> TrainingState | None:
        """The last state before update `end` in which a leaf of an environment was finite."""
        found, state = None, self._copy(self._start)
        for _ in range(self.started, end):
            one = self._member(state, member)
            if is_finite(_row(_leaves(one.env_state)[path], row, self.config.num_envs)):
                found = one
            state, _ = self.programs.epoch(state, 1)
        return found

    def _bad(self, state: TrainingState, members: Any, after: Any = None, **others: bool) -> _Bad:
        member = int(np.argmax(members))
        state, after = self._member((state, after), member)
        return _Bad(state, member, after=after, **others)

    def _member(self, tree: Any, member: int) -> Any:
        """A copy of what belongs to one seed; `epoch` consumes its state."""
        if self.config.num_seeds > 1:
            tree = jax.tree.map(lambda x: x[member], tree)
        return jax.device_put(jax.tree.map(jnp.copy, tree), jax.devices()[0])

    def _look(self, state: TrainingState, totals: Totals | None = None) -> jax.Array:
        """Whether a number is not finite that training uses or reports, (num_seeds,) bool."""
        env = state.env_state
        tree: Any = [state.params, state.normalizer_params, env.obs, env.reward, env.done]
        if totals is not None:
            tree += [totals.metrics, jnp.where(totals.not_finite > 0, jnp.nan, 0.0)]
        if self.config.num_seeds == 1:
            tree = jax.tree.map(lambda x: x[None], tree)
        return has_not_finite(tree)

    def _copy(self, state: TrainingState) -> TrainingState:
        return self.programs.to_devices(jax.tree.map(jnp.copy, state))


# ---- step by step -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Hit:
    """The first bad step of a batch.

    Attributes:
      number: that of the action, from 0; -1 if the first state is bad already.
      rows: which environments, (batch,) bool.
      before: the batch that the policy acted for.
      key: what it acted with, if its action is bad for an observation that is not; else None.
    """

    number: int
    rows: np.ndarray
    before: State
    key: Any = None

    @property
    def row(self) -> int:
        return int(np.argmax(self.rows))


class _Steps:
    """The environment steps of one update, or of one evaluation, one at a time.

    Keys are split as `PPO.update` (with Brax's `generate_unroll`) and `run_episodes` do it.
    """

    def __init__(self, task: Task, state: TrainingState, evaluation: bool) -> None:
        self.task, self.state, self.evaluation = task, state, evaluation
        self.config = config = task.settings
        self.ppo = ppo = task.make_ppo()
        self._make_env = ppo.evaluation_env if evaluation else ppo.training_env
        self._batch = config.num_eval_envs if evaluation else config.num_envs
        key_reset, key_steps = jax.random.split(jax.random.fold_in(state.eval_key, state.updates))
        self._reset_keys = jax.random.split(key_reset, self._batch)
        self._key = key_steps if evaluation else jax.random.split(state.key, 3)[1]
        make_policy = make_inference_fn(ppo.networks)

        def act(state: TrainingState, obs: Any, key: jax.Array) -> jax.Array:
            if not evaluation:
                return make_policy(policy_params(state))(obs, key)[0]
            policy = make_policy(policy_params(state), deterministic=config.deterministic_eval)
            return jax.vmap(policy)(obs, key)[0]

        def step(state: TrainingState, before: State, key: jax.Array) -> Any:
            action = act(state, before.obs, key)
            after = self._make_env(state.seed).step(before, action)
            bad = has_not_finite((after.obs, after.reward, after.done))
            if "not_finite" in after.info:  # looked at before the auto-reset
                bad |= after.info["not_finite"] & ~before.info["not_finite"]
            bad_action = has_not_finite((action, before.reward))  # an action may be an integer
            if evaluation:
                bad, bad_action = (x & (before.done == 0) for x in (bad, bad_action))
            return action, after, bad, bad_action

        self.act, self._step = act, jax.jit(step)

    def reset(self, seed: Any) -> State:
        """The first states of the evaluation, or of the whole training."""
        if self.evaluation:
            return self._make_env(seed).reset(self._reset_keys)
        return self.ppo.init(seed).env_state

    def first(self) -> State:
        return jax.jit(self.reset)(self.state.seed) if self.evaluation else self.state.env_state

    def _keys(self) -> Iterator[jax.Array]:
        config, key = self.config, self._key
        if self.evaluation:
            for count in range(config.episode_length // config.action_repeat):
                yield jax.random.split(jax.random.fold_in(key, count), self._batch)
            return
        for _ in range(config.batch_size * config.num_minibatches // config.num_envs):
            now, key = jax.random.split(key)
            for _ in range(config.unroll_length):
                now, following = jax.random.split(now)
                yield now
                now = following

    def first_bad(self) -> _Hit | None:
        before = self.first()
        bad = np.asarray(has_not_finite((before.obs, before.reward, before.done)))
        if bad.any():
            return _Hit(-1, bad, before)
        for number, key in enumerate(self._keys()):
            _, after, bad, bad_action = self._step(self.state, before, key)
            if bad_action.any():
                return _Hit(number, np.asarray(bad_action), before, key)
            if bad.any():
                return _Hit(number, np.asarray(bad), before)
            before = after
        return None

    def track(self, row: int, count: int | None = None) -> "_Track":
        """What one environment goes through in `count` actions, or in all of them."""
        states, actions = [], []
        state = self.first()
        for key in itertools.islice(self._keys(), count):
            action, after, _, _ = self._step(self.state, state, key)
            states.append(self.take(state, row))
            actions.append(self.take(action, row))
            state = after
        return _Track([*states, self.take(state, row)], actions, self._alone(row))

    def take(self, tree: Any, row: int) -> Any:
        """One environment of a batch, with a leading axis of 1."""
        return jax.tree.map(lambda x: _row(x, row, self._batch), tree)

    def _alone(self, row: int) -> list[Callable[..., State]]:
        """`step` of a batch of this environment alone: without auto-reset, and with it."""
        task = self.task
        randomize = task.randomization_fn
        if randomize is not None:

            def randomize_one(system: Any, rng: jax.Array) -> Any:
                systems, axes = randomize(system, rng=rng)

                def take(axis: int | None, part: Any) -> Any:
                    one = np.array([row])
                    return part if axis is None else jax.tree.map(lambda x: x.take(one, axis), part)

                return jax.tree.map(take, axes, systems, is_leaf=lambda x: x is None), axes

            task = replace(task, randomization_fn=randomize_one)
        ppo = task.make_ppo()
        made = [
            (ppo.evaluation_env if self.evaluation else ppo.training_env)(self.state.seed)
            for _ in range(2)
        ]
        env = made[0]
        while isinstance(env, Wrapper):
            if isinstance(env, AutoResetWrapper):
                env._restart = lambda state: state  # type: ignore[method-assign]
            env = env.env
        return [env.step for env in made]


@dataclass(frozen=True)
class _Moment:
    """When the leaf `path` became bad: `function(before, action)` is `after`, which has it.

    Attributes:
      number: that of the action, from 0.
      in_reset: the auto-reset after the step gave it.
    """

    path: str
    number: int
    function: Callable[..., State]
    before: State
    action: Any
    after: State
    in_reset: bool


@dataclass(frozen=True)
class _Track:
    """What one environment goes through.

    Attributes:
      states: one more than actions, each with a leading axis of 1.
      actions: (1, ...) each.
      functions: what an action does, without the auto-reset and with it.
    """

    states: list[State]
    actions: list[Any]
    functions: list[Callable[..., State]]

    def last_finite(self, path: str, number: int) -> int:
        """The last action, from `number` back, before which a leaf was finite; -1 if none."""
        finite = (is_finite(_leaves(state)[path]) for state in self.states[number::-1])
        return number - next((n for n, x in enumerate(finite) if x), number + 1)

    def moment(self, number: int, path: str = "") -> _Moment | None:
        """How an action makes a leaf bad, if none is named the first one that ends a run.

        Returns:
          None if it stays finite where the environment is alone.
        """
        before, action = self.states[number], self.actions[number]
        for function, in_reset in zip(self.functions, (False, True), strict=True):
            after = jax.jit(function)(before, action)
            bad = path or _first_bad(after, SURFACES)
            if bad and not is_finite(_leaves(after)[bad]):
                return _Moment(bad, number, function, before, action, after, in_reset)
        return None


# ---- the origin ---------------------------------------------------------------------------------


class _Look:
    """Takes a bad update or evaluation apart."""

    def __init__(self, run: Path, task: Task, search: _Search, bad: _Bad, max_frames: int) -> None:
        self.run, self.task, self.config = run, task, task.settings
        self.search, self.bad, self.max_frames = search, bad, max_frames
        self.seed = int(bad.state.seed)
        self.row = 0  # of the environment
        self.steps = _Steps(task, bad.state, bad.in_evaluation)

    def find(self) -> Finding:
        hit = self.steps.first_bad()
        if hit is None:
            return self._in_learning(", while the environments stayed finite")
        self.row = hit.row
        if hit.number < 0:
            first = self.steps.take(hit.before, hit.row)
            return self._in_first_state(_first_bad(first, SURFACES))
        track = self.steps.track(hit.row, hit.number + 1)
        if hit.key is not None:
            return self._in_policy(hit, track)
        return self._in_environment(track, int(hit.rows.sum()) - 1)

    def _in_environment(self, track: _Track, others: int) -> Finding:
        """Goes back from what ended the run to what made it bad, which may be long before."""
        end = moment = track.moment(len(track.actions) - 1)
        frames, surfaced = track.states[:-1], ""
        while moment is not None:
            args = (moment.before, moment.action)
            origin = find(moment.function, args, list(_leaves(moment.after)).index(moment.path))
            inputs = list(_leaves(moment.before))
            if origin is None or origin.input is None or origin.input >= len(inputs):
                break
            surfaced = surfaced or self._became(moment, moment.path, None)[1]
            path = inputs[origin.input]
            number = track.last_finite(path, moment.number)
            if number < 0 and not self.bad.in_evaluation:
                updates = int(self.steps.state.updates)
                good = self.search.last_finite(path, self.bad.member, self.row, updates)
                if good is not None:
                    self.steps = _Steps(self.task, good, evaluation=False)
                    track = self.steps.track(self.row)
                    number = track.last_finite(path, len(track.actions) - 1)
            if number < 0:
                return self._in_first_state(path, surfaced)
            moment = track.moment(number, path)
        if end is None or moment is None:
            return self._in_learning()
        leaf = moment.path
        if moment is end:
            leaf = _first_bad(end.after, ORDER, end.before) or leaf
        entry, text, step = self._became(moment, leaf, origin)
        if surfaced:
            text = f"{surfaced} That came from what happened before: {text}"
        else:
            if leaf != moment.path:
                text += f" So did {moment.path.removeprefix('.')}."
            if others:
                text += f" It happened in {others} more of the environments at the same time."
        text += _sentence(origin)
        text += self._write(moment.before, moment.action, moment.after, [*frames, end.after])
        steps = self._steps_at(moment.number)
        return Finding(text, *entry, steps, self.seed, self.row, step, origin)

    def _in_policy(self, hit: _Hit, track: _Track) -> Finding:
        origin = find(self.steps.act, (self.steps.state, hit.before.obs, hit.key), 0)
        before, action = track.states[-2], track.actions[-1]
        name, value = entry = _entry(action, "action")
        step = self._step(before)
        when = self._when(step, hit.number)
        text = f"The policy gave {name} = {value} for a finite observation {when}."
        text += _sentence(origin) + self._write(before, action, None, track.states[:-1])
        steps = self._steps_at(hit.number)
        return Finding(text, *entry, steps, self.seed, self.row, step, origin)

    def _in_first_state(self, path: str, surfaced: str = "") -> Finding:
        """A number that is bad already in the state that training or an evaluation starts from."""

        def reset(seed: Any) -> State:
            return self.steps.take(self.steps.reset(seed), self.row)

        args, origin, step = (self.bad.state.seed,), None, None
        is_saved = self.search.started > 0 and not self.bad.in_evaluation
        first = self.steps.take(self.steps.first(), self.row) if is_saved else jax.jit(reset)(*args)
        leaf = path if surfaced else _first_bad(first, ORDER)
        name, value = entry = _entry(_leaves(first)[leaf], leaf)
        of = f"of environment {self.row} (seed {self.seed})"
        if is_saved:
            text = (
                f"{name} {of} was {value} already when the run was saved last, and what was before "
                "that is not known. Train again with --num-evals 2 and a large --checkpoint-every, "
                "which save less often, and replay that run."
            )
        else:
            origin, step = find(reset, args, list(_leaves(first)).index(path)), 0
            text = f"reset gave {name} = {value} in the first state {of}, before any step."
            text += _sentence(origin)
        text = f"{surfaced} {text}".strip() + self._write(None, None, first, [first])
        steps = self.search.started * self.config.steps_per_update
        if self.bad.in_evaluation:
            steps = self._steps_at(-1)
        return Finding(text, *entry, steps, self.seed, self.row, step, origin)

    def _in_learning(self, but: str = "") -> Finding:
        state, update = self.bad.state, self.steps.ppo.update
        number = int(state.updates) + (not self.bad.in_evaluation)
        steps = number * self.config.steps_per_update
        what = "the evaluation after update" if self.bad.in_evaluation else "update"
        when = f"in {what} {number} (seed {self.seed}), {steps:,} environment steps into the run"
        leaves = _leaves(self.bad.after)
        starts = ("[1].metrics['total_loss']", "[1].metrics", "[0].params", "[0].normalizer")
        in_order = (p for start in starts for p in leaves if p.startswith(start))
        path = next((path for path in in_order if not is_finite(leaves[path])), None)
        if path is None:
            text = (
                f"Something was not finite {when}, but all is finite where that is done one step "
                "at a time, because a compiled program rounds in another order."
            )
            return Finding(text, "", "nan", steps, self.seed, None, None, None)
        name, value = _entry(leaves[path][None], path.removeprefix("[0]."))
        if path.startswith("[1]"):
            name = "training/" + path.split("'")[1]
        origin = find(update, (state,), list(leaves).index(path))
        text = f"{name} became {value} {when}{but}."
        if origin is not None and origin.is_in("minibatch_step"):
            number, minibatch = (i + 1 for i in origin.iterations[:2])
            text += f" It began in minibatch {minibatch} of pass {number}."
        if origin is not None and origin.input is not None:
            text += f" {list(_leaves((state,)))[origin.input][4:]} was not finite before."
        policy = (state.params, state.normalizer_params)
        text += _sentence(origin) + self._write(policy, None, None, [])
        return Finding(text, name, value, steps, self.seed, None, None, origin)

    def _became(
        self, moment: _Moment, leaf: str, origin: Origin | None
    ) -> tuple[tuple[str, str], str, int | None]:
        """Name and value of what became bad, a sentence about it, and the step."""
        step = 0 if moment.in_reset else self._step(moment.before, origin)
        name, value = entry = _entry(_leaves(moment.after)[leaf], leaf)
        return entry, f"{name} became {value} {self._when(step, moment.number)}.", step

    def _step(self, before: State, origin: Origin | None = None) -> int | None:
        """The step of the episode after `before`; of a repeated action the one of `origin`."""
        if "steps" not in before.info:
            return None
        step = int(before.info["steps"][0] * (before.done[0] == 0)) + 1
        if origin is not None and self.config.action_repeat > 1 and origin.is_in("_repeat"):
            step += origin.iterations[0]
        return step

    def _steps_at(self, number: int) -> int:
        before = int(self.steps.state.updates) * self.config.steps_per_update
        if self.bad.in_evaluation:
            return before
        return before + (number + 1) * self.config.num_envs * self.config.action_repeat

    def _when(self, step: int | None, number: int) -> str:
        when = {None: "in", 0: "in the first state of an episode of"}
        run = f"{self._steps_at(number):,} environment steps into the run"
        if self.bad.in_evaluation:
            run = f"in the evaluation {run}"
        at = when.get(step, f"at step {step} of an episode of")
        return f"{at} environment {self.row} (seed {self.seed}), {run}"

    def _write(self, before: Any, action: Any, after: Any, frames: list[State]) -> str:
        """Writes what there is as .npz and draws `frames`; says where, as the end of a text."""
        folder = self.run / "replay"
        written = []
        problem = ""
        try:
            files.folder(self.run, "replay")
            for name, tree in {"before": before, "after": after}.items():
                arrays = _named(tree)
                if name == "before" and action is not None:
                    arrays["action"] = np.asarray(action[0])
                if arrays:
                    buffer = io.BytesIO()
                    np.savez(buffer, **arrays)
                    files.write(folder / f"{name}.npz", buffer.getvalue())
                    written.append(f"{name}.npz")
            if frames:
                environment = self.search.programs.environment
                images = [render.draw(environment, x) for x in frames[-self.max_frames :]]
                gif.save_gif(folder / "replay.gif", images)
                written.append("replay.gif with the states up to it")
        except OSError as error:
            problem = f"; the rest can't be written ({files.reason(error)})"
        except UsageError as error:
            problem = f"; no GIF: {error}"
        return f"\n{files.printable(folder)} holds {', '.join(written) or 'nothing'}{problem}."


def _leaves(tree: Any) -> dict[str, Any]:
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in found}


def _named(tree: Any) -> dict[str, Any]:
    """Leaves of one environment by name, without their leading axis."""
    return {
        path.removeprefix("."): np.asarray(raw(x[0] if x.shape[:1] == (1,) else x))
        for path, x in _leaves(tree).items()
    }


def _row(x: Any, row: int, batch: int) -> Any:
    """`x[row : row + 1]`; `x` itself if the batch shares it."""
    return x[row : row + 1] if x.shape[:1] == (batch,) else x


def _first_bad(state: State, fields: tuple[str, ...], before: State | None = None) -> str:
    """The path of the first leaf that is not finite, and was before; empty if there is none."""
    leaves = _leaves(state)
    earlier = leaves if before is None else _leaves(before)
    for field in fields:
        for path, x in leaves.items():
            of_wrapper = any(path.startswith(f".info['{name}']") for name in WRAPPER_INFO)
            if not path.startswith(field) or of_wrapper or is_finite(x):
                continue
            if before is None or path not in earlier or is_finite(earlier[path]):
                return path
    return ""


def _entry(x: Any, path: str) -> tuple[str, str]:
    """Name and value of the first number that is not finite in (1, ...) `x`."""
    x = np.asarray(x)
    index = np.unravel_index(np.argmax(~np.isfinite(x)), x.shape)
    place = "".join(f"[{i}]" for i in index[1:])
    return path.removeprefix(".") + place, str(x[index])


def _sentence(origin: Origin | None) -> str:
    if origin is None:
        return (
            "\nThe line could not be found: evaluated one operation at a time, which rounds in "
            "another order, all is finite."
        )
    return f"\n{origin} ({origin.operation})" * bool(str(origin))
