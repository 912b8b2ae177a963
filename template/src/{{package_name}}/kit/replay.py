"""Finds where a NaN or an infinity in a training run came from.

From the template: changes of yours are kept, `copier update` merges new versions in.

Training goes on exactly as it did from what a run saved last, so a run needs to record nothing:
the updates are done again up to the first bad one, which is then taken apart step by step.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper
from brax.envs.wrappers.training import DomainRandomizationVmapWrapper
from brax.training.agents.ppo.networks import make_inference_fn

from . import files, rollout, runs
from .errors import UsageError
from .origin import Origin, find, is_finite
from .ppo import PPO, PPOConfig, TrainingState, policy_params
from .programs import Programs
from .pytrees import raw
from .task import Task, choose
from .train import RETURN, evaluations
from .wrappers import WRAPPER_INFO, AutoResetWrapper, has_not_finite

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
    num_devices: int | None = None,
    say: Callable[[str], None] = print,
) -> Finding | None:
    """Finds the origin, tells it and writes the states around it to `RUN/replay/`.

    Args:
      run: the folder that `train` left; nothing else in it changes.
      tasks: what was trained, or the tasks of `config.py`, of which the run names one.
      max_frames: how many of the last states to draw, if the environment has a `render`.
      num_devices: as in the training; rounding depends on it.
      say: called with each sentence.

    Returns:
      None if all numbers stay finite up to the evaluation after what was saved last.

    Raises:
      UsageError: the run can't be used.
    """
    saved = runs.read_config(run)
    task = tasks if isinstance(tasks, Task) else choose(tasks, saved["task"])[1]
    task = replace(task, settings=PPOConfig(**saved["settings"]))
    runs.refuse_other_sizes(run, task.environment())
    files.refuse_link(run / "replay")
    changes = runs.changes_since(run, task.environment(), task.make_ppo(), saved["num_devices"])
    for change in changes:
        say(change)
    search = _Search(run, task, num_devices, say)
    bad = search.first_bad()
    if bad is None:
        why = (
            "which may be because of what has changed"
            if changes
            else "so it was stopped by something else, or on another device"
        )
        say(f"Everything stays finite up to step {search.steps:,}, {why}.")
        return None
    finding = _Look(search, bad, max_frames).find()
    say(finding.text)
    return finding


# ---- the first bad update -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Bad:
    """A state of one seed, and what goes wrong from it: an update or an evaluation."""

    state: TrainingState
    member: int
    in_evaluation: bool


class _Search:
    """Does the updates of a run again, exactly."""

    def __init__(
        self, run: Path, task: Task, num_devices: int | None, say: Callable[[str], None]
    ) -> None:
        self.run, self.task, self.config, self._say = run, task, task.settings, say
        self.programs = Programs(task, num_devices)
        saved = runs.load_resume(run, self.programs.shapes)
        self.programs.compile()
        self._bad_members = jax.jit(self._look_at_members)
        self._marks = evaluations(self.config)
        self._evaluated = {row["steps"] for row in runs.read_metrics(run)}
        at = 0 if saved is None else int(np.max(saved.updates))
        # A run that goes on longer has been evaluated, and what came from it saved.
        self._last = min((mark for mark in self._marks if mark > at), default=at)
        self._is_from_seed = saved is None
        self._start = self.programs.init() if saved is None else self.programs.place(saved)
        if saved is not None and self._bad_members(self._start).any():
            self._start_over()
        self._done = int(np.max(self._start.updates))

    def _start_over(self) -> None:
        self._say("What was saved is bad already, so the run is done again from its seed.")
        self._is_from_seed, self._start = True, self.programs.init()

    @property
    def steps(self) -> int:
        return self._done * self.config.steps_per_update

    def first_bad(self) -> _Bad | None:
        state = self._copy(self._start)
        if (bad := self._bad_members(state)).any():
            return self._bad(state, bad)
        while True:
            if self._done in self._marks and self.steps not in self._evaluated:
                returns = np.atleast_1d(self.programs.evaluate(state)[RETURN])
                if not np.isfinite(returns).all():
                    return self._bad(state, ~np.isfinite(returns), in_evaluation=True)
            if self._done >= self._last:
                return None
            before = self._copy(state)
            state, totals = self.programs.epoch(state, 1)
            broken = np.atleast_1d(totals.not_finite > 0) | self._bad_members(state)
            for x in totals.metrics.values():
                broken |= ~np.isfinite(np.atleast_1d(x))
            if broken.any():
                return self._bad(before, broken)
            self._done += 1

    def last_good(self, path: str, member: int, row: int, updates: int) -> TrainingState | None:
        """The last state before so many updates in which a leaf of an environment was finite."""
        found = None
        state = self._copy(self._start)
        while int(np.max(state.updates)) < updates:
            one = self._member(state, member)
            if is_finite(_row(_leaves(one.env_state)[path], row, self.config.num_envs)):
                found = one
            state, _ = self.programs.epoch(state, 1)
        if found is None and not self._is_from_seed:
            self._start_over()
            return self.last_good(path, member, row, updates)
        return found

    def _bad(self, state: TrainingState, members: Any, in_evaluation: bool = False) -> _Bad:
        member = int(np.argmax(members))
        return _Bad(self._member(state, member), member, in_evaluation)

    def _member(self, state: TrainingState, member: int) -> TrainingState:
        state = self._copy(state)
        if self.config.num_seeds > 1:
            state = jax.tree.map(lambda x: x[member], state)
        return jax.device_put(state, jax.devices()[0])

    def _look_at_members(self, state: TrainingState) -> jax.Array:
        """Whether a number is not finite that training goes on from, (num_seeds,) bool."""
        env = state.env_state
        tree = (state.params, state.normalizer_params, env.obs, env.reward, env.done)
        if self.config.num_seeds == 1:
            tree = jax.tree.map(lambda x: x[None], tree)
        return has_not_finite(tree)

    def _copy(self, state: TrainingState) -> TrainingState:
        """`epoch` consumes its state."""
        return self.programs.place(jax.tree.map(jnp.copy, state))


# ---- step by step -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Hit:
    """The first bad step of a batch.

    Attributes:
      number: that of the action, from 0; -1 if the first state is bad already.
      rows: which environments, (batch,) bool.
      before: the batch that the policy acted for.
      key: what the policy acted with.
      is_action: the policy gave an action that is bad, for an observation that is not.
    """

    number: int
    rows: np.ndarray
    before: State
    key: Any = None
    is_action: bool = False

    @property
    def row(self) -> int:
        return int(np.argmax(self.rows))


class _Steps:
    """The environment steps of one update, or of one evaluation, one at a time.

    Keys are split as `PPO.update` (with Brax's `generate_unroll`) and `run_episodes` do it.
    """

    def __init__(self, ppo: PPO, config: PPOConfig, state: TrainingState, evaluation: bool) -> None:
        self.config, self.state, self.evaluation = config, state, evaluation
        self._make_env = ppo.evaluation_env if evaluation else ppo.training_env
        self.batch = config.num_eval_envs if evaluation else config.num_envs
        key_reset, key_steps = jax.random.split(jax.random.fold_in(state.eval_key, state.updates))
        self.reset_keys = jax.random.split(key_reset, self.batch)
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
            bad_action = has_not_finite((action, before.reward))
            if evaluation:
                bad, bad_action = (x & (before.done == 0) for x in (bad, bad_action))
            return action, after, bad, bad_action

        self.act, self._step = act, jax.jit(step)

    def first(self) -> State:
        if self.evaluation:
            return jax.jit(self._make_env(self.state.seed).reset)(self.reset_keys)
        return self.state.env_state

    def keys(self) -> Iterator[jax.Array]:
        config, key = self.config, self._key
        if self.evaluation:
            for count in range(config.episode_length // config.action_repeat):
                yield jax.random.split(jax.random.fold_in(key, count), self.batch)
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
        for number, key in enumerate(self.keys()):
            _, after, bad, bad_action = self._step(self.state, before, key)
            if bad_action.any():
                return _Hit(number, np.asarray(bad_action), before, key, is_action=True)
            if bad.any():
                return _Hit(number, np.asarray(bad), before, key)
            before = after
        return None

    def track(self, row: int, count: int | None = None) -> "_Track":
        """What one environment goes through in `count` actions, or in all of them."""
        states, actions = [], []
        state = self.first()
        for number, key in enumerate(self.keys()):
            if number == count:
                break
            action, after, _, _ = self._step(self.state, state, key)
            states.append(self.take(state, row))
            actions.append(self.take(action, row))
            state = after
        return _Track(self, row, [*states, self.take(state, row)], actions)

    def take(self, tree: Any, row: int) -> Any:
        """One environment of a batch, with a leading axis of 1."""
        return jax.tree.map(lambda x: _row(x, row, self.batch), tree)

    def alone(self, row: int, one_at_a_time: bool) -> Env:
        """A batch of this environment alone; without auto-reset and repetition, or with both."""
        made = env = self._make_env(self.state.seed)
        while isinstance(env, Wrapper):
            if isinstance(env, DomainRandomizationVmapWrapper):
                env._sys_v = jax.tree.map(
                    lambda axis, part: jax.tree.map(
                        lambda x: x if axis is None else jnp.take(x, jnp.array([row]), axis), part
                    ),
                    env._in_axes,
                    env._sys_v,
                    is_leaf=lambda x: x is None,
                )
            if one_at_a_time and isinstance(env, AutoResetWrapper):
                env._restart = lambda state: state  # type: ignore[method-assign]
            if one_at_a_time and "action_repeat" in vars(env):
                env.action_repeat = 1
            env = env.env
        return made


@dataclass(frozen=True)
class _Moment:
    """When a leaf became bad: `function(before, action)` is `after`, which has it.

    Attributes:
      number: that of the action, from 0.
      in_reset: the auto-reset after the step gave it.
    """

    number: int
    function: Callable[..., State]
    before: State
    action: Any
    after: State
    in_reset: bool = False

    @property
    def step(self) -> int | None:
        """Of the episode, from 1; 0 for a reset."""
        steps = self.after.info.get("steps")
        return 0 if self.in_reset else None if steps is None else int(steps[0])


class _Track:
    """What one environment goes through: states, each with a leading axis of 1, and actions."""

    def __init__(self, steps: _Steps, row: int, states: list[State], actions: list[Any]) -> None:
        self.states, self.actions = states, actions
        self._repeat = steps.config.action_repeat
        self._functions = [steps.alone(row, one_at_a_time=x).step for x in (True, False)]
        self._jitted = [jax.jit(function) for function in self._functions]

    def end(self) -> tuple[_Moment, str] | None:
        """The moment of the last action at which the run had to stop, and the bad leaf."""
        for moment in self._moments(len(self.actions) - 1):
            if path := _first_bad(moment.after, SURFACES):
                return moment, path
        return None

    def turn(self, path: str, number: int) -> _Moment | None:
        """When a leaf became bad, at action `number` or before; None if it was from the start."""
        for n in range(number, -1, -1):
            if not is_finite(_leaves(self.states[n])[path]):
                continue
            for moment in self._moments(n):
                before, after = _leaves(moment.before)[path], _leaves(moment.after)[path]
                if is_finite(before) and not is_finite(after):
                    return moment
        return None

    def _moments(self, number: int) -> Iterator[_Moment]:
        """The steps that an action was applied for, and then the auto-reset after them."""
        start, action = self.states[number], self.actions[number]
        single, whole = self._functions
        state = start
        for _ in range(self._repeat):
            after = self._jitted[0](state, action)
            yield _Moment(number, single, state, action, after)
            if after.done[0] > 0:
                break
            state = after
        after = self._jitted[1](start, action)
        yield _Moment(number, whole, start, action, after, in_reset=True)


# ---- the origin ---------------------------------------------------------------------------------


class _Look:
    """Takes a bad update or evaluation apart."""

    def __init__(self, search: _Search, bad: _Bad, max_frames: int) -> None:
        self.search, self.bad, self.max_frames = search, bad, max_frames
        self.config, self.run = search.config, search.run
        self.ppo = search.task.make_ppo()
        self.state = bad.state
        self.seed = self.config.seed + bad.member

    def find(self) -> Finding:
        steps = _Steps(self.ppo, self.config, self.state, self.bad.in_evaluation)
        hit = steps.first_bad()
        if hit is None:
            return self._in_learning()
        if hit.number < 0:
            path = _first_bad(steps.take(hit.before, hit.row), SURFACES)
            return self._in_first_reset(steps, path, hit.row)
        track = steps.track(hit.row, hit.number + 1)
        if hit.is_action:
            return self._in_policy(steps, hit, track)
        return self._in_environment(steps, hit, track)

    def _in_environment(self, steps: _Steps, hit: _Hit, track: _Track) -> Finding:
        """Goes back from what ended the run to what made it bad, which may be long before."""
        end = track.end()
        if end is None:
            return self._in_learning("")
        moment, path = end
        frames = [*track.states[:-1], moment.after]
        leaf = _first_bad(moment.after, ORDER, moment.before) or path
        surfaced = self._tell(moment, path, hit.row)
        others = int(hit.rows.sum()) - 1
        for _ in range(100):
            args = (moment.before, moment.action)
            origin = find(moment.function, args, list(_leaves(moment.after)).index(path))
            inputs = list(_leaves(moment.before))
            if origin is None or origin.input is None or origin.input >= len(inputs):
                break
            leaf = path = inputs[origin.input]
            earlier = track.turn(path, moment.number)
            if earlier is None and not self.bad.in_evaluation:
                updates = int(self.state.updates)
                good = self.search.last_good(path, self.bad.member, hit.row, updates)
                if good is not None:
                    self.state = good
                    steps = _Steps(self.ppo, self.config, good, evaluation=False)
                    track = steps.track(hit.row)
                    earlier = track.turn(path, len(track.actions) - 1)
            if earlier is None:
                return self._in_first_reset(steps, path, hit.row, surfaced)
            moment = earlier
        text = self._tell(moment, leaf, hit.row)
        if moment is not end[0]:
            text = f"{surfaced} That came from what happened before: {text}"
        else:
            if leaf != path:
                text += f" So did {path.removeprefix('.')}."
            if others:
                text += f" It happened in {others} more of the environments at the same time."
        name, value = _entry(_leaves(moment.after)[leaf], leaf)
        before = {**_named(moment.before), "action": moment.action[0]}
        written = self._write({"before": before, "after": _named(moment.after)}, frames)
        text += _sentence(origin) + written
        at = self._steps_at(moment.number)
        return Finding(text, name, value, at, self.seed, hit.row, moment.step, origin)

    def _in_policy(self, steps: _Steps, hit: _Hit, track: _Track) -> Finding:
        args = (self.state, hit.before.obs, hit.key)
        origin = find(steps.act, args, 0)
        before, action = track.states[-2], track.actions[-1]
        name, value = _entry(action, "action")
        step = None
        if "steps" in before.info:
            step = int(before.info["steps"][0] * (before.done[0] == 0)) + 1
        text = (
            f"The policy gave {name} = {value} for a finite observation "
            f"{self._when(step, hit.row, hit.number)}."
        )
        if origin is not None and origin.input is not None:
            path = list(_leaves(args))[origin.input].removeprefix("[0].")
            text += f" {path} is not finite."
        arrays = {"before": {**_named(before), "action": action[0]}}
        text += _sentence(origin) + self._write(arrays, track.states[:-1])
        at = self._steps_at(hit.number)
        return Finding(text, name, value, at, self.seed, hit.row, step, origin)

    def _in_learning(self, but: str = ", while the environments stayed finite") -> Finding:
        update = int(self.state.updates) + (not self.bad.in_evaluation)
        steps = update * self.config.steps_per_update
        what = "the evaluation after" if self.bad.in_evaluation else "update"
        when = f"in {what} {update} (seed {self.seed}), {steps:,} environment steps into the run"
        leaves: dict[str, Any] = {}
        if not self.bad.in_evaluation:
            leaves = _leaves(jax.jit(self.ppo.update)(self.state))
        starts = ("[1].metrics['total_loss']", "[1].metrics", "[0].params", "[0].normalizer")
        bad = [p for start in starts for p in leaves if p.startswith(start)]
        bad = [path for path in bad if not is_finite(leaves[path])]
        if not bad:
            text = (
                f"Something was not finite {when}, but all is finite where that is done one step "
                "at a time, because a compiled program rounds in another order."
            )
            return Finding(text, "", "nan", steps, self.seed, None, None, None)
        path = bad[0]
        name, value = _entry(leaves[path][None], path.removeprefix("[0]."))
        if path.startswith("[1]"):
            name = "training/" + path.split("'")[1]
        origin = find(self.ppo.update, (self.state,), list(leaves).index(path))
        text = f"{name} became {value} {when}{but}."
        if origin is not None and any("minibatch_step" in name for name in origin.stack):
            number, minibatch = (i + 1 for i in origin.iterations[:2])
            text += f" It began in minibatch {minibatch} of pass {number}."
        if origin is not None and origin.input is not None:
            text += f" {list(_leaves((self.state,)))[origin.input][4:]} was not finite before."
        policy = (self.state.params, self.state.normalizer_params)
        text += _sentence(origin) + self._write({"before": _named(policy)}, [])
        return Finding(text, name, value, steps, self.seed, None, None, origin)

    def _in_first_reset(self, steps: _Steps, path: str, row: int, surfaced: str = "") -> Finding:
        """A number that the first state of a batch has already."""
        function: Callable[..., State]
        if steps.evaluation:
            function = steps.alone(row, one_at_a_time=False).reset
            args: tuple[Any, ...] = (steps.reset_keys[row : row + 1],)
            first = jax.jit(function)(*args)
        else:
            function, args = lambda seed: self.ppo.init(seed).env_state, (self.state.seed,)
            first = jax.jit(function)(*args)
            first = steps.take(first, row)
        leaf = _first_bad(first, ORDER) if not surfaced else path
        origin = find(function, args, list(_leaves(first)).index(path))
        name, value = _entry(_leaves(first)[leaf], leaf)
        text = f"{surfaced} reset gave {name} = {value} in the first state of environment {row} "
        text += f"(seed {self.seed}), before any step."
        text = text.strip() + _sentence(origin) + self._write({"after": _named(first)}, [first])
        return Finding(text, name, value, 0, self.seed, row, 0, origin)

    def _steps_at(self, number: int) -> int:
        before = int(self.state.updates) * self.config.steps_per_update
        if self.bad.in_evaluation:
            return before
        return before + (number + 1) * self.config.num_envs * self.config.action_repeat

    def _tell(self, moment: _Moment, path: str, row: int) -> str:
        name, value = _entry(_leaves(moment.after)[path], path)
        return f"{name} became {value} {self._when(moment.step, row, moment.number)}."

    def _when(self, step: int | None, row: int, number: int) -> str:
        when = {None: "in", 0: "in the first state of an episode of"}
        run = f"{self._steps_at(number):,} environment steps into the run"
        if self.bad.in_evaluation:
            run = f"in the evaluation {run}"
        at = when.get(step, f"at step {step} of an episode of")
        return f"{at} environment {row} (seed {self.seed}), {run}"

    def _write(self, states: Mapping[str, Mapping[str, Any]], frames: list[State]) -> str:
        """Writes states as .npz and draws `frames`; says where, as the end of a text."""
        folder = self.run / "replay"
        folder.mkdir(exist_ok=True)
        for name, arrays in states.items():
            buffer = io.BytesIO()
            named: dict[str, Any] = {k: np.asarray(raw(x)) for k, x in arrays.items()}
            np.savez(buffer, **named)
            files.write(folder / f"{name}.npz", buffer.getvalue())
        names = " and ".join(f"{name}.npz" for name in states)
        text = f"\n{files.printable(folder)} holds {names}"
        environment = self.search.task.environment()
        if frames and hasattr(environment, "render"):
            try:
                images = [rollout.draw(environment, x) for x in frames[-self.max_frames :]]
            except UsageError as error:
                return f"{text}; no GIF: {error}."
            buffer = io.BytesIO()
            images[0].save(
                buffer, "GIF", save_all=True, append_images=images[1:], duration=50, loop=0
            )
            files.write(folder / "replay.gif", buffer.getvalue())
            text += ", and replay.gif with the states up to it"
        return f"{text}."


def _leaves(tree: Any) -> dict[str, Any]:
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in found}


def _named(tree: Any) -> dict[str, Any]:
    """Leaves of one environment by name, without their leading axis."""
    return {
        path.removeprefix("."): x[0] if x.shape[:1] == (1,) else x
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
