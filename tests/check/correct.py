"""Environments that keep every rule, as different as real ones are: `check` may fail none of them.

The dynamics of the classic ones are those of Gymnasium; PendulumEnv and so on are written anew.
"""

import functools
import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from bases import BASES, Base
from brax import envs
from brax.envs.base import Env, State
from kit.check.foreign import adapted

CORRECT: dict[str, Callable[[], Env]] = {base.__name__: base for base in BASES}


def correct(make: Any) -> Any:
    """Adds a class to `CORRECT`."""
    CORRECT[make.__name__] = make
    return make


def zeros(count: int) -> tuple[jax.Array, ...]:
    return tuple(jnp.zeros(count))


def as_float(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


# CLASSIC CONTROL


@correct
class Pendulum(Base):
    """Swing up; reward from angle, speed and torque (Gymnasium's Pendulum-v1)."""

    observation_size = 3
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        high = jnp.array([jnp.pi, 1.0])
        angle, speed = jax.random.uniform(rng, (2,), minval=-high, maxval=high)
        reward, done = zeros(2)
        return State((angle, speed), self._observe(angle, speed), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        angle, speed = state.pipeline_state
        torque = 2.0 * jnp.clip(action[0], -1.0, 1.0)
        off = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = off**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = jnp.clip(speed + 0.05 * (15.0 * jnp.sin(angle) + 3.0 * torque), -8.0, 8.0)
        angle = angle + 0.05 * speed
        return state.replace(
            pipeline_state=(angle, speed), obs=self._observe(angle, speed), reward=-cost
        )

    def _observe(self, angle: jax.Array, speed: jax.Array) -> jax.Array:
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), speed])


@correct
class CartPole(Base):
    """Barto, Sutton and Anderson 1983, as in Gymnasium's CartPole-v1; discrete."""

    observation_size = 4
    action_size = 2

    def reset(self, rng: jax.Array) -> State:
        obs = jax.random.uniform(rng, (4,), minval=-0.05, maxval=0.05)
        reward, done = zeros(2)
        return State(None, obs, reward, done, {"upright": done})

    def step(self, state: State, action: jax.Array) -> State:
        _, x_dot, theta, theta_dot = state.obs
        force = jnp.where(action == 1, 10.0, -10.0)
        push = (force + 0.05 * theta_dot**2 * jnp.sin(theta)) / 1.1
        turn = (9.8 * jnp.sin(theta) - jnp.cos(theta) * push) / (
            0.5 * (4.0 / 3.0 - 0.1 * jnp.cos(theta) ** 2 / 1.1)
        )
        slide = push - 0.05 * turn * jnp.cos(theta) / 1.1
        change = jnp.stack([x_dot, slide, theta_dot, turn])
        obs = state.obs + 0.02 * change
        fell = (jnp.abs(obs[0]) > 2.4) | (jnp.abs(obs[2]) > 0.2095)
        return state.replace(
            obs=obs,
            reward=jnp.ones(()),
            done=as_float(fell),
            metrics={**state.metrics, "upright": jnp.cos(obs[2])},
        )


