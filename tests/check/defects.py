"""Environments with one defect each, planted in the correct ones of `bases.py`."""

# Classes whose base is chosen as they are made, and mistakes that a type checker would see as well:
# mypy: disable-error-code="valid-type, misc, name-defined, arg-type, var-annotated"

import random
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from bases import Base, Maze, Noisy, Picture, Point, Pole, Sensed
from brax.envs.base import State


@dataclass(frozen=True)
class Defect:
    """A defect and what the checker has to say about it.

    Attributes:
      rule: the one rule that it breaks.
      title: the defect in a few words.
      names: what the message has to name: a field, a key, a value.
      bases: where it is planted.
      plant: a base -> the class with the defect in it.
    """

    rule: str
    title: str
    names: str
    bases: tuple[type[Base], ...]
    plant: Callable[[type[Base]], type[Base]]


DEFECTS: list[Defect] = []


def defect(rule: str, title: str, names: str, *bases: type[Base]) -> Callable[[Any], Any]:
    """Adds the function below, which makes a class with a defect out of a base."""

    def add(plant: Any) -> Any:
        DEFECTS.append(Defect(rule, title, names, bases, plant))
        return plant

    return add


Edit = Callable[..., State]


def edited(
    base: type[Base], *, reset: Edit | None = None, step: Edit | None = None, **members: Any
) -> type[Base]:
    """`base` with other outcomes.

    Args:
      reset: (self, state, rng) -> what `reset` gives instead of `state`.
      step: (self, state, given, action) -> what `step` gives instead of `state`.
      members: attributes and methods.
    """

    class Edited(base):
        def reset(self, rng: jax.Array) -> State:
            state = super().reset(rng)
            return reset(self, state, rng) if reset else state

        def step(self, given: State, action: jax.Array) -> State:
            state = super().step(given, action)
            return step(self, state, given, action) if step else state

    for name, member in members.items():
        setattr(Edited, name, member)
    return Edited


def timed(base: type[Base]) -> type[Base]:
    """`base` with a clock in its state: `pipeline_state["t"]`, () int32."""

    class Timed(base):
        def reset(self, rng: jax.Array) -> State:
            state = super().reset(rng)
            return state.replace(
                pipeline_state={"was": state.pipeline_state, "t": jnp.zeros((), jnp.int32)}
            )

        def step(self, given: State, action: jax.Array) -> State:
            was, t = given.pipeline_state["was"], given.pipeline_state["t"]
            state = super().step(given.replace(pipeline_state=was), action)
            return state.replace(pipeline_state={"was": state.pipeline_state, "t": t + 1})

    return Timed


def on_obs(state: State, change: Callable[[jax.Array], jax.Array]) -> State:
    """`state` with another observation: the whole of it, or its "state" entry."""
    if isinstance(state.obs, dict):
        return state.replace(obs={**state.obs, "state": change(state.obs["state"])})
    return state.replace(obs=change(state.obs))


def first_metric(state: State) -> str:
    return next(iter(state.metrics))


# RUNNING


@defect("reset-runs", "an undefined name", "defects.py:", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    return edited(base, reset=lambda self, s, rng: s.replace(obs=s.obs + undefined))  # noqa: F821


@defect("reset-runs", "NumPy on a traced value", "TracerArrayConversionError", Picture, Pole)
def _(base: type[Base]) -> type[Base]:
    return edited(base, reset=lambda self, s, rng: on_obs(s, np.sin))


@defect("step-runs", "Python's if on a traced value", "TracerBoolConversionError", Pole, Point)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(reward=-s.reward) if s.reward > 1 else s

    return edited(base, step=step)


@defect("step-runs", "an entry of info that reset does not make", "KeyError", Noisy, Maze)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(reward=g.info["target"]))


@defect("returns-state", "step gives a tuple", "tuple", Point, Picture)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: (s.obs, s.reward, s.done, {}))


@defect("returns-state", "a string in info", "info['level']", Maze, Sensed)
def _(base: type[Base]) -> type[Base]:
    return edited(base, reset=lambda self, s, rng: s.replace(info={**s.info, "level": "easy"}))


