"""Six small environments that keep every rule, to plant defects in.

As different as they have to be for a defect to look different in them: where the state lives, what
is observed, what an action is, when an episode ends.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State


class Base(Env):
    """What the six have in common."""

    @property
    def backend(self) -> str:
        return "abstract"


class Point(Base):
    """The observation is the whole state; never ends; two metrics."""

    observation_size = 3
    action_size = 2

    def reset(self, rng: jax.Array) -> State:
        position = jax.random.uniform(rng, (2,), minval=-1.0, maxval=1.0)
        reward, done, distance, effort = jnp.zeros(4)
        metrics = {"distance": distance, "effort": effort}
        return State(None, self._observe(position), reward, done, metrics, {"wind": jnp.zeros(2)})

    def step(self, state: State, action: jax.Array) -> State:
        push = jnp.stack([action[0], action[1]])
        position = jnp.clip(state.obs[:2] + 0.1 * push, -2.0, 2.0)
        distance = jnp.linalg.norm(position)
        effort = jnp.sum(push**2)
        return state.replace(
            obs=self._observe(position),
            reward=-distance - 0.1 * effort,
            metrics={**state.metrics, "distance": distance, "effort": effort},
            info={**state.info, "wind": 0.5 * push},
        )

    def _observe(self, position: jax.Array) -> jax.Array:
        return jnp.append(position, jnp.linalg.norm(position))


@flax.struct.dataclass
class Drift:
    velocity: jax.Array
    nested: dict[str, tuple[jax.Array, jax.Array]]
    count: jax.Array
    key: jax.Array


class Noisy(Base):
    """A struct for a state, with a key in it and leaves further down; every step is random."""

    observation_size = 2
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        key, draw = jax.random.split(rng)
        velocity = jax.random.normal(draw, (2,))
        nested = {"trace": (jnp.zeros(2), jnp.ones(()))}
        state = Drift(velocity, nested, jnp.zeros((), jnp.int32), key)
        zero = jnp.zeros(())
        return State(state, velocity, zero, zero, {"speed": zero})

    def step(self, state: State, action: jax.Array) -> State:
        drift: Drift = state.pipeline_state
        key, draw = jax.random.split(drift.key)
        velocity = 0.9 * drift.velocity + 0.1 * jax.random.normal(draw, (2,))
        velocity += 0.1 * action[0]
        trace, weight = drift.nested["trace"]
        nested = {"trace": (0.5 * trace + velocity, 0.99 * weight)}
        speed = jnp.sum(velocity**2)
        return state.replace(
            pipeline_state=Drift(velocity, nested, drift.count + 1, key),
            obs=velocity,
            reward=-speed,
            metrics={**state.metrics, "speed": speed},
        )


class Sensed(Base):
    """A dict observation with a part that the critic alone sees, and pixels."""

    action_size = 2

    @property
    def observation_size(self) -> dict[str, int | tuple[int, ...]]:
        return {"state": 2, "privileged_state": 4, "pixels/view": (4, 4, 1)}

    def reset(self, rng: jax.Array) -> State:
        place = jax.random.uniform(rng, (4,), minval=-1.0, maxval=1.0)
        zero = jnp.zeros(())
        return State({"place": place}, self._observe(place), zero, zero, {"miss": zero})

    def step(self, state: State, action: jax.Array) -> State:
        place = state.pipeline_state["place"]
        place = jnp.clip(place.at[:2].add(0.1 * jnp.stack([action[0], action[1]])), -1.0, 1.0)
        miss = jnp.sum((place[:2] - place[2:]) ** 2)
        return state.replace(
            pipeline_state={"place": place},
            obs=self._observe(place),
            reward=-miss,
            metrics={**state.metrics, "miss": miss},
        )

    def _observe(self, place: jax.Array) -> dict[str, jax.Array]:
        near = jnp.abs(jnp.linspace(-1, 1, 16) - place[2])
        view = (255 * jnp.exp(-near)).astype(jnp.uint8).reshape(4, 4, 1)
        return {"state": place[:2], "privileged_state": place, "pixels/view": view}


@flax.struct.dataclass
class Ball:
    ball: jax.Array
    paddle: jax.Array


class Picture(Base):
    """An image and a number, flat; ends when the ball has come down."""

    observation_size = 26
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        column = jax.random.randint(rng, (), 0, 5)
        state = Ball(jnp.stack([jnp.zeros((), jnp.int32), column]), jnp.zeros(()))
        zero = jnp.zeros(())
        return State(state, self._observe(state), zero, zero, {"caught": zero}, {"seen": zero})

    def step(self, state: State, action: jax.Array) -> State:
        was: Ball = state.pipeline_state
        now = Ball(was.ball.at[0].add(1), jnp.clip(was.paddle + 0.5 * action[0], -1.0, 1.0))
        landed = now.ball[0] >= 4
        off = jnp.abs(now.paddle - (now.ball[1] - 2) / 2)
        caught = jnp.where(landed, 1.0 - off, 0.0).astype(jnp.float32)
        return state.replace(
            pipeline_state=now,
            obs=self._observe(now),
            reward=caught,
            done=landed.astype(jnp.float32),
            metrics={**state.metrics, "caught": caught},
            info={**state.info, "seen": off},
        )

    def _observe(self, state: Ball) -> jax.Array:
        row, column = jnp.arange(5) == state.ball[0] % 5, jnp.arange(5) == state.ball[1]
        image = jnp.outer(row, column).astype(jnp.float32)
        return jnp.append(image.reshape(-1), state.paddle)


class Maze(Base):
    """Discrete: a cell on a grid, four ways to go; ends at the goal."""

    observation_size = 4
    action_size = 4

    def __init__(self) -> None:
        self._moves = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])

    def reset(self, rng: jax.Array) -> State:
        cells = jax.random.randint(rng, (2, 2), 0, 6)
        goal = jnp.where(jnp.all(cells[0] == cells[1]), (cells[1] + 3) % 6, cells[1])
        state = {"cell": cells[0], "goal": goal}
        zero = jnp.zeros(())
        return State(state, self._observe(state), zero, zero, {"near": zero}, {"bumped": zero})

    def step(self, state: State, action: jax.Array) -> State:
        was = state.pipeline_state
        move = jnp.asarray(self._moves)[action]
        cell = jnp.clip(was["cell"] + move, 0, 5)
        now = {"cell": cell, "goal": was["goal"]}
        gap = jnp.sum(jnp.abs(cell - was["goal"])).astype(jnp.float32)
        bumped = jnp.all(cell == was["cell"]).astype(jnp.float32)
        return state.replace(
            pipeline_state=now,
            obs=self._observe(now),
            reward=(gap == 0).astype(jnp.float32) - 0.01 * gap,
            done=(gap == 0).astype(jnp.float32),
            metrics={**state.metrics, "near": 1.0 / (1.0 + gap)},
            info={**state.info, "bumped": bumped},
        )

    def _observe(self, state: dict[str, jax.Array]) -> jax.Array:
        return jnp.concatenate([state["cell"], state["goal"]]).astype(jnp.float32)


class Pole(Base):
    """Falls over, so its episodes end early and at different times."""

    observation_size = 2
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        lean = jax.random.uniform(rng, (2,), minval=-0.1, maxval=0.1)
        zero = jnp.zeros(())
        return State({"lean": lean}, lean, zero, zero, {"upright": zero}, {"fell": zero})

    def step(self, state: State, action: jax.Array) -> State:
        angle, turn = state.pipeline_state["lean"]
        turn = jnp.clip(turn + 0.1 * jnp.sin(angle) + 0.05 * action[0], -3.0, 3.0)
        lean = jnp.stack([angle + 0.1 * turn, turn])
        fell = (jnp.abs(lean[0]) > 0.5).astype(jnp.float32)
        return state.replace(
            pipeline_state={"lean": lean},
            obs=lean,
            reward=jnp.cos(lean[0]),
            done=fell,
            metrics={**state.metrics, "upright": jnp.cos(lean[0])},
            info={**state.info, "fell": fell},
        )


BASES: tuple[type[Base], ...] = (Point, Noisy, Sensed, Picture, Maze, Pole)
