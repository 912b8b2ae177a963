"""What `step` reads, as far as tracing it tells."""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper

from ...env.actions import ActionSpace, abstract
from ...run import fingerprint
from ...trace import jaxprs
from ...trace.calls import Call, Failure, leaves, name_on_self, part, trace

SMALL = 16  # a table has more elements


class Reads(NamedTuple):
    """What `step` reads.

    Attributes:
      reward_reads: whether the reward, or how often it is paid, is computed from the state or the
        action.
      obs_is_read: whether anything but the next observation is computed from the observation.
      tables: of the environment, in which it looks up the observation and the reward.
      places: paths of what says where in these tables, and is itself not observed.
    """

    reward_reads: bool = True
    obs_is_read: bool = True
    tables: Collection[str] = ()
    places: Collection[str] = ()


def reading_of(environment: Env, space: ActionSpace) -> Reads:
    """What `step` reads, by tracing it; if that fails, both are true and nothing is found."""
    state = fingerprint.reset_shapes(environment)
    call = trace(environment, environment.step, state, abstract(space))
    if isinstance(call, Failure):
        return Reads()
    reward, done = call.outputs["reward"], call.outputs["done"]
    paths = list(leaves(state))
    ends = bool(done.inputs - {paths.index("done")})  # it may hand on the one that it was given
    obs = {i for i, path in enumerate(paths) if part(path) == "obs"}
    users = [x for path, x in call.outputs.items() if part(path) != "obs"]
    tables, places = _tables(environment, call, paths)
    return Reads(
        bool(reward.inputs) or (reward.possible != {0.0} and ends),
        any(obs & x.inputs for x in users),
        tables,
        places,
    )


class _Source(NamedTuple):
    """What a value is made of.

    Attributes:
      array: the constant array that it is made of alone.
      inputs: the inputs that it depends on, but for those that only say where in a table to look.
      places: these.
      tables: constant arrays in which something was looked up, by their ids.
    """

    array: Any = None
    inputs: frozenset[int] = frozenset()
    places: frozenset[int] = frozenset()
    tables: frozenset[int] = frozenset()


def _tables(environment: Env, call: Call, paths: list[str]) -> tuple[list[str], list[str]]:
    """Tables for observation and reward, and the places in them that are not observed."""
    arrays: dict[int, Any] = {}

    def do(eqn: Any, operands: list[_Source]) -> list[_Source]:
        inputs, places, tables = (
            frozenset[int]().union(*(x[i] for x in operands)) for i in (1, 2, 3)
        )
        table: Any = operands[0].array if operands else None
        looks_up = table is not None and eqn.primitive.name in ("gather", "dynamic_slice")
        if looks_up and np.size(table) > SMALL and any(x.array is None for x in operands[1:]):
            arrays[id(table)] = table
            result = _Source(None, frozenset(), inputs | places, tables | {id(table)})
        else:
            known = [x.array for x in operands]
            is_constant = bool(known) and all(x is not None for x in known)
            result = _Source(
                max(known, key=np.size) if is_constant else None, inputs, places, tables
            )
        return [result] * len(eqn.outvars)

    sources = [_Source(inputs=frozenset([i])) for i in range(len(call.closed.in_avals))]
    results = jaxprs.interpret(call.closed, sources, do, _Source)
    outputs = dict(zip(call.leaves, results, strict=True))
    shown = [x for path, x in outputs.items() if part(path) == "obs"]
    paid = outputs["reward"].tables | outputs["done"].tables
    tables = frozenset[int]().union(*(x.tables for x in shown)) & paid
    seen = frozenset[int]().union(*(x.inputs for x in shown))
    places = frozenset[int]().union(*(x.places for x in shown)) - seen
    names = [
        name_on_self(environment, arrays[i]) or f"a table of shape {np.shape(arrays[i])}"
        for i in sorted(tables)
    ]
    return names, [paths[i] for i in sorted(places) if i < len(paths)]


class WithoutObs(Wrapper):
    """Gives no observations, which are then not even computed: for images that takes longest."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._obs = fingerprint.reset_shapes(env).obs

    def reset(self, rng: jax.Array) -> State:
        return self.env.reset(rng).replace(obs=jnp.zeros(1))

    def step(self, state: State, action: jax.Array) -> State:
        # Some observations are made of the one before, such as stacked frames.
        obs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._obs)
        return self.env.step(state.replace(obs=obs), action).replace(obs=jnp.zeros(1))