@defect("runs-compiled", "a callback that raises", "OSError: no such file", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        def fail(x: Any) -> Any:
            raise OSError("no such file")

        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return s.replace(reward=jax.pure_callback(fail, shape, s.reward, vmap_method="sequential"))

    return edited(base, step=step)


@defect("runs-compiled", "a callback that gives another shape", "Error", Pole, Picture)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        bad = jax.pure_callback(lambda x: np.zeros(3), shape, s.reward, vmap_method="sequential")
        return s.replace(reward=bad)

    return edited(base, step=step)


# DECLARED


@defect("observation-size", "one too many", "4", Point, Noisy)
def _(base: type[Base]) -> type[Base]:
    return edited(base, observation_size=4)


@defect("observation-size", "a float", "float", Pole, Maze)
def _(base: type[Base]) -> type[Base]:
    return edited(base, observation_size=float(base.observation_size))


@defect("observation-size", "one wrong size in a dict", "privileged_state", Sensed)
def _(base: type[Base]) -> type[Base]:
    sizes = {"state": 2, "privileged_state": 3, "pixels/view": (4, 4, 1)}
    return edited(base, observation_size=sizes)


@defect("observation-size", "it raises", "AttributeError", Point, Sensed)
def _(base: type[Base]) -> type[Base]:
    return edited(base, observation_size=property(lambda self: self.size))


@defect("observation-size", "an image that is not flat", "(5, 5)", Picture)
def _(base: type[Base]) -> type[Base]:
    def image(self: Any, s: State, *_: Any) -> State:
        return s.replace(obs=s.obs[:25].reshape(5, 5))

    return edited(base, reset=image, step=image)


@defect("action-size", "a tuple", "tuple", Point, Picture)
def _(base: type[Base]) -> type[Base]:
    return edited(base, action_size=(base.action_size,))


@defect("action-size", "more than step takes", "7", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    size = base.action_size

    class Strict(base):
        action_size = 7

        def step(self, given: State, action: jax.Array) -> State:
            return super().step(given, jnp.eye(size) @ action)

    return Strict


@defect("backend", "none", "None", Noisy, Maze)
def _(base: type[Base]) -> type[Base]:
    return edited(base, backend=None)


@defect("backend", "it raises", "NotImplementedError", Sensed, Point)
def _(base: type[Base]) -> type[Base]:
    def backend(self: Any) -> str:
        raise NotImplementedError

    return edited(base, backend=property(backend))


# REWARD, DONE, OBSERVATION, METRICS


@defect("reward-scalar", "shape (1,) in both", "reward is (1,) float32", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    def batch(self: Any, s: State, *_: Any) -> State:
        return s.replace(reward=s.reward[None])

    return edited(base, reset=batch, step=batch)


@defect("reward-scalar", "an int out of step alone", "reward is () int32", Maze, Picture)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(reward=s.reward.astype(jnp.int32)))


@defect("reward-scalar", "a Python number", "reward is a Python number", Pole, Noisy)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(reward=1.0))


@defect("done-scalar", "one for each coordinate", "done is (2,) float32", Point, Noisy)
def _(base: type[Base]) -> type[Base]:
    return edited(
        base, step=lambda self, s, g, a: s.replace(done=jnp.where(jnp.abs(s.obs[:2]) > 9, 1.0, 0.0))
    )


@defect("done-scalar", "a bool", "done is () bool", Pole, Maze)
def _(base: type[Base]) -> type[Base]:
    def boolean(self: Any, s: State, *_: Any) -> State:
        return s.replace(done=s.done.astype(bool))

    return edited(base, reset=boolean, step=boolean)


@defect("done-scalar", "an int out of step alone", "done is () int32", Picture, Sensed)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(done=s.done.astype(jnp.int32)))


@defect("reset-at-zero", "done is 1", "done is 1", Point, Sensed)
def _(base: type[Base]) -> type[Base]:
    return edited(base, reset=lambda self, s, rng: s.replace(done=jnp.ones(())))


@defect("reset-at-zero", "a reward for some starts", "reward is", Maze, Pole)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        return s.replace(reward=jnp.where(jax.random.bernoulli(rng), 0.5, 0.0).astype(jnp.float32))

    return edited(base, reset=reset)


@defect("done-binary", "a probability", "done is 0.", Point, Noisy)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(done=jax.nn.sigmoid(s.reward))

    return edited(base, step=step)


@defect("done-binary", "2 when two things end it at once, late", "done is 2", Point, Sensed)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(done=2.0 * (s.pipeline_state["t"] == 40).astype(jnp.float32))

    return edited(timed(base), step=step)


@defect("observation-type", "int32", "int32", Maze, Picture)
def _(base: type[Base]) -> type[Base]:
    def whole(self: Any, s: State, *_: Any) -> State:
        return on_obs(s, lambda x: x.astype(jnp.int32))

    return edited(base, reset=whole, step=whole)


@defect("observation-type", "one bool entry of a dict", "obs['privileged_state']", Sensed)
def _(base: type[Base]) -> type[Base]:
    def boolean(self: Any, s: State, *_: Any) -> State:
        return s.replace(obs={**s.obs, "privileged_state": s.obs["privileged_state"] > 0})

    return edited(base, reset=boolean, step=boolean)


