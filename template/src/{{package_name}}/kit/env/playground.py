"""Environments of MuJoCo Playground as Brax's, and Brax's as Playground's.

Both step physics of MJX and differ in names: what an environment remembers is `state.data` there
and `state.pipeline_state` here, and `randomization_fn` changes `_mjx_model` there and `sys` here.
Nothing is computed that the original does not compute. Playground itself is never imported.
"""

from typing import Any

import flax
import jax
import numpy as np
from brax.envs.base import Env, ObservationSize, State

from ..errors import UsageError
from .physics import render_physics


def from_playground(environment: Any) -> Env:
    """An environment of Playground as one of Brax's, for a `Task`.

    Its randomisers, `registry.get_domain_randomizer(name)`, are the task's `randomization_fn` as
    they are. All its other attributes can be read: `mj_model`, `xml_path`, ...

    Args:
      environment: not wrapped, such as `registry.load("CartpoleBalance")`. Without a GPU
        `config_overrides={"impl": "jax"}` steps a batch far faster than the default, "warp".

    Raises:
      UsageError: `environment` is not one of Playground's.
    """
    if isinstance(environment, Env) or not hasattr(environment, "mjx_model"):
        raise UsageError(
            f"{type(environment).__name__} is no environment of MuJoCo Playground, such as "
            'registry.load("CartpoleBalance").'
        )
    return FromPlayground(environment)


def to_playground(env: Env) -> "ToPlayground":
    """An environment of this package as one of Playground's, for its wrappers and training script.

    Args:
      env: not wrapped. Playground's randomisers and `render` need its physics: `sys`, an
        `mjx.Model`, and `mj_model`.
    """
    return ToPlayground(env)


class FromPlayground(Env):
    """See `from_playground`."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self._state = type(jax.eval_shape(environment.reset, jax.random.PRNGKey(0)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "environment" not in vars(self):
            raise AttributeError(name)
        return getattr(self.environment, name)

    def reset(self, rng: jax.Array) -> State:
        return self._to_brax(self.environment.reset(rng))

    def step(self, state: State, action: jax.Array) -> State:
        before = self._state(data=state.pipeline_state, **_shared(state))
        return self._to_brax(self.environment.step(before, action))

    def _to_brax(self, state: Any) -> State:
        return State(pipeline_state=state.data, **_shared(state))

    def render(self, state: State) -> np.ndarray:
        """(height, width, 3) uint8."""
        return render_physics(self.environment.mj_model, state.pipeline_state)

    @property
    def sys(self) -> Any:
        """The `mjx.Model`, which `randomization_fn` changes."""
        return self.environment.unwrapped._mjx_model

    @sys.setter
    def sys(self, model: Any) -> None:
        self.environment.unwrapped._mjx_model = model

    @property
    def dt(self) -> float:
        """Seconds per step."""
        return float(self.environment.dt)

    @property
    def observation_size(self) -> ObservationSize:
        return self.environment.observation_size

    @property
    def action_size(self) -> int:
        return int(self.environment.action_size)

    @property
    def backend(self) -> str:
        return "mjx"


@flax.struct.dataclass
class PlaygroundState:
    """As `mujoco_playground.State`."""

    data: Any
    obs: Any
    reward: jax.Array
    done: jax.Array
    metrics: dict[str, jax.Array]
    info: dict[str, Any]


class ToPlayground:
    """See `to_playground`."""

    def __init__(self, env: Env) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "env" not in vars(self):
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, rng: jax.Array) -> PlaygroundState:
        return self._to_playground(self.env.reset(rng))

    def step(self, state: PlaygroundState, action: jax.Array) -> PlaygroundState:
        before = State(pipeline_state=state.data, **_shared(state))
        return self._to_playground(self.env.step(before, action))

    def _to_playground(self, state: State) -> PlaygroundState:
        return PlaygroundState(data=state.pipeline_state, **_shared(state))

    def render(self, trajectory: Any, *_: Any, **__: Any) -> Any:
        """Draws a state, or each of a list, as the environment's own `render` does."""
        if isinstance(trajectory, PlaygroundState):
            state = State(pipeline_state=trajectory.data, **_shared(trajectory))
            return self.env.render(state)  # type: ignore[attr-defined]
        return [self.render(state) for state in trajectory]

    @property
    def _mjx_model(self) -> Any:
        return self.env.sys  # type: ignore[attr-defined]

    @_mjx_model.setter
    def _mjx_model(self, model: Any) -> None:
        self.env.sys = model  # type: ignore[attr-defined]

    mjx_model = _mjx_model

    @property
    def unwrapped(self) -> "ToPlayground":
        return self


def _shared(state: Any) -> dict[str, Any]:
    """What both kinds of states have; copied, as Playground's `step` writes into dictionaries."""
    names = ("obs", "reward", "done", "metrics", "info")
    return {name: jax.tree.map(lambda x: x, getattr(state, name)) for name in names}