@correct
class MountainCar(Base):
    """Moore 1990, as in Gymnasium's MountainCar-v0; discrete, -1 a step."""

    observation_size = 2
    action_size = 3

    def reset(self, rng: jax.Array) -> State:
        x = jax.random.uniform(rng, minval=-0.6, maxval=-0.4)
        reward, done = zeros(2)
        return State(None, jnp.stack([x, done]), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        x, v = state.obs
        v = jnp.clip(v + 0.001 * (action - 1) - 0.0025 * jnp.cos(3 * x), -0.07, 0.07)
        x = jnp.clip(x + v, -1.2, 0.6)
        v = jnp.where((x == -1.2) & (v < 0), 0.0, v)
        return state.replace(obs=jnp.stack([x, v]), reward=-jnp.ones(()), done=as_float(x >= 0.5))


@correct
class MountainCarContinuous(Base):
    """The same with a motor that costs; the bonus comes once."""

    observation_size = 2
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        x = jax.random.uniform(rng, minval=-0.6, maxval=-0.4)
        reward, done, fuel = zeros(3)
        return State({"fuel": fuel}, jnp.stack([x, done]), reward, done, {"fuel_used": fuel})

    def step(self, state: State, action: jax.Array) -> State:
        x, v = state.obs
        force = jnp.clip(action[0], -1.0, 1.0)
        v = jnp.clip(v + 0.0015 * force - 0.0025 * jnp.cos(3 * x), -0.07, 0.07)
        x = jnp.clip(x + v, -1.2, 0.6)
        there = as_float(x >= 0.45)
        used = 0.1 * force**2
        return state.replace(
            pipeline_state={"fuel": state.pipeline_state["fuel"] + used},
            obs=jnp.stack([x, v]),
            reward=100.0 * there - used,
            done=there,
            metrics={**state.metrics, "fuel_used": used},
        )


@correct
class Acrobot(Base):
    """Sutton and Barto's book, RK4; discrete torque."""

    observation_size = 6
    action_size = 3

    def reset(self, rng: jax.Array) -> State:
        s = jax.random.uniform(rng, (4,), minval=-0.1, maxval=0.1)
        reward, done = zeros(2)
        return State(s, self._observe(s), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        torque = as_float(action - 1)
        s = state.pipeline_state
        k1 = self._change(s, torque)
        k2 = self._change(s + 0.1 * k1, torque)
        k3 = self._change(s + 0.1 * k2, torque)
        k4 = self._change(s + 0.2 * k3, torque)
        s = s + 0.2 / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        turn = (s[:2] + jnp.pi) % (2 * jnp.pi) - jnp.pi
        s = jnp.concatenate([turn, jnp.clip(s[2:], -4 * jnp.pi, 4 * jnp.pi)])
        up = -jnp.cos(s[0]) - jnp.cos(s[1] + s[0]) > 1.0
        return state.replace(
            pipeline_state=s,
            obs=self._observe(s),
            reward=jnp.where(up, 0.0, -jnp.ones(())),
            done=as_float(up),
        )

    def _change(self, s: jax.Array, torque: jax.Array) -> jax.Array:
        a, b, va, vb = s
        d1 = 0.25 + 1.25 + jnp.cos(b) + 2.0
        d2 = 0.25 + 0.5 * jnp.cos(b) + 1.0
        phi2 = 0.5 * 9.8 * jnp.cos(a + b - jnp.pi / 2)
        phi1 = -0.5 * vb**2 * jnp.sin(b) - vb * va * jnp.sin(b)
        phi1 += 1.5 * 9.8 * jnp.cos(a - jnp.pi / 2) + phi2
        acc_b = torque + d2 / d1 * phi1 - 0.5 * va**2 * jnp.sin(b) - phi2
        acc_b = acc_b / (1.25 - d2**2 / d1)
        return jnp.stack([va, vb, -(d2 * acc_b + phi1) / d1, acc_b])

    def _observe(self, s: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.cos(s[:2]), jnp.sin(s[:2]), s[2:]])


# GRIDS, BANDITS AND GAMES


@correct
class Bandit(Base):
    """One step and over; which arm pays can't be seen."""

    observation_size = 1
    action_size = 5

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        return State({"key": rng}, jnp.ones(1), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        chance = jnp.array([0.1, 0.3, 0.5, 0.7, 0.9])[action]
        key, draw = jax.random.split(state.pipeline_state["key"])
        won = as_float(jax.random.bernoulli(draw, chance))
        return state.replace(pipeline_state={"key": key}, reward=won, done=jnp.ones(()))


@correct
class ContextualBandit(Base):
    """A new context each step, continuous, never over."""

    observation_size = 8
    action_size = 3

    def __init__(self) -> None:
        self._weights = jax.random.normal(jax.random.PRNGKey(1), (3, 8))

    def reset(self, rng: jax.Array) -> State:
        key, draw = jax.random.split(rng)
        reward, done = zeros(2)
        return State({"key": key}, jax.random.normal(draw, (8,)), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        key, draw = jax.random.split(state.pipeline_state["key"])
        reward = jnp.tanh(action) @ self._weights @ state.obs
        return state.replace(
            pipeline_state={"key": key}, obs=jax.random.normal(draw, (8,)), reward=reward
        )


@correct
class FrozenLake(Base):
    """A 4x4 map from a table, slippery; the observation is one-hot."""

    observation_size = 16
    action_size = 4

    def __init__(self) -> None:
        self._map = np.array(list("SFFFFHFHFFFHHFFG"))

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        state = {"cell": jnp.zeros((), jnp.int32), "key": rng}
        return State(state, jax.nn.one_hot(0, 16), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        key, draw = jax.random.split(state.pipeline_state["key"])
        slip = (action + jax.random.randint(draw, (), -1, 2)) % 4
        row, column = state.pipeline_state["cell"] // 4, state.pipeline_state["cell"] % 4
        row = jnp.clip(row + jnp.array([0, 1, 0, -1])[slip], 0, 3)
        column = jnp.clip(column + jnp.array([-1, 0, 1, 0])[slip], 0, 3)
        cell = row * 4 + column
        goal = jnp.asarray(self._map == "G")[cell]
        over = goal | jnp.asarray(self._map == "H")[cell]
        return state.replace(
            pipeline_state={"cell": cell, "key": key},
            obs=jax.nn.one_hot(cell, 16),
            reward=as_float(goal),
            done=as_float(over),
        )


@correct
class Catch(Base):
    """bsuite's Catch: a flat image, three choices, ends after nine steps."""

    observation_size = 50
    action_size = 3

    def reset(self, rng: jax.Array) -> State:
        ball = jnp.stack([jnp.zeros((), jnp.int32), jax.random.randint(rng, (), 0, 5)])
        paddle = jnp.full((), 2, jnp.int32)
        reward, done = zeros(2)
        return State((ball, paddle), self._observe(ball, paddle), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        ball, paddle = state.pipeline_state
        paddle = jnp.clip(paddle + action - 1, 0, 4)
        ball = ball.at[0].add(1)
        down = ball[0] == 9
        reward = jnp.where(down, jnp.where(paddle == ball[1], 1.0, -1.0), 0.0)
        return state.replace(
            pipeline_state=(ball, paddle),
            obs=self._observe(ball, paddle),
            reward=as_float(reward),
            done=as_float(down),
        )

    def _observe(self, ball: jax.Array, paddle: jax.Array) -> jax.Array:
        board = jnp.zeros((10, 5)).at[ball[0], ball[1]].set(1.0, mode="drop")
        return board.at[9, paddle].set(1.0).reshape(-1)


@correct
class Snake(Base):
    """A body on a board as an array that moves along; a `while_loop` finds a free cell."""

    observation_size = 36
    action_size = 4

    def reset(self, rng: jax.Array) -> State:
        key, draw = jax.random.split(rng)
        body = jnp.full((36, 2), -1, jnp.int32).at[0].set(jnp.array([3, 3]))
        state = {"body": body, "length": jnp.ones((), jnp.int32), "key": key}
        state["food"] = self._free(draw, body)
        reward, done = zeros(2)
        return State(state, self._observe(state), reward, done, {"size": done})

    def step(self, state: State, action: jax.Array) -> State:
        was = state.pipeline_state
        head = was["body"][0] + jnp.array([[1, 0], [0, 1], [-1, 0], [0, -1]])[action]
        crashed = jnp.any((head < 0) | (head > 5)) | jnp.any(jnp.all(was["body"] == head, -1))
        ate = jnp.all(head == was["food"])
        length = jnp.minimum(was["length"] + ate, 35)
        body = jnp.roll(was["body"], 1, axis=0).at[0].set(jnp.clip(head, 0, 5))
        body = jnp.where((jnp.arange(36) < length)[:, None], body, -1)
        key, draw = jax.random.split(was["key"])
        food = jnp.where(ate, self._free(draw, body), was["food"])
        now = {"body": body, "length": length, "key": key, "food": food}
        return state.replace(
            pipeline_state=now,
            obs=self._observe(now),
            reward=as_float(ate) - as_float(crashed),
            done=as_float(crashed),
            metrics={**state.metrics, "size": length.astype(jnp.float32)},
        )

    def _free(self, key: jax.Array, body: jax.Array) -> jax.Array:
        def taken(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
            return jnp.any(jnp.all(body == carry[1], axis=-1))

        def again(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            key, draw = jax.random.split(carry[0])
            return key, jax.random.randint(draw, (2,), 0, 6)

        return jax.lax.while_loop(taken, again, again((key, jnp.zeros(2, jnp.int32))))[1]

    def _observe(self, state: dict[str, jax.Array]) -> jax.Array:
        board = jnp.zeros((6, 6)).at[state["food"][0], state["food"][1]].set(-1.0)
        shown = jnp.where(state["body"] >= 0, state["body"], 9)
        return board.at[shown[:, 0], shown[:, 1]].set(1.0, mode="drop").reshape(-1)


@correct
class TicTacToe(Base):
    """Against a random opponent; an illegal move loses."""

    observation_size = 9
    action_size = 9

    def __init__(self) -> None:
        rows = np.arange(9).reshape(3, 3)
        lines = [*rows, *rows.T, rows.diagonal(), rows[::-1].diagonal()]
        self._lines = np.stack(lines)

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        board = jnp.zeros(9, jnp.int8)
        return State({"board": board, "key": rng}, as_float(board), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        board = state.pipeline_state["board"]
        illegal = board[action] != 0
        board = board.at[action].set(jnp.where(illegal, board[action], 1))
        won = self._has(board, 1)
        key, draw = jax.random.split(state.pipeline_state["key"])
        full = jnp.all(board != 0)
        free = jnp.where((board == 0) | full, 1.0, 0.0)
        reply = jax.random.categorical(draw, jnp.log(free + 1e-9))
        plays = ~won & ~illegal & ~full
        board = board.at[reply].set(jnp.where(plays, -1, board[reply]).astype(jnp.int8))
        lost = illegal | self._has(board, -1)
        return state.replace(
            pipeline_state={"board": board, "key": key},
            obs=as_float(board),
            reward=as_float(won) - as_float(lost),
            done=as_float(won | lost | jnp.all(board != 0)),
        )

    def _has(self, board: jax.Array, who: int) -> jax.Array:
        return jnp.any(jnp.all(board[self._lines] == who, axis=-1))


# STATES OF MANY KINDS


@correct
class FixedStart(Base):
    """A double integrator that always starts alike: no key is used at all."""

    observation_size = 2
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        return State(None, jnp.array([1.0, 0.0]), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        x, v = state.obs
        v = jnp.clip(v + 0.1 * action[0], -1.0, 1.0)
        x = jnp.clip(x + 0.1 * v, -5.0, 5.0)
        return state.replace(obs=jnp.stack([x, v]), reward=-(x**2))


@correct
class FixedStartNoisy(FixedStart):
    """Starts alike, and then the wind blows: the key matters later."""

    def reset(self, rng: jax.Array) -> State:
        return super().reset(rng).replace(pipeline_state=rng)

    def step(self, state: State, action: jax.Array) -> State:
        key, draw = jax.random.split(state.pipeline_state)
        state = super().step(state, action + 0.3 * jax.random.normal(draw, (1,)))
        return state.replace(pipeline_state=key)


class Inner(NamedTuple):
    pair: tuple[jax.Array, jax.Array]
    table: dict[str, list[jax.Array]]


@flax.struct.dataclass
class Outer:
    inner: Inner
    flags: jax.Array
    name: str = flax.struct.field(pytree_node=False)
    nothing: Any = None


@correct
class Nested(Base):
    """A large state of structs in named tuples in dicts in lists, of every dtype."""

    observation_size = 5
    action_size = 2

    def reset(self, rng: jax.Array) -> State:
        big = jax.random.normal(rng, (64, 64))
        table = {"ints": [jnp.arange(7), jnp.zeros((2, 3), jnp.uint8)], "big": [big]}
        inner = Inner((jnp.zeros(2), jnp.ones((), jnp.int16)), table)
        reward, done = zeros(2)
        outer = Outer(inner, jnp.zeros(4, bool), "nested")
        info = {"deep": {"er": (done, jnp.zeros(3))}}
        return State(outer, big[0, :5], reward, done, {"a": done, "b": done}, info)

    def step(self, state: State, action: jax.Array) -> State:
        outer: Outer = state.pipeline_state
        (spot, tick), table = outer.inner
        big = jnp.roll(table["big"][0], 1) * 0.99 + 0.01 * jnp.sum(action * jnp.array([1.0, 2.0]))
        spot = 0.9 * spot + action
        table = {"ints": [table["ints"][0][::-1], table["ints"][1] + jnp.uint8(1)], "big": [big]}
        outer = outer.replace(  # type: ignore[attr-defined]
            inner=Inner((spot, (tick + 1).astype(jnp.int16)), table), flags=~outer.flags
        )
        return state.replace(
            pipeline_state=outer,
            obs=big[0, :5],
            reward=jnp.mean(big),
            metrics={**state.metrics, "a": spot[0], "b": spot[1]},
            info={**state.info, "deep": {"er": (spot[0], jnp.append(spot, spot[1]))}},
        )


@correct
class TypedKey(Base):
    """Keeps a new-style typed key in its state."""

    observation_size = 2
    action_size = 2

    def reset(self, rng: jax.Array) -> State:
        key, draw = jax.random.split(jax.random.wrap_key_data(rng))
        reward, done = zeros(2)
        return State({"key": key}, jax.random.normal(draw, (2,)), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        key, draw = jax.random.split(state.pipeline_state["key"])
        obs = 0.9 * state.obs + 0.1 * action + 0.01 * jax.random.normal(draw, (2,))
        return state.replace(pipeline_state={"key": key}, obs=obs, reward=-jnp.sum(obs**2))


@correct
class Pixels(Base):
    """uint8 frames, the last three of them, and nothing else."""

    action_size = 2

    @property
    def observation_size(self) -> dict[str, tuple[int, ...]]:
        return {"pixels/view": (12, 12, 3)}

    def reset(self, rng: jax.Array) -> State:
        place = jax.random.uniform(rng, (2,))
        frame = self._draw(place)
        frames = jnp.stack([frame] * 3, axis=-1)
        reward, done = zeros(2)
        return State(place, {"pixels/view": frames}, reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        place = jnp.clip(state.pipeline_state + 0.1 * action, 0.0, 1.0)
        seen = state.obs["pixels/view"]
        frames = jnp.concatenate([seen[..., 1:], self._draw(place)[..., None]], axis=-1)
        reward = -jnp.sum((place - 0.5) ** 2)
        return state.replace(pipeline_state=place, obs={"pixels/view": frames}, reward=reward)

    def _draw(self, place: jax.Array) -> jax.Array:
        y, x = jnp.mgrid[0:1:12j, 0:1:12j]
        near = jnp.exp(-20 * ((x - place[0]) ** 2 + (y - place[1]) ** 2))
        return (255 * near).astype(jnp.uint8)


@correct
class Privileged(Base):
    """What the critic sees besides: the hidden mass of the cart."""

    action_size = 1

    @property
    def observation_size(self) -> dict[str, int]:
        return {"state": 2, "privileged_state": 3}

    def reset(self, rng: jax.Array) -> State:
        x, mass = jax.random.uniform(rng, (2,), minval=0.5, maxval=1.5)
        state = jnp.stack([x, jnp.zeros(()), mass])
        reward, done = zeros(2)
        return State(state, {"state": state[:2], "privileged_state": state}, reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        x, v, mass = state.pipeline_state
        v = 0.99 * v + 0.1 * action[0] / mass
        now = jnp.stack([jnp.clip(x + 0.1 * v, -10.0, 10.0), v, mass])
        return state.replace(
            pipeline_state=now,
            obs={"state": now[:2], "privileged_state": now},
            reward=-jnp.abs(now[0]),
        )


@correct
class Chaos(Base):
    """The Lorenz system: rounding decides where it is after a while."""

    observation_size = 3
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        return State(None, jax.random.normal(rng, (3,)) + 1.0, reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        def push(_: int, s: jax.Array) -> jax.Array:
            x, y, z = s
            change = jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])
            return s + 0.005 * (change + 5.0 * action[0])

        obs = jax.lax.fori_loop(0, 8, push, state.obs)
        return state.replace(obs=obs, reward=-jnp.abs(obs[0]) / 20)


@correct
class Stiff(Base):
    """A small gap times a large stiffness: a compiler's order of adding up decides the force."""

    observation_size = 3
    action_size = 2

    def __init__(self) -> None:
        self._matrix = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)

    def reset(self, rng: jax.Array) -> State:
        joints = jax.random.normal(rng, (256,))
        return State(joints, jnp.sin(joints[:3]), *zeros(2), {"force": jnp.zeros(())})

    def step(self, state: State, action: jax.Array) -> State:
        gap = jnp.dot(self._matrix, state.pipeline_state)
        force = jnp.clip(1e6 * gap, -1e7, 1e7) % 7.0
        joints = 0.9 * state.pipeline_state + 0.01 * force
        joints = joints.at[:2].add(0.1 * jnp.stack([action[0], action[1]]))
        return state.replace(
            pipeline_state=joints,
            obs=jnp.sin(joints[:3]),
            reward=-jnp.mean(joints**2),
            metrics={**state.metrics, "force": force[0]},
        )


@correct
class Unstable(Base):
    """Runs away unless it is held; the episode ends long before it overflows."""

    observation_size = 1
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        return State(None, jax.random.uniform(rng, (1,), minval=-0.1, maxval=0.1), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        obs = 1.5 * state.obs + 0.2 * action[0]
        return state.replace(obs=obs, reward=-(obs[0] ** 2), done=as_float(jnp.abs(obs[0]) > 5.0))


@correct
class BestSoFar(Base):
    """Starts out with infinity for "nothing yet", inside its state."""

    observation_size = 1
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        state = {"best": jnp.full((), jnp.inf), "x": jax.random.normal(rng)}
        return State(state, state["x"][None], reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        x = 0.9 * state.pipeline_state["x"] + action[0]
        best = jnp.minimum(state.pipeline_state["best"], jnp.abs(x))
        return state.replace(pipeline_state={"best": best, "x": x}, obs=x[None], reward=-best)


@correct
class LazyTable(Base):
    """Makes a constant when it is first asked for, which is at the first trace."""

    observation_size = 2
    action_size = 3

    @functools.cached_property
    def table(self) -> np.ndarray:
        return np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], np.float32)

    @functools.cached_property
    def width(self) -> float:
        return 0.5

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        return State(None, self.width * jax.random.normal(rng, (2,)), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        obs = 0.9 * state.obs + 0.1 * jnp.asarray(self.table)[action]
        return state.replace(obs=obs, reward=-jnp.sum(obs**2))


@correct
class InPlace(Base):
    """Brax's own idiom: `state.metrics.update(...)` and `state.info[...] = ...`."""

    observation_size = 2
    action_size = 2

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        obs = jax.random.normal(rng, (2,))
        return State(None, obs, reward, done, {"cost": done}, {"last": obs})

    def step(self, state: State, action: jax.Array) -> State:
        obs = 0.9 * state.obs + 0.1 * jnp.stack([action[0], action[1]])
        state.metrics.update(cost=jnp.sum(action**2))
        state.info["last"] = obs
        return state.replace(obs=obs, reward=-jnp.sum(obs**2))


@correct
class Jitted(Base):
    """Compiles its own methods, with `self` as a static argument."""

    observation_size = 2
    action_size = 1

    @functools.partial(jax.jit, static_argnums=0)
    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        return State(None, jax.random.normal(rng, (2,)), reward, done)

    @functools.partial(jax.jit, static_argnums=0)
    def step(self, state: State, action: jax.Array) -> State:
        obs = 0.9 * state.obs + 0.1 * action[0]
        return state.replace(obs=obs, reward=-jnp.sum(obs**2))


@correct
class Timed(Base):
    """An episode of fixed length that the environment itself ends; time is observed."""

    observation_size = 2
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        x = jax.random.uniform(rng)
        state = {"t": jnp.zeros((), jnp.int32), "x": x}
        return State(state, jnp.stack([x, done]), reward, done, {"time": done})

    def step(self, state: State, action: jax.Array) -> State:
        t = state.pipeline_state["t"] + 1
        x = 0.95 * state.pipeline_state["x"] + 0.1 * action[0]
        time = t.astype(jnp.float32) / 20
        return state.replace(
            pipeline_state={"t": t, "x": x},
            obs=jnp.stack([x, time]),
            reward=jnp.where(t == 20, x, 0.0),
            done=as_float(t >= 20),
            metrics={**state.metrics, "time": time},
        )


@correct
class Progress(Base):
    """Paid for progress, so that where it is, a metric, is what it was paid so far."""

    observation_size = 2
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        speed = jax.random.normal(rng)
        state = {"x": done, "speed": speed}
        return State(state, jnp.stack([done, speed]), reward, done, {"x_position": done})

    def step(self, state: State, action: jax.Array) -> State:
        was = state.pipeline_state
        speed = 0.9 * was["speed"] + 0.1 * action[0]
        x = was["x"] + 0.1 * speed
        return state.replace(
            pipeline_state={"x": x, "speed": speed},
            obs=jnp.stack([x, speed]),
            reward=x - was["x"],
            metrics={**state.metrics, "x_position": x},
        )


class Drifting(Base):
    """What many start from."""

    observation_size = 2
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        return State(None, jax.random.normal(rng, (2,)), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        obs = 0.9 * state.obs + 0.1 * action[0]
        return state.replace(obs=obs, reward=-jnp.sum(obs**2))


@correct
class Measured(Drifting):
    """Metrics that need a memory, which is kept for them alone: none of them is a running sum."""

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        zero, no = jnp.zeros(()), jnp.zeros((), bool)
        count = jnp.zeros((), jnp.int32)
        memory = {
            "succeeded": no,
            "flag": zero,
            "counted": zero,
            "held": count,
            "streak": zero,
            "best": jnp.full((), -9.0),
            "since": count,
            "visited": jnp.zeros(10, bool),
            "first": state.obs[0],
            "start": jnp.abs(state.obs[1]) + 1.0,
            "total": zero,
            "steps": zero,
            "smooth": zero,
            "last": zero,
            "window": jnp.zeros(10),
            "share": zero,
            "charge": jnp.ones(()),
        }
        names = "success succeeded once in_a_row streak best since visited moved progress mean"
        names += " smooth jerk recent share charge"
        metrics = {name: zero for name in names.split()}
        return state.replace(pipeline_state=memory, metrics=metrics)

    def step(self, state: State, action: jax.Array) -> State:
        was, state = state.pipeline_state, super().step(state, action)
        x, y = state.obs
        there = jnp.abs(x) < 0.5
        rare = x > 0.99  # often not once in an episode
        cell = jnp.clip(jnp.int32(5 * x + 5), 0, 9)
        now = {
            "succeeded": was["succeeded"] | there,
            "flag": jnp.where(there, 1.0, was["flag"]),
            "counted": was["counted"] + there,
            "held": jnp.where(there, was["held"] + 1, 0),
            "streak": (was["streak"] + 1) * there,
            "best": jnp.maximum(was["best"], state.reward),
            "since": jnp.where(rare, 0, was["since"] + 1),
            "visited": was["visited"].at[cell].set(True),
            "first": was["first"],
            "start": was["start"],
            "total": was["total"] + state.reward,
            "steps": was["steps"] + 1,
            "smooth": 0.9 * was["smooth"] + 0.1 * state.reward,
            "last": action[0],
            "window": jnp.roll(was["window"], 1).at[0].set(state.reward),
            "share": jnp.minimum(was["share"] + 0.1 * there, 1.0),
            "charge": jnp.maximum(was["charge"] - 0.1 * jnp.abs(action[0]), 0.0),
        }
        measured = {
            "success": as_float(there & ~was["succeeded"]),
            "succeeded": now["flag"],
            "once": as_float(there & (now["counted"] == 1)),
            "in_a_row": as_float(now["held"] >= 10),
            "streak": now["streak"],
            "best": now["best"],
            "since": as_float(now["since"]),
            "visited": jnp.mean(now["visited"]),
            "moved": x - was["first"],
            "progress": 1 - jnp.abs(y) / was["start"],
            "mean": now["total"] / now["steps"],
            "smooth": now["smooth"],
            "jerk": jnp.abs(action[0] - was["last"]),
            "recent": jnp.mean(now["window"]),
            "share": now["share"],
            "charge": now["charge"],
        }
        return state.replace(pipeline_state=now, metrics={**state.metrics, **measured})


@correct
class CountsItsEnd(Drifting):
    """Counts what ends the episode, so that the count is 1 in the last step alone."""

    def reset(self, rng: jax.Array) -> State:
        state, zero = super().reset(rng), jnp.zeros(())
        return state.replace(pipeline_state={"caught": zero}, metrics={"caught": zero})

    def step(self, state: State, action: jax.Array) -> State:
        was, state = state.pipeline_state["caught"], super().step(state, action)
        over = as_float(jnp.abs(state.obs[0]) < 0.05)
        return state.replace(
            pipeline_state={"caught": was + over},
            done=over,
            metrics={**state.metrics, "caught": was + over},
        )


@correct
class Overflows(Drifting):
    """Ends as its state becomes NaN, which is never observed."""

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        return state.replace(pipeline_state={"x": state.obs, "speed": jnp.ones(())})

    def step(self, state: State, action: jax.Array) -> State:
        was = state.pipeline_state
        speed = was["speed"] * (1e3 + 9e2 * action[0])
        x = was["x"] + jnp.stack([action[0], speed - speed * (speed < jnp.inf)])
        x = jnp.where(jnp.isfinite(speed), 0.9 * x, jnp.nan)
        broken = jnp.any(jnp.isnan(x))
        return state.replace(
            pipeline_state={"x": x, "speed": speed},
            obs=jnp.where(broken, state.obs, x),
            reward=jnp.where(broken, -1.0, 1.0).astype(jnp.float32),
            done=as_float(broken),
        )


@correct
class Gaps(Drifting):
    """A table with gaps, which it knows of; it was read when the environment was made."""

    def __init__(self) -> None:
        self._table = np.array([0.1, np.nan, 0.3], np.float32)

    def step(self, state: State, action: jax.Array) -> State:
        state = super().step(state, action)
        known = jnp.nan_to_num(jnp.asarray(self._table))
        return state.replace(reward=state.reward + known[jnp.int32(1 + jnp.sign(action[0]))])


@correct
class Bitboards(Base):
    """64 squares in two uint32 for each side, as in Othello; nothing is random."""

    observation_size = 8
    action_size = 8

    def reset(self, rng: jax.Array) -> State:
        board = jnp.array([[1, 0], [0, 1]], jnp.uint32)
        return State({"board": board}, self._observe(board), *zeros(2))

    def step(self, state: State, action: jax.Array) -> State:
        board = state.pipeline_state["board"]
        board = board.at[0, action % 2].set(
            board[0, action % 2] ^ (jnp.uint32(1) << action.astype(jnp.uint32))
        )
        board = board.at[1, 0].set(board[0, 1] + board[1, 1])
        obs = self._observe(board)
        return state.replace(
            pipeline_state={"board": board}, obs=obs, reward=jnp.sum(obs), done=as_float(obs[7] > 0)
        )

    def _observe(self, board: jax.Array) -> jax.Array:
        return as_float((board[0, 0] >> jnp.arange(8, dtype=jnp.uint32)) & 1)


@correct
class Rematerialised(Drifting):
    """Its gradient is computed anew on the way back."""

    def step(self, state: State, action: jax.Array) -> State:
        return jax.checkpoint(super().step)(state, action)


@correct
class Batched(Drifting):
    """Steps a batch of one."""

    def step(self, state: State, action: jax.Array) -> State:
        batch = jax.tree.map(lambda x: x[None], (state, action))
        return jax.tree.map(lambda x: x[0], jax.vmap(super().step)(*batch))


@correct
class NotDifferentiated(Drifting):
    """No gradient goes through the whole of the state."""

    def step(self, state: State, action: jax.Array) -> State:
        return jax.lax.stop_gradient(super().step(state, action))


@correct
class Frozen(Drifting):
    """The whole state stays as it is where the episode is over."""

    def step(self, state: State, action: jax.Array) -> State:
        after = super().step(state, action)
        return jax.tree.map(lambda old, new: jnp.where(state.done > 0, old, new), state, after)


@correct
class Parameters(Drifting):
    """Keeps arrays in mappings that make what they are asked for, each time anew."""

    def __init__(self) -> None:
        self._weights = flax.core.freeze({"layer": {"kernel": {"w": 0.4 * jnp.eye(2)}}})
        file = io.BytesIO()
        np.savez(file, push=np.array([0.5, 0.3], np.float32))
        self._file = np.load(io.BytesIO(file.getvalue()))

    def step(self, state: State, action: jax.Array) -> State:
        obs = self._weights["layer"]["kernel"]["w"] @ state.obs + self._file["push"] * action[0]
        return state.replace(obs=obs, reward=-jnp.sum(obs**2))


@correct
class MadeLate(Drifting):
    """A table that is None until it is first needed."""

    def __init__(self) -> None:
        self._table: np.ndarray | None = None

    def step(self, state: State, action: jax.Array) -> State:
        if self._table is None:
            self._table = np.array([0.5, 0.3], np.float32)
        obs = 0.9 * state.obs + self._table * action[0]
        return state.replace(obs=obs, reward=-jnp.sum(obs**2))


@correct
class Flagged(Drifting):
    """Builds what it needs at the first call, and notes that it has."""

    def __init__(self) -> None:
        self._built = False
        self._push = np.zeros(2, np.float32)

    def step(self, state: State, action: jax.Array) -> State:
        if not self._built:
            self._push[:] = 0.5, 0.3
            self._built = True
        obs = 0.9 * state.obs + self._push * action[0]
        return state.replace(obs=obs, reward=-jnp.sum(obs**2))


@correct
class Secretive(Drifting):
    """Holds something that can't be looked at."""

    def __init__(self) -> None:
        self._settings = Unreadable()


class Unreadable:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


@correct
class Delayed(Drifting):
    """Actions arrive three steps late; Python's numbers stand in for those before the first."""

    def reset(self, rng: jax.Array) -> State:
        return super().reset(rng).replace(pipeline_state=[0.0, 0.0, 0.0])

    def step(self, state: State, action: jax.Array) -> State:
        queue = state.pipeline_state
        obs = 0.9 * state.obs + 0.1 * queue[-1]
        return state.replace(
            pipeline_state=[action[0], *queue[:-1]], obs=obs, reward=-jnp.sum(obs**2)
        )


@correct
class Masked(Drifting):
    """Keeps the logarithm of what may be chosen next."""

    action_size = 3

    def reset(self, rng: jax.Array) -> State:
        return super().reset(rng).replace(pipeline_state=jnp.zeros(3))

    def step(self, state: State, action: jax.Array) -> State:
        obs = 0.9 * state.obs + 0.1 * (action - 1.0)
        mask = jnp.where(jnp.arange(3) == action, -jnp.inf, 0.0)
        return state.replace(pipeline_state=mask, obs=obs, reward=-jnp.sum(obs**2))


@correct
class Camera(Drifting):
    """Rounds a picture to levels, of which rounding takes one more or less here and there."""

    @property
    def observation_size(self) -> dict[str, tuple[int, ...]]:  # type: ignore[override]
        return {"pixels/view": (96, 96, 3)}

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        return state.replace(pipeline_state=state.obs, obs=self._observe(state.obs))

    def step(self, state: State, action: jax.Array) -> State:
        place = 0.9 * state.pipeline_state + 0.1 * action[0]
        return state.replace(
            pipeline_state=place, obs=self._observe(place), reward=-jnp.sum(place**2)
        )

    def _observe(self, place: jax.Array) -> dict[str, jax.Array]:
        rows, columns = jnp.mgrid[-1:1:96j, -1:1:96j]
        away = jnp.sqrt((rows - place[0]) ** 2 + (columns - place[1]) ** 2)
        disc = jax.nn.sigmoid(20 * (0.3 - away))[..., None] * jnp.cos(jnp.arange(3.0)) ** 2
        return {"pixels/view": (255 * disc).astype(jnp.uint8)}


@correct
class RareNoise(Base):
    """Random once in a hundred steps."""

    observation_size = 1
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        reward, done = zeros(2)
        return State({"key": rng}, jnp.zeros(1), reward, done)

    def step(self, state: State, action: jax.Array) -> State:
        key, draw = jax.random.split(state.pipeline_state["key"])
        jump = jnp.where(jax.random.uniform(draw) < 0.01, 1.0, 0.0)
        obs = 0.9 * state.obs + 0.1 * action[0] + jump
        return state.replace(pipeline_state={"key": key}, obs=obs, reward=-jnp.abs(obs[0]))


@correct
class RandomMap(Base):
    """A new map of walls each episode, in info's place: the state."""

    observation_size = 66
    action_size = 4

    def reset(self, rng: jax.Array) -> State:
        walls = jax.random.bernoulli(rng, 0.2, (8, 8)).at[0, 0].set(False)
        cell = jnp.zeros(2, jnp.int32)
        reward, done = zeros(2)
        return State((walls, cell), self._observe(walls, cell), reward, done, {"far": done})

    def step(self, state: State, action: jax.Array) -> State:
        walls, cell = state.pipeline_state
        there = jnp.clip(cell + jnp.array([[1, 0], [0, 1], [-1, 0], [0, -1]])[action], 0, 7)
        cell = jnp.where(walls[there[0], there[1]], cell, there)
        far = jnp.sum(cell).astype(jnp.float32)
        return state.replace(
            pipeline_state=(walls, cell),
            obs=self._observe(walls, cell),
            reward=far / 14,
            done=as_float(far == 14),
            metrics={**state.metrics, "far": far},
        )

    def _observe(self, walls: jax.Array, cell: jax.Array) -> jax.Array:
        return jnp.concatenate([walls.reshape(-1), cell]).astype(jnp.float32)


@correct
class Physics(Base):
    """Two balls with contact by penalty, many small steps in a scan, as simulators do it."""

    observation_size = 8
    action_size = 2

    def reset(self, rng: jax.Array) -> State:
        place = jax.random.uniform(rng, (2, 2), minval=-1.0, maxval=1.0)
        reward, done = zeros(2)
        state = {"x": place, "v": jnp.zeros((2, 2))}
        return State(state, self._observe(state), reward, done, {"contact": done})

    def step(self, state: State, action: jax.Array) -> State:
        def substep(s: dict[str, jax.Array], _: None) -> tuple[dict[str, jax.Array], jax.Array]:
            apart = s["x"][0] - s["x"][1]
            gap = jnp.sqrt(jnp.sum(apart**2) + 1e-6)
            press = jnp.maximum(0.3 - gap, 0.0)
            force = 200.0 * press * apart / gap
            force = jnp.stack([force + jnp.clip(action, -1, 1), -force]) - 0.5 * s["v"]
            v = s["v"] + 0.01 * force
            return {"x": jnp.clip(s["x"] + 0.01 * v, -2, 2), "v": v}, press

        now, press = jax.lax.scan(substep, state.pipeline_state, None, 10)
        contact = jnp.mean(press)
        return state.replace(
            pipeline_state=now,
            obs=self._observe(now),
            reward=-jnp.sum(now["x"][1] ** 2),
            metrics={**state.metrics, "contact": contact},
        )

    def _observe(self, state: dict[str, jax.Array]) -> jax.Array:
        return jnp.concatenate([state["x"].reshape(-1), state["v"].reshape(-1)])


# NOT OURS: these count double, for nobody here wrote them.


def from_brax(name: str, backend: str) -> Env:
    """One of Brax's own environments.

    `fast` (counts on itself), `inverted_pendulum` (gives a Python number for a reward) and
    `swimmer` (calls what JAX no longer has) don't keep the rules.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Brax's physics are no longer looked after
        return envs.get_environment(name, backend=backend)


def from_gymnax(name: str) -> Env:
    import gymnax  # type: ignore[import-not-found]

    return adapted(gymnax.make(name))  # type: ignore[no-any-return]


BRAX = """
inverted_double_pendulum reacher halfcheetah hopper walker2d ant pusher humanoid humanoidstandup
"""
# SimpleBandit-bsuite can't take a step in 0.0.9: its reset mixes up two of its fields.
GYMNAX = """
CartPole-v1 Pendulum-v1 Acrobot-v1 MountainCar-v0 MountainCarContinuous-v0
Breakout-MinAtar Asterix-MinAtar Freeway-MinAtar SpaceInvaders-MinAtar
Catch-bsuite DeepSea-bsuite MemoryChain-bsuite UmbrellaChain-bsuite DiscountingChain-bsuite
FourRooms-misc PointRobot-misc MetaMaze-misc BernoulliBandit-misc GaussianBandit-misc
Reacher-misc Swimmer-misc Pong-misc
"""

FOREIGN: dict[str, Callable[[], Env]] = {
    f"brax {name} {backend}": functools.partial(from_brax, name, backend)
    for backend in ("spring", "positional", "generalized")
    for name in BRAX.split()
}
FOREIGN |= {f"gymnax {name}": functools.partial(from_gymnax, name) for name in GYMNAX.split()}