@defect("observation-type", "an image not named pixels/", "obs['camera']", Sensed)
def _(base: type[Base]) -> type[Base]:
    def camera(self: Any, s: State, *_: Any) -> State:
        image = s.obs["pixels/view"].astype(jnp.float32)
        return s.replace(obs={"state": s.obs["state"], "camera": image})

    return edited(
        base, reset=camera, step=camera, observation_size={"state": 2, "camera": (4, 4, 1)}
    )


@defect("metric-scalar", "a vector", "metrics['position'] as (2,) float32", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    def position(self: Any, s: State, *_: Any) -> State:
        return s.replace(metrics={**s.metrics, "position": s.obs[:2]})

    return edited(base, reset=position, step=position)


@defect("metric-scalar", "a count, int32", "metrics['hits'] as () int32", Maze, Noisy)
def _(base: type[Base]) -> type[Base]:
    def hits(self: Any, s: State, *_: Any) -> State:
        return s.replace(metrics={**s.metrics, "hits": (s.reward > 0).astype(jnp.int32)})

    return edited(base, reset=hits, step=hits)


# THE STATE KEEPS ITS FORM


@defect("wrapper-keys", "info is replaced", "from info", Point, Picture)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(info={key: s.info[key] for key in ("wind", "seen") if key in s.info})

    return edited(base, step=step)


@defect("wrapper-keys", "a new State", "drops", Noisy, Maze)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        own = {key: value for key, value in s.metrics.items() if key != "reward"}
        info = {"bumped": s.info["bumped"]} if "bumped" in s.info else {}
        return State(s.pipeline_state, s.obs, s.reward, s.done, own, info)

    return edited(base, step=step)


@defect("wrapper-keys", "a loop over all of info", "info['", Pole, Point)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(info=jax.tree.map(lambda x: 0 * x, s.info))

    return edited(base, step=step)


@defect("wrapper-keys", "metrics must be its own alone", "raises", Sensed, Noisy)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        (name,) = s.metrics  # one, and no other
        return s.replace(metrics={name: s.metrics[name]})

    return edited(base, step=step)


@defect("reserved-keys", "a metric named reward", "metrics['reward']", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    def reward(self: Any, s: State, *_: Any) -> State:
        return s.replace(metrics={**s.metrics, "reward": s.reward})

    return edited(base, reset=reward, step=reward)


@defect("reserved-keys", "steps of its own in info", "info['steps']", Pole, Sensed)
def _(base: type[Base]) -> type[Base]:
    return edited(
        base,
        reset=lambda self, s, rng: s.replace(info={**s.info, "steps": jnp.zeros(())}),
        step=lambda self, s, g, a: s.replace(info={**s.info, "steps": g.info["steps"] + 1}),
    )


@defect("state-structure", "one more out of step", "metrics['late']", Point, Picture)
def _(base: type[Base]) -> type[Base]:
    return edited(
        base, step=lambda self, s, g, a: s.replace(metrics={**s.metrics, "late": s.reward})
    )


@defect("state-structure", "one popped by step", "metrics['", Noisy, Pole)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        own = ("speed", "upright")
        return s.replace(metrics={k: v for k, v in s.metrics.items() if k not in own})

    return edited(base, step=step)


@defect("state-structure", "one more out of step", "info['late']", Maze, Sensed)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(info={**s.info, "late": s.reward}))


@defect(
    "state-structure", "one made by reset alone, deep down", "info['extra']['b']", Point, Picture
)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        return s.replace(info={**s.info, "extra": {"a": s.reward, "b": s.reward}})

    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(info={**s.info, "extra": {"a": s.reward}})

    return edited(base, reset=reset, step=step)


@defect("state-structure", "no pipeline_state out of reset", "pipeline_state", Point)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(pipeline_state=s.obs))


@defect("state-structure", "an observation fewer out of step", "obs['privileged_state']", Sensed)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(obs={k: v for k, v in s.obs.items() if k != "privileged_state"})

    return edited(base, step=step)


@defect("state-structure", "a leaf more, deep down", "pipeline_state['was']", Maze, Noisy)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        was = s.pipeline_state["was"]
        more = was.replace(nested={**was.nested, "new": s.reward}) if base is Noisy else None
        more = {**was, "new": s.reward} if base is Maze else more
        return s.replace(pipeline_state={**s.pipeline_state, "was": more})

    return edited(timed(base), step=step)


@defect("state-structure", "a dict becomes another kind of dict", "FrozenDict", Maze, Pole)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(pipeline_state=flax.core.freeze(s.pipeline_state))

    return edited(base, step=step)


@defect("state-shapes", "obs grows", "obs is (", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(obs=jnp.append(s.obs, s.reward)))


