"""Environments of anyone, for `check MODULE:NAME`: Brax's, Playground's and gymnax's."""

import ast
import difflib
import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State

from ..env.actions import Continuous, Discrete
from ..env.playground import from_playground
from ..errors import UsageError

GRAMMAR = (
    'name a class or a function, MODULE:NAME, or a call as in brax.envs:get_environment("ant")'
)


def maker_of(text: str) -> Callable[[], Any]:
    """What makes the environment that `text` names, such as `my_module:MyEnv`.

    Args:
      text: MODULE:NAME, or MODULE:NAME(...) whose arguments are literals. MODULE is looked for in
        the working directory too.

    Raises:
      UsageError: `text` can't be read, the module can't be imported, or the name is not there.
    """
    module_name, _, called = text.partition(":")
    try:
        call = ast.parse(called, mode="eval").body
        arguments, keywords = [], {}
        if isinstance(call, ast.Call):
            arguments = [ast.literal_eval(x) for x in call.args]
            keywords = {str(x.arg): ast.literal_eval(x.value) for x in call.keywords}
            call = call.func
        names = ast.unparse(call).split(".")
        if not all(name.isidentifier() for name in (*module_name.split("."), *names)):
            raise ValueError
    except (SyntaxError, ValueError):
        raise UsageError(f"{text} can't be read: {GRAMMAR}.") from None
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{module_name} can't be imported: install {error.name}, or run this in its folder."
        ) from None
    for name in names:
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found))
            hint = f": did you mean {' or '.join(near)}?" if near else "."
            raise UsageError(f"{module_name} has no {'.'.join(names)}{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise UsageError(f"{text} is {found!r:.40}: {GRAMMAR}.")
    return functools.partial(found, *arguments, **keywords) if called.endswith(")") else found


def adapted(made: Any) -> Any:
    """An environment of Playground or of gymnax, with or without its parameters, as Brax's."""
    if hasattr(made, "mjx_model") and not isinstance(made, Env):
        return from_playground(made)
    environment, params = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if hasattr(environment, "step_env"):
        return FromGymnax(environment, params or environment.default_params)
    return made  # the first rule says what it should be


class FromGymnax(Env):
    """An environment of gymnax 0.0.9, without the auto-reset that is built into it.

    Its observation is flattened and cast to float32; continuous actions in [-1, 1] are scaled to
    its bounds. `pipeline_state` has its state and a key, which each step splits.
    """

    backend = "gymnax"

    def __init__(self, environment: Any, params: Any) -> None:
        self.environment, self.params = environment, params
        space = environment.action_space(params)
        shape = () if hasattr(space, "n") else space.shape
        self._box = None if hasattr(space, "n") else (space.low, space.high, shape)
        size = int(getattr(space, "n", jnp.prod(jnp.array(shape))))
        self.action_space = Discrete(size) if self._box is None else Continuous(size)
        obs = jax.eval_shape(environment.reset_env, jax.random.PRNGKey(0), params)[0]
        self._observation_size = obs.size

    @property
    def observation_size(self) -> int:
        return int(self._observation_size)

    @property
    def action_size(self) -> int:
        return self.action_space.size

    def reset(self, rng: jax.Array) -> State:
        key, start = jax.random.split(rng)
        obs, state = self.environment.reset_env(start, self.params)
        reward, done = jnp.zeros(2, jnp.float32)
        state = jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), state)
        return State({"env": state, "key": key}, _flat(obs), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        key, chance = jax.random.split(state.pipeline_state["key"])
        if self._box:
            low, high, shape = self._box
            action = low + (jnp.clip(action, -1, 1).reshape(shape) + 1) / 2 * (high - low)
        before = state.pipeline_state["env"]
        obs, after, reward, done, _ = self.environment.step_env(chance, before, action, self.params)
        # Some change their dtypes from the first step on.
        after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, before)
        return state.replace(
            pipeline_state={"env": after, "key": key},
            obs=_flat(obs),
            reward=jnp.asarray(reward, jnp.float32).reshape(()),
            done=jnp.asarray(done, jnp.float32).reshape(()),
        )


def _flat(obs: jax.Array) -> jax.Array:
    return jnp.asarray(obs, jnp.float32).reshape(-1)