@defect("state-shapes", "a leaf deep down becomes a scalar", "nested['trace'][0]", Noisy)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        trace, weight = s.pipeline_state.nested["trace"]
        nested = {"trace": (trace[:1], weight)}
        return s.replace(pipeline_state=s.pipeline_state.replace(nested=nested))

    return edited(base, step=step)


@defect("state-shapes", "info is wider out of step", "info['", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        own = {k: jnp.zeros(5) for k in ("wind", "bumped") if k in s.info}
        return s.replace(info={**s.info, **own})

    return edited(base, step=step)


@defect("state-shapes", "obs in half precision out of step", "obs is (", Point, Picture)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(obs=s.obs.astype(jnp.float16)))


@defect("state-shapes", "a counter that becomes a float", "count is () int32", Noisy)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        count = given.pipeline_state.count + 0.5
        return s.replace(pipeline_state=s.pipeline_state.replace(count=count))

    return edited(base, step=step)


@defect("state-shapes", "info is bool out of step", "info['", Pole, Maze)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        own = {k: s.info[k] > 0 for k in ("fell", "bumped") if k in s.info}
        return s.replace(info={**s.info, **own})

    return edited(base, step=step)


@flax.struct.dataclass
class Counted:
    was: Any
    count: int = flax.struct.field(pytree_node=False)


@defect(
    "state-structure", "a counter in a static field", "Counted with pytree metadata", Maze, Pole
)
def _(base: type[Base]) -> type[Base]:
    class Static(base):
        def reset(self, rng: jax.Array) -> State:
            state = super().reset(rng)
            return state.replace(pipeline_state=Counted(state.pipeline_state, 0))

        def step(self, given: State, action: jax.Array) -> State:
            counted = given.pipeline_state
            state = super().step(given.replace(pipeline_state=counted.was), action)
            return state.replace(pipeline_state=Counted(state.pipeline_state, counted.count + 1))

    return Static


@defect(
    "state-structure",
    "a static field that changes once",
    "Counted with pytree metadata",
    Noisy,
    Sensed,
)
def _(base: type[Base]) -> type[Base]:
    class Begun(base):
        def reset(self, rng: jax.Array) -> State:
            state = super().reset(rng)
            return state.replace(pipeline_state=Counted(state.pipeline_state, -1))

        def step(self, given: State, action: jax.Array) -> State:
            was = given.pipeline_state.was
            state = super().step(given.replace(pipeline_state=was), action)
            return state.replace(pipeline_state=Counted(state.pipeline_state, 1))

    return Begun


# PURE FUNCTIONS


@defect("no-self-write", "a counter on self", "self.count", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        self.count += 1
        return s.replace(reward=s.reward - 0.01 * self.count)

    return edited(base, step=step, count=0)


@defect("no-self-write", "the goal on self", "self.goal", Maze, Sensed)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        self.goal = jax.random.uniform(rng)
        return s

    return edited(
        base, reset=reset, step=lambda self, s, g, a: s.replace(reward=s.reward - self.goal)
    )


@defect("no-self-write", "a list deep down on self", "self.log['actions']", Picture, Noisy)
def _(base: type[Base]) -> type[Base]:
    class Logging(base):
        def __init__(self) -> None:
            super().__init__()
            self.log = {"actions": []}

        def step(self, given: State, action: jax.Array) -> State:
            self.log["actions"].append("step")
            return super().step(given, action)

    return Logging


@defect("no-self-write", "a traced value, kept when first made", "self.start", Pole, Maze)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        if not hasattr(self, "start"):
            self.start = 1.0 * s.obs
        return s

    return edited(base, reset=reset)


@defect("host-randomness", "NumPy in reset", "obs", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        return on_obs(s, lambda x: x + np.random.normal(size=x.shape))

    return edited(base, reset=reset)


@defect("host-randomness", "a fresh NumPy generator in step", "reward", Maze, Sensed)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(reward=s.reward + np.random.default_rng().normal())

    return edited(base, step=step)


@defect("host-randomness", "Python's random in one branch", "reward", Noisy, Picture)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        bonus = jax.lax.cond(s.reward > 100, lambda: random.random(), lambda: 0.0)
        return s.replace(reward=s.reward + bonus)

    return edited(base, step=step)


@defect("host-randomness", "a generator on self", "two traces of step", Pole, Point)
def _(base: type[Base]) -> type[Base]:
    class Generator(base):
        def __init__(self) -> None:
            super().__init__()
            self.generator = np.random.default_rng(0)

        def step(self, given: State, action: jax.Array) -> State:
            state = super().step(given, action)
            return state.replace(reward=state.reward + self.generator.normal())

    return Generator


@defect("host-randomness", "the clock", "reward", Sensed, Maze)
def _(base: type[Base]) -> type[Base]:
    return edited(
        base, step=lambda self, s, g, a: s.replace(reward=s.reward + time.perf_counter() % 1)
    )


KEPT: list[Any] = []


@defect("no-tracer-leak", "a global list", "KEPT", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        KEPT.append(s.reward)
        return s

    return edited(base, step=step)


@defect("no-tracer-leak", "a default argument", "reset leaves", Pole, Noisy)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array, seen: list[Any] = []) -> State:  # noqa: B006
        seen.append(jnp.sum(rng))
        return s

    return edited(base, reset=reset)


@defect("given-state-kept", "a counter in info, in place", "info['count']", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        given.info["count"] += 1.0
        return s.replace(info={**s.info, "count": given.info["count"]})

    return edited(
        base,
        reset=lambda self, s, rng: s.replace(info={**s.info, "count": jnp.zeros(())}),
        step=step,
    )


@defect("given-state-kept", "a list deep down, in place", "pipeline_state", Sensed, Pole)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        memory = given.pipeline_state["memory"]
        memory[0] = memory[0] + s.reward
        return s.replace(
            pipeline_state={**s.pipeline_state, "memory": list(memory)}, reward=memory[0]
        )

    return edited(
        base,
        reset=lambda self, s, rng: s.replace(
            pipeline_state={**s.pipeline_state, "memory": [jnp.zeros(())]}
        ),
        step=step,
    )


def hidden(x: jax.Array, counter: list[int]) -> jax.Array:
    """A callback that counts its own calls."""

    def count(x: Any) -> Any:
        counter[0] += 1
        return np.float32(x + 1e-3 * counter[0])

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(count, shape, x, vmap_method="sequential")


@defect("same-bits", "a callback with a memory in step", "reward", Point, Picture)
def _(base: type[Base]) -> type[Base]:
    counter = [0]
    return edited(base, step=lambda self, s, g, a: s.replace(reward=hidden(s.reward, counter)))


@defect("same-bits", "a callback that draws in reset", "reset", Maze, Pole)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        noise = jax.pure_callback(
            lambda x: np.float32(np.random.rand()), shape, s.reward, vmap_method="sequential"
        )
        return on_obs(s, lambda x: x + noise)

    return edited(base, reset=reset)


@defect("same-bits", "another path when not compiled", "reward", Noisy, Sensed)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s if isinstance(s.reward, jax.core.Tracer) else s.replace(reward=s.reward + 1)

    return edited(base, step=step)


def fixed_start(self: Any, s: State, rng: jax.Array) -> State:
    """The same start whatever the key: with randomness, but from a key of its own."""
    noise = jax.random.normal(jax.random.PRNGKey(0), (2,))
    lean = 0.01 * noise
    if isinstance(self, Pole):
        return s.replace(pipeline_state={"lean": lean}, obs=lean)
    return s.replace(obs=self._observe(lean))


@defect("key-used", "reset draws from a key of its own", "reset draws", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    return edited(base, reset=fixed_start)


@defect("key-used", "the key is overwritten", "reset draws", Maze, Pole)
def _(base: type[Base]) -> type[Base]:
    class Same(base):
        def reset(self, rng: jax.Array) -> State:
            return super().reset(jnp.zeros_like(rng))

    return Same


@defect("key-used", "a fixed start, and noise from the same key each step", "step draws", Point)
def _(base: type[Base]) -> type[Base]:
    class Fixed(base):
        def __init__(self) -> None:
            super().__init__()
            self.key = jax.random.PRNGKey(7)

        def reset(self, rng: jax.Array) -> State:
            state = super().reset(rng)
            return state.replace(obs=self._observe(jnp.zeros(2)))

        def step(self, given: State, action: jax.Array) -> State:
            noise = 0.1 * jax.random.normal(self.key, action.shape)
            return super().step(given, action + noise)

    return Fixed


# EPISODES


@defect("finite", "NaN for some starts", "obs", Pole, Noisy)
def _(base: type[Base]) -> type[Base]:
    return edited(base, reset=lambda self, s, rng: on_obs(s, lambda x: jnp.sqrt(x)))


@defect("finite", "a division by 0 late in the episode", "reward", Point, Sensed)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(reward=s.reward / (45 - s.pipeline_state["t"]))

    return edited(timed(base), step=step)


@defect("finite", "a division by 0 past the end of the episode", "past", Picture, Maze)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        left = 1.0 - given.done
        return s.replace(info={**s.info, "pace": s.reward / left})

    return edited(
        base, reset=lambda self, s, rng: s.replace(info={**s.info, "pace": s.reward}), step=step
    )


@defect("finite", "a leaf deep down grows without end under full push", "nested['trace']", Noisy)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        trace, weight = given.pipeline_state.nested["trace"]
        trace = jnp.where(action[0] == 1.0, 1e9 * (jnp.abs(trace) + 1), 0.5 * trace)
        nested = {"trace": (trace, weight)}
        return s.replace(pipeline_state=s.pipeline_state.replace(nested=nested))

    return edited(base, step=step)


@defect("finite", "NaN for the last choice alone", "metrics['near']", Maze)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        near = s.metrics["near"] * jnp.where(action == 3, jnp.log(-s.metrics["near"]), 1.0)
        return s.replace(metrics={**s.metrics, "near": near})

    return edited(base, step=step)


@defect(
    "metric-per-step", "the return so far, from the last metric", "metrics['total']", Point, Pole
)
def _(base: type[Base]) -> type[Base]:
    return edited(
        base,
        reset=lambda self, s, rng: s.replace(metrics={**s.metrics, "total": jnp.zeros(())}),
        step=lambda self, s, g, a: s.replace(
            metrics={**s.metrics, "total": g.metrics["total"] + s.reward}
        ),
    )


@defect("metric-per-step", "the return so far, kept in the state", "metrics['total']", Maze, Sensed)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        zero = jnp.zeros(())
        return s.replace(
            pipeline_state={**s.pipeline_state, "total": zero},
            metrics={**s.metrics, "total": zero},
        )

    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        total = given.pipeline_state["total"] + s.reward
        return s.replace(
            pipeline_state={**s.pipeline_state, "total": total},
            metrics={**s.metrics, "total": total},
        )

    return edited(base, reset=reset, step=step)


@defect("metric-per-step", "a count of one choice alone", "metrics['waits'] adds up", Maze)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        waits = jnp.zeros((), jnp.int32)
        state = {**s.pipeline_state, "waits": waits}
        return s.replace(pipeline_state=state, metrics={**s.metrics, "waits": jnp.zeros(())})

    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        was = given.pipeline_state["waits"]
        waits = jnp.where(action == 3, was + 1, was)
        metrics = {**s.metrics, "waits": waits.astype(jnp.float32)}
        return s.replace(pipeline_state={**s.pipeline_state, "waits": waits}, metrics=metrics)

    return edited(base, reset=reset, step=step)


@defect("metric-per-step", "the distance travelled so far", "pipeline_state['far']", Sensed, Pole)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        far = jnp.zeros(())
        last = jax.tree.leaves(s.pipeline_state)[0][:2]
        state = {**s.pipeline_state, "far": far, "last": last}
        return s.replace(pipeline_state=state, metrics={**s.metrics, "far": far})

    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        was, now = given.pipeline_state, jax.tree.leaves(s.pipeline_state)[0][:2]
        far = was["far"] + jnp.linalg.norm(now - was["last"])
        state = {**s.pipeline_state, "far": far, "last": now}
        return s.replace(pipeline_state=state, metrics={**s.metrics, "far": far})

    return edited(base, reset=reset, step=step)


@defect("metric-per-step", "the best so far, after a while", "metrics['best']", Noisy, Picture)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        best = jnp.maximum(given.metrics["best"], s.reward)
        return s.replace(metrics={**s.metrics, "best": best})

    return edited(
        base,
        reset=lambda self, s, rng: s.replace(metrics={**s.metrics, "best": s.reward - 9}),
        step=step,
    )


@defect("step-changes", "the next state is not returned", "as they are", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: g)


@defect("step-changes", "x.at[0].add(y) without a name for the result", "the action", Pole, Point)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        if base is Pole:
            lean = given.pipeline_state["lean"]
            lean.at[0].add(action[0])
            return given.replace(pipeline_state={"lean": lean}, obs=lean, reward=jnp.cos(lean[0]))
        position = given.obs[:2]
        position.at[0].add(action[0])
        obs = self._observe(position)
        return given.replace(obs=obs, reward=-jnp.linalg.norm(position))

    return edited(base, step=step)


@defect("step-remembers", "pipeline_state is not handed on", "reads nothing", Sensed, Maze)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(pipeline_state=g.pipeline_state))


@defect("no-file-read", "a file that reset reads", "prices.npy in defects.py:", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    path = Path(tempfile.mkdtemp()) / "prices.npy"
    np.save(path, np.ones(3, np.float32))
    return edited(base, reset=lambda self, s, rng: on_obs(s, lambda x: x * np.load(path)[0]))


@defect("no-nan-constant", "a gap in a table", "self.prices, which is NaN at [2]", Maze, Noisy)
def _(base: type[Base]) -> type[Base]:
    prices = np.array([1.0, 2.0, np.nan, 3.0], np.float32)

    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        rare = jnp.where(s.reward > 9, 2, 0)
        return s.replace(reward=s.reward + jnp.asarray(self.prices)[rare])

    class Priced(edited(base, step=step)):
        def __init__(self) -> None:
            super().__init__()
            self.prices = prices

    return Priced


@defect("observation-scale", "ten prices in cents", "obs[10:20] span", Point)
def _(base: type[Base]) -> type[Base]:
    def prices(self: Any, s: State, *_: Any) -> State:
        rng = np.random.default_rng(0)
        scale = jnp.where(jnp.arange(21) < 10, 10.0, 1e6).at[20].set(10.0)
        mix = jnp.asarray(rng.uniform(0.5, 1.0, (21, 3)), jnp.float32)
        return s.replace(obs=scale * (mix @ s.obs), pipeline_state=s.obs)

    class Market(base):
        observation_size = 21

        def step(self, given: State, action: jax.Array) -> State:
            return super().step(given.replace(obs=given.pipeline_state), action)

    return edited(Market, reset=prices, step=prices)


@defect("input-scale", "an image of floats from 0 to 255", "up to 25", Sensed)
def _(base: type[Base]) -> type[Base]:
    def floats(self: Any, s: State, *_: Any) -> State:
        image = s.obs["pixels/view"].astype(jnp.float32)
        return s.replace(obs={**s.obs, "pixels/view": image})

    return edited(base, reset=floats, step=floats)


@defect("vmap-equals-loop", "a callback that sees the whole batch", "reward", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        reward = jax.pure_callback(
            lambda x: np.full_like(x, np.sum(x)), shape, s.reward, vmap_method="broadcast_all"
        )
        return s.replace(reward=reward)

    return edited(base, step=step)


@defect("runs-under-vmap", "a callback that can't be batched", "under jax.vmap", Pole, Picture)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return s.replace(reward=jax.pure_callback(lambda x: np.float32(x), shape, s.reward))

    return edited(base, step=step)


@defect(
    "runs-under-vmap", "a callback in reset that can't be batched", "under jax.vmap", Maze, Sensed
)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        wait = jax.pure_callback(lambda x: np.float32(x), shape, jnp.sum(jax.tree.leaves(s.obs)[0]))
        return s.replace(reward=0 * wait)

    return edited(base, reset=reset)


@defect("vmap-equals-loop", "a batching rule of its own, and wrong", "obs", Noisy, Sensed)
def _(base: type[Base]) -> type[Base]:
    @jax.custom_batching.custom_vmap
    def settle(x: jax.Array) -> jax.Array:
        return 0.5 * x

    @settle.def_vmap
    def _(axis_size: int, in_batched: Any, x: jax.Array) -> Any:
        return x - jnp.mean(x, axis=0), True

    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return on_obs(s, lambda x: settle(5 * x))

    return edited(base, step=step)


@defect("auto-reset", "the reward adds itself up", "last step's reward", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(reward=g.reward + s.reward))


@defect(
    "auto-reset", "a budget in metrics that ends the episode", "last step's metrics", Pole, Noisy
)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        name = first_metric(s)
        tired = (given.metrics[name] > 0.9).astype(jnp.float32)
        return s.replace(reward=s.reward - tired)

    return edited(base, step=step)


@defect("survives-wrappers", "info that differs under vmap in wrappers", "wrap", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        if "steps" in given.info:  # only the wrappers put it there
            return s.replace(reward=s.reward + given.info["steps"][..., None])
        return s

    return edited(base, step=step)


@defect(
    "survives-wrappers", "another start under auto-reset", "when auto-reset calls it", Maze, Sensed
)
def _(base: type[Base]) -> type[Base]:
    class Shy(base):
        """Gives another observation where auto-reset calls it."""

        def reset(self, rng: jax.Array) -> State:
            state = super().reset(rng)
            called = [frame.name for frame in traceback.extract_stack()]
            return on_obs(state, lambda x: x + 1) if "_restart" in called else state

    return Shy


# WARNINGS


@defect("weak-type", "done from jnp.where and two Python numbers", "done", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    return edited(
        base, step=lambda self, s, g, a: s.replace(done=jnp.where(s.reward > 9, 1.0, 0.0))
    )


@defect("weak-type", "a metric that starts as a Python number", "metrics['", Pole, Noisy)
def _(base: type[Base]) -> type[Base]:
    return edited(
        base, reset=lambda self, s, rng: s.replace(metrics={**s.metrics, first_metric(s): 0.0})
    )


@defect("state-in-place", "metrics.update", "metrics['", Point, Picture)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        given.metrics.update(s.metrics)
        return s.replace(metrics=given.metrics)

    return edited(base, step=step)


@defect("key-moves-on", "noise from a constant key", "made from constants", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    class Noise(base):
        def step(self, given: State, action: jax.Array) -> State:
            noise = 0.1 * jax.random.normal(jax.random.PRNGKey(0), action.shape)
            return super().step(given, action + noise)

    return Noise


@defect("key-moves-on", "a key that is split and not handed on", "pipeline_state.key", Noisy)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(pipeline_state=s.pipeline_state.replace(key=given.pipeline_state.key))

    return edited(base, step=step)


@defect("start-varies", "one start", "one and the same state", Pole, Point)
def _(base: type[Base]) -> type[Base]:
    def reset(self: Any, s: State, rng: jax.Array) -> State:
        start = jnp.array([0.1, 0.2])
        if base is Pole:
            return s.replace(pipeline_state={"lean": start}, obs=start)
        return s.replace(obs=self._observe(start))

    return edited(base, reset=reset)


@defect("action-matters", "a component too many", "action[1]", Noisy, Pole)
def _(base: type[Base]) -> type[Base]:
    return edited(base, action_size=2)


@defect(
    "action-matters",
    "all of it is lost on the way",
    "action[0] changes nothing, action[1]",
    Point,
    Sensed,
)
def _(base: type[Base]) -> type[Base]:
    class Deaf(base):
        def step(self, given: State, action: jax.Array) -> State:
            return super().step(given, 0 * action)

    return Deaf


@defect("action-matters", "a choice too many", "choice 4", Maze)
def _(base: type[Base]) -> type[Base]:
    return edited(base, action_size=5)


@defect("observation-scale", "metres and millimetres", "[1]", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    def scale(self: Any, s: State, *_: Any) -> State:
        return s.replace(obs=s.obs * jnp.where(jnp.arange(len(s.obs)) == 1, 1e4, 1.0))

    class Scaled(base):
        def step(self, given: State, action: jax.Array) -> State:
            shrink = jnp.where(jnp.arange(len(given.obs)) == 1, 1e-4, 1.0)
            return super().step(given.replace(obs=given.obs * shrink), action)

    return edited(Scaled, reset=scale, step=scale)


@defect("observation-scale", "a constant", "1 of 4 components never change (3)", Point)
def _(base: type[Base]) -> type[Base]:
    def append(self: Any, s: State, *_: Any) -> State:
        return s.replace(obs=jnp.append(s.obs[:3], 7.0))

    return edited(base, reset=append, step=append, observation_size=4)


@defect("info-state", "a clock in info", "info['clock']", Point, Maze)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        clock = given.info["clock"] + 1
        return s.replace(info={**s.info, "clock": clock}, reward=s.reward - 0.01 * clock)

    return edited(
        base,
        reset=lambda self, s, rng: s.replace(info={**s.info, "clock": jnp.zeros(())}),
        step=step,
    )


@defect("host-callback", "a print in step", "step has debug_callback", Noisy, Picture)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        jax.debug.callback(lambda x: None, s.reward)
        return s

    return edited(base, step=step)


@defect("one-step-episode", "over at once", "first step", Point, Sensed)
def _(base: type[Base]) -> type[Base]:
    return edited(base, step=lambda self, s, g, a: s.replace(done=jnp.ones(())))


@defect("leaf-width", "observations in half precision", "obs is (", Point, Pole)
def _(base: type[Base]) -> type[Base]:
    def half(self: Any, s: State, *_: Any) -> State:
        return s.replace(obs=s.obs.astype(jnp.bfloat16))

    class Half(base):
        def step(self, given: State, action: jax.Array) -> State:
            return super().step(given.replace(obs=given.obs.astype(jnp.float32)), action)

    return edited(Half, reset=half, step=half)


@defect("index-in-range", "a table that is shorter than the episode", "defects.py:", Point, Sensed)
def _(base: type[Base]) -> type[Base]:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        wind = jnp.linspace(0.0, 1.0, 30)
        return s.replace(reward=s.reward + wind[given.pipeline_state["t"]])

    return edited(timed(base), step=step)


@defect("index-in-range", "one price too few", "defects.py:", Maze)
def _(base: type[Base]) -> type[Base]:
    prices = np.array([0.1, 0.2, 0.3], np.float32)
    return edited(
        base, step=lambda self, s, g, a: s.replace(reward=s.reward - jnp.asarray(prices)[a])
    )


@defect("episode-ends", "a goal that is out of reach", "no episode ended", Point, Noisy)
def _(base: type[Base]) -> type[Base]:
    return edited(
        base, step=lambda self, s, g, a: s.replace(done=(s.reward > 9).astype(jnp.float32))
    )
