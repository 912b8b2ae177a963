"""Whoever follows what `check` advises gets an environment that passes and trains."""

import linecache
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from checking import check_env
from jax.flatten_util import ravel_pytree
from kit.check import RULES, Violation
from kit.check.stages import Clock
from kit.env.actions import action_space_of
from kit.ppo.networks import make_network_factory
from kit.ppo.settings import PPOConfig
from kit.ppo.task import Task

SOURCE = """
import dataclasses
import enum
import flax
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from pathlib import Path
from brax.envs.base import Env, State
from kit import Continuous, Discrete

ACTION_SPACE = Continuous(2)
Other = dataclasses.make_dataclass('State', State.__dataclass_fields__)
Level = enum.IntEnum('Level', 'EASY HARD')
KEPT = []

class Memory(flax.struct.PyTreeNode):
    position: jax.Array
    key: jax.Array
    count: jax.Array

class Point(Env):
    action_space = ACTION_SPACE

    @property
    def observation_size(self):
        return 2  # numbers

    @property
    def action_size(self):
        return 2  # pushes

    @property
    def backend(self):
        return "abstract"

    def reset(self, rng):
        key, draw = jax.random.split(rng)
        position = jax.random.uniform(draw, (2,), minval=-1.0, maxval=1.0)
        distance = wind = done = reward = jnp.zeros(())
        obs = position
        return State(
            pipeline_state=Memory(position, key, jnp.zeros((), jnp.int32)),
            obs=obs,
            reward=reward,  # reset
            done=done,  # reset
            metrics={'distance': distance},  # reset
            info={'wind': wind},  # reset
        )

    def step(self, state, action):
        memory = state.pipeline_state
        key, draw = jax.random.split(state.pipeline_state.key)
        position = memory.position + 0.1 * action + 0.01 * jax.random.normal(draw, (2,))
        count = memory.count + 1
        distance = jnp.linalg.norm(position)
        wind = 0.1 * action[0]
        reward = -distance
        done = jnp.any(jnp.abs(position) > 1.5).astype(jnp.float32)
        obs = position
        return state.replace(
            pipeline_state=memory.replace(position=position, key=key, count=count),
            obs=obs,
            reward=reward,
            done=done,
            metrics={**state.metrics, 'distance': distance},
            info={**state.info, 'wind': wind},
        )
"""


@dataclass(frozen=True)
class Case:
    """A defect and how its advice is followed.

    Attributes:
      rule: the rule that it breaks.
      breaks: what to replace in `SOURCE`, by what.
      fixes: what to replace then: by the code that is advised where it is None, or, where the
        advice is a sentence, by what follows from it.
      says: what such a sentence has to contain.
      then: what is fixed after that, by the advice of other rules: rule -> `fixes`.
      episode_length: that of the check and of training after the fix, where the advice is about it.
    """

    rule: str
    breaks: Mapping[str, str]
    fixes: Mapping[str, str | None]
    says: str = ""
    then: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    episode_length: int = 40


STEP = "        count = memory.count + 1\n"  # where lines are added to `step`
RESET = "        key, draw = jax.random.split(rng)\n"
OBS = "obs = position\n"
DONE = "done = jnp.any(jnp.abs(position) > 1.5).astype(jnp.float32)"
START = "jax.random.uniform(draw, (2,), minval=-1.0, maxval=1.0)"
SPLIT = "key, draw = jax.random.split(state.pipeline_state.key)"
NOISE = "0.01 * jax.random.normal(draw, (2,))"
MEMORY = "            pipeline_state=memory.replace(position=position, key=key, count=count),\n"
README = Path(__file__).parents[2] / "README.md"
READ = f"Path({str(README)!r}).read_text()"
RETURNED = "obs=obs,\n            reward=reward,\n"
METRICS = "metrics={**state.metrics, 'distance': distance}"
INFO = "info={**state.info, 'wind': wind}"

CASES = [
    Case(
        "step-runs",
        {
            "reward = -distance": "condition, a, b = distance > 1, distance, -distance\n"
            "        reward = a if condition else b"
        },
        {"a if condition else b": None},
    ),
    Case(
        "step-runs",
        {"reward = -distance": "x = distance\n        reward = np.sin(x)"},
        {"np.sin(x)": None},
    ),
    Case(
        "step-runs",
        {
            "reward = -distance": "table, index = [0.0, 1.0], (distance > 1).astype(int)\n"
            "        reward = table[index]"
        },
        {"table[index]": None},
    ),
    Case(
        "step-runs",
        {"reward = -distance": "x = -distance\n        reward = float(x)"},
        {"float(x)": None},
    ),
    Case(
        "step-runs",
        {STEP: STEP + "        far = state.info['far']\n"},
        {"info={'wind': wind},": "info={'wind': wind, 'far': wind},"},
        "add 'far' to state.info in reset too",
    ),
    Case(
        "reset-runs",
        {RESET: RESET + "        undefined\n"},
        {"        undefined\n": ""},
        "define or import undefined",
    ),
    Case(
        "returns-state",
        {"        return State(\n": "        return obs, {}\n        return State(\n"},
        {"        return obs, {}\n": "", "        return State(\n": "        return State(\n"},
        "return State(pipeline_state, obs, reward, done, metrics, info)",
    ),
    Case(
        "returns-state",
        {"        return state.replace(": "        return (obs,)\n        return state.replace("},
        {"return (obs,)": None},
    ),
    Case(
        "returns-state",
        {"info={'wind': wind},": "info={'wind': wind, 'level': 'easy'},"},
        {", 'level': 'easy'": ""},
        "leave info['level'] out of the state",
    ),
    Case(
        "observation-size",
        {"return 2  # numbers": "return 3  # numbers"},
        {"return 3": None},
    ),
    Case(
        "observation-size",
        {OBS: "obs = jnp.outer(position, position)\n"},
        {"obs=obs": None},
        then={"observation-size": {"return 2  # numbers": None}},
    ),
    Case(
        "action-size",
        {"return 2  # pushes": "return (2,)"},
        {"return (2,)": None},
    ),
    Case(
        "action-size",
        {
            "Continuous(2)": "Continuous(5)",
            "return 2  # pushes": "return ACTION_SPACE.size  # pushes",
        },
        {"ACTION_SPACE = Continuous(5)": None},
    ),
    Case(
        "action-size",
        {
            "    action_space = ACTION_SPACE\n": "",
            "return 2  # pushes": "return 5",
            "0.1 * action +": "0.1 * (jnp.eye(2) @ action) +",
        },
        {"return 5": None},
    ),
    Case("backend", {'return "abstract"': "return None"}, {"return None": None}),
    Case(
        "backend",
        {'return "abstract"': "raise NotImplementedError"},
        {"raise NotImplementedError": 'return "abstract"'},
        "correct point.py:",
    ),
    Case(
        "reward-scalar",
        {"reward = -distance": "reward = -jnp.abs(position)"},
        {"reward=reward,\n": None},
    ),
    Case("reward-scalar", {"reward = -distance": "reward = 1.0"}, {"reward=reward,\n": None}),
    Case(
        "done-scalar",
        {"jnp.any(jnp.abs(position) > 1.5)": "(jnp.abs(position) > 1.5)"},
        {"done=done,\n": None},
    ),
    Case(
        "done-scalar",
        {DONE: "done = jnp.any(jnp.abs(position) > 1.5)"},
        {"done=done,\n": None},
    ),
    Case(
        "reset-at-zero",
        {"reward=reward,  # reset": "reward=position[0],  # reset"},
        {"reward=position[0],": None},
    ),
    Case("done-binary", {"done = jnp.any": "done = 2 * jnp.any"}, {"done=done,\n": None}),
    Case(
        "done-binary",
        {DONE: "done = jax.nn.sigmoid(5 * distance - 5)"},
        {"done=done,\n": None},
    ),
    Case(
        "observation-type",
        {OBS: "obs = jnp.round(9 * position).astype(jnp.int32)\n"},
        {"obs=obs": "obs={fix}"},
    ),
    Case(
        "observation-type",
        {
            OBS: "obs = {'state': position, 'camera': jnp.outer(position, position)}\n",
            "return 2  # numbers": "return {'state': 2, 'camera': (2, 2)}  # numbers",
        },
        {
            "'camera': jnp.outer(position, position)}": "'camera': jnp.outer(position, position)}\n"
            "        obs['camera'] = obs['camera'].reshape(-1)"
        },
        "obs['camera'].reshape(-1)",
        {"observation-size": {"return {'state': 2, 'camera': (2, 2)}": None}},
    ),
    Case(
        "observation-type",
        {
            OBS: "obs = {'state': position, 'far': {'away': position}}\n",
            "return 2  # numbers": "return {'state': 2, 'far': {'away': 2}}  # numbers",
        },
        {
            "obs=obs": None,
            "return {'state': 2, 'far': {'away': 2}}": "return {'far/away': 2, 'state': 2}",
        },
        "observation_size = {'far/away': 2, 'state': 2}",
    ),
    Case(  # SB3#1003: right at once, sizes and dtypes too
        "observation-type",
        {
            OBS: "far = position * position[:, None]\n"
            "        obs = {'goal': (position, count), 'robot': {'a': far}}\n",
            "return 2  # numbers": "return {'goal': 2, 'robot': 2}  # numbers",
            "distance = wind =": "count = jnp.int32(0)\n        distance = wind =",
        },
        {
            "obs=obs": None,
            "return {'goal': 2, 'robot': 2}": "return {'goal/0': 2, 'goal/1': 1, 'robot/a': 4}",
        },
        "observation_size = {'goal/0': 2, 'goal/1': 1, 'robot/a': 4}",
    ),
    Case(  # observation_size counts the choices, as in Gymnasium's FrozenLake
        "observation-size",
        {OBS: "obs = (position[0] > 0).astype(jnp.int32)\n"},
        {"obs=obs": None},
        "jax.nn.one_hot(obs, 2)",
    ),
    Case(
        "observation-size",
        {OBS: "obs = (position > 0).astype(jnp.int32)\n", "return 2  # num": "return 6  # num"},
        {"obs=obs": None},
        "jax.nn.one_hot(obs, 3).reshape(-1)",
    ),
    Case(
        "observation-size",
        {OBS: "obs = count\n", "return 2  # numbers": "return 1  # numbers"}
        | {"distance = wind =": "count = jnp.int32(0)\n        distance = wind ="},
        {"obs=obs": None},
        "obs.reshape(-1).astype(jnp.float32)",
    ),
    Case(  # SB3#1588 and Gymnasium's tutorials
        "action-size",
        {"ACTION_SPACE = Continuous(2)": "ACTION_SPACE = gymnasium.spaces.Box(-1, 1, (2,))"},
        {"gymnasium.spaces.Box(-1, 1, (2,))": "Continuous(2)"},
        "use Continuous(2), numbers in [-1, 1]",
    ),
    Case(
        "reset-runs",
        {"def reset(self, rng)": "def reset(self, key, params)"},
        {"def reset(self, key, params):": "{fix}"},
        "def reset(self, rng: jax.Array) -> State:",
    ),
    Case(
        "step-runs",
        {"def step(self, state, action)": "def step(self, key, state, action, params=None)"},
        {"def step(self, key, state, action, params=None):": "{fix}"},
        "a key belongs in pipeline_state, and constants on self",
    ),
    Case(
        "returns-state",
        {"        return State(\n": "        return Other(\n"},
        {"        return Other(\n": "        {fix}\n        return State(\n"},
        "from brax.envs.base import State",
    ),
    Case(
        "returns-state",
        {"class Memory(flax.struct.PyTreeNode)": "@dataclasses.dataclass\nclass Memory"},
        {"@dataclasses.dataclass\nclass Memory": "class Memory(flax.struct.PyTreeNode)"},
        "class Memory(flax.struct.PyTreeNode)",
    ),
    Case(
        "returns-state",
        {"info={'wind': wind},": "info={'wind': wind, 'level': Level.EASY},"},
        {"Level.EASY": "jnp.int32(1)"},
        "info['level']: jnp.int32(1)",
    ),
    Case(
        "returns-state",
        {"info={'wind': wind},": "info={'wind': wind, 'seen': {1, 2}},"},
        {"{1, 2}": "jnp.zeros(3, bool).at[jnp.array([1, 2])].set(True)"},
        "jnp.zeros(n, bool)  # a mask of n",
    ),
    Case(
        "is-made",
        {"class Point(Env):\n": "class Point(Env):\n    def __init__(self, size):\n        pass\n"},
        {"self, size)": "self, size=2)"},
        "give 'size' a default",
    ),
    Case(
        "is-made",
        {
            "class Point(Env):\n": "class Point(Env):\n    def __init__(self):\n"
            "        import nothing_here\n"
        },
        {"import nothing_here": "pass"},
        "install nothing_here, and add it to pyproject.toml",
    ),
    Case(
        "observation-type",
        {
            OBS: "obs = {'state': position, 'pixels/view': jnp.outer(position, position)}\n",
            "return 2  # numbers": "return {'state': 2, 'pixels/view': (2, 2)}  # numbers",
        },
        {
            "jnp.outer(position, position)}": "jnp.broadcast_to(position[0], (16, 16, 1))}",
            "(2, 2)}": "(16, 16, 1)}",
        },
        "uint8 or float32 of shape (height, width, channels)",
    ),
    Case(
        "metric-scalar",
        {
            "distance = jnp.linalg.norm(position)": "distance = position**2",
            "reward = -distance": "reward = -distance[0]",
            "distance = wind =": "distance = jnp.zeros(2)\n        wind =",
        },
        {"'distance': distance": None},
    ),
    Case(
        "reserved-keys", {"'wind'": "'steps'"}, {"'steps'": "'my_steps'"}, "'steps' to 'my_steps'"
    ),
    Case("wrapper-keys", {INFO: "info={'wind': +wind}"}, {"info={'wind': +wind}": None}),
    Case(
        "wrapper-keys",
        {METRICS: "metrics=jax.tree.map(lambda x: 0 * x, state.metrics)"},
        {"metrics=jax.tree.map(lambda x: 0 * x, state.metrics)": None},
    ),
    Case(
        "wrapper-keys",
        {
            f"{METRICS},\n            {INFO}": "metrics=(lambda distance: {'distance': distance})"
            "(**state.metrics),\n            info=state.info"
        },
        {
            "metrics=(lambda distance: {'distance': distance})(**state.metrics),\n"
            "            info=state.info": None
        },
    ),
    Case(
        "reserved-keys",
        {"'distance'": "'reward'"},
        {"'reward'": "'my_reward'"},
        "'reward' to 'my_reward'",
    ),
    Case(
        "state-structure",
        {METRICS: METRICS[:-1] + ", 'late': wind}"},
        {"'distance': distance},  # reset": None},
    ),
    Case(
        "state-structure",
        {INFO: "info={k: v for k, v in state.info.items() if k != 'wind'}"},
        {"info={k: v for k, v in state.info.items() if k != 'wind'}": None},
    ),
    Case(
        "state-structure",
        {"memory.replace(position": "dict(position"},
        {"dict(position": "memory.replace(position"},
        "pipeline_state",
    ),
    Case(
        "state-shapes",
        {RETURNED: "obs=jnp.append(obs, 1.0),\n            reward=reward,\n"},
        {"jnp.append(obs, 1.0)": "obs"},
        "return obs with shape (2,)",
    ),
    Case(
        "state-shapes",
        {RETURNED: "obs=obs.astype(jnp.float16),\n            reward=reward,\n"},
        {"obs.astype(jnp.float16)": None},
    ),
    Case(
        "state-structure",
        {
            "count: jax.Array": "count: int = flax.struct.field(pytree_node=False)",
            "jnp.zeros((), jnp.int32)": "0",
        },
        {
            "count: int = flax.struct.field(pytree_node=False)": None,
            "key, 0)": "key, jnp.zeros((), jnp.int32))",
        },
    ),
    Case(
        "no-self-write",
        {
            STEP: "        self.n = getattr(self, 'n', 0) + 1\n        count = memory.count"
            " + self.n\n"
        },
        {"        self.n = getattr(self, 'n', 0) + 1\n": "", "self.n": "1"},
        "keep it in pipeline_state",
    ),
    Case(  # a curriculum, which outlives episodes
        "no-self-write",
        {
            STEP: "        self.level = getattr(self, 'level', 0) + 1\n" + STEP,
            "reward = -distance": "reward = -distance * self.level",
        },
        {
            "        self.level = getattr(self, 'level', 0) + 1\n": "",
            "class Point(Env):\n": "class Point(Env):\n    preserve_info = ('level',)\n",
            "distance * self.level": "distance * state.info['level']",
            "info={'wind': wind},": "info={'wind': wind, 'level': jnp.float32(1)},",
            INFO: "info={**state.info, 'wind': wind, 'level': state.info['level'] + done}",
        },
        "in info, with preserve_info = ('level',) in the class",
    ),
    Case(
        "no-tracer-leak",
        {STEP: STEP + "        KEPT.append(distance)\n".replace("distance", "key")},
        {"        KEPT.append(key)\n": ""},
        "instead of keeping it elsewhere",
    ),
    Case(
        "host-randomness",
        {
            NOISE: "0.01 * np.random.rand()",
            SPLIT: "next_key = key = state.pipeline_state.key",
        },
        {
            "np.random.rand()": None,
            "next_key = key = state.pipeline_state.key": SPLIT.replace(
                "key, draw", "next_key, key"
            ),
            "key=key": "key=next_key",
        },
    ),
    Case(
        "given-state-kept",
        {
            STEP: STEP + "        state.info['wind'] += action[0]\n",
            "wind = 0.1 * action[0]": "wind = state.info['wind']",
        },
        {
            "        state.info['wind'] += action[0]\n": "",
            "wind = state.info['wind']": "wind = state.info['wind'] + action[0]",
        },
        "instead of writing to info['wind']",
    ),
    Case(
        "state-in-place",
        {STEP: STEP + "        state.info['wind'] = action[0]\n"},
        {"        state.info['wind'] = action[0]\n": ""},
        "state.replace(info=...)",
    ),
    Case(
        "same-bits",
        {
            "wind = 0.1 * action[0]": "traced = isinstance(action, jax.core.Tracer)\n"
            "        wind = action[0] if traced else 9 + action[0]"
        },
        {"traced = isinstance(action, jax.core.Tracer)": "traced = True"},
        "no isinstance(x, jax.core.Tracer)",
    ),
    Case(
        "same-bits",
        {
            "reward = -distance": "shape = jax.ShapeDtypeStruct((), jnp.float32)\n"
            "        f = lambda x: KEPT.append(x) or np.float32(len(KEPT))\n"
            "        reward = jax.pure_callback(f, shape, distance, vmap_method='sequential')"
        },
        {"KEPT.append(x) or np.float32(len(KEPT))": "np.float32(-x)"},
        "remove what it remembers outside of the state: a callback's memory",
    ),
    Case(
        "key-used",
        {
            "split(rng)": "split(jax.random.PRNGKey(0))",
            START: "jax.random.uniform(draw, (2,))",
        },
        {"split(jax.random.PRNGKey(0))": "split(rng)"},
        "jax.random.uniform(rng)",
    ),
    Case(
        "key-moves-on",
        {SPLIT: "key = draw = state.pipeline_state.key"},
        {"key = draw = state.pipeline_state.key": None},
    ),
    Case(
        "start-varies",
        {START: "jnp.zeros(2)"},
        {"jnp.zeros(2)": "jax.random.uniform(rng, (2,), minval=-0.1, maxval=0.1)"},
        "jax.random.uniform(rng, shape, minval=-0.1, maxval=0.1)",
    ),
    Case(
        "auto-reset",
        {"reward = -distance": "reward = state.reward - distance"},
        {"reward = state.reward - distance": "reward = -distance - 0.01 * count"},
        "keep it in pipeline_state",
    ),
    Case(
        "runs-under-vmap",
        {
            "reward = -distance": "f = lambda x: np.float32(x)\n        shape = "
            "jax.ShapeDtypeStruct((), jnp.float32)\n        x = -distance\n"
            "        reward = jax.pure_callback(f, shape, x)"
        },
        {"jax.pure_callback(f, shape, x)": None},
    ),
    Case(
        "vmap-equals-loop",
        {
            "reward = -distance": "f = lambda x: np.full_like(x, np.sum(x))\n"
            "        shape = jax.ShapeDtypeStruct((), jnp.float32)\n        x = -distance\n"
            "        reward = jax.pure_callback(f, shape, x, vmap_method='broadcast_all')"
        },
        {"jax.pure_callback(f, shape, x, vmap_method='broadcast_all')": None},
    ),
    Case(
        "finite",
        {"reward = -distance": "x = position[0]\n        reward = jnp.sqrt(x)"},
        {"jnp.sqrt(x)": "jnp.sqrt(jnp.maximum(x, 0.0))"},
        "jnp.sqrt(jnp.maximum(x, 0.0))",
    ),
    Case(
        "finite",
        {"reward = -distance": "x, y = distance, 1.0 * (distance > 1)\n        reward = x / y"},
        {"x / y": "x / jnp.maximum(y, 1e-6)"},
        "x / jnp.maximum(y, 1e-6)",
    ),
    Case(
        "finite",
        {
            "wind = 0.1 * action[0]": "VMAX, v = 9.0, 0.5 + 1e9 * state.info['wind'] ** 2\n"
            "        wind = v"
        },
        {"wind = v": "wind = jnp.clip(v, -VMAX, VMAX)"},
        "jnp.clip(v, -VMAX, VMAX)",
    ),
    Case(
        "runs-compiled",
        {
            "reward = -distance": "shape = jax.ShapeDtypeStruct((), jnp.float32)\n"
            "        def f(x):\n            return np.float32(-x) + KEPT[0]\n"
            "        reward = jax.pure_callback(f, shape, distance, vmap_method='sequential')"
        },
        {"return np.float32(-x) + KEPT[0]": "return np.float32(-x)"},
        "correct point.py:",
    ),
    Case(
        "survives-wrappers",
        {
            "reward = -distance": "reward = -distance\n        if 'steps' in state.info:\n"
            "            reward = reward - state.info['steps'][None]"
        },
        {"state.info['steps'][None]": "0.01 * state.info['steps']"},
        "in the same shapes",
    ),
    Case(
        "survives-wrappers",
        {
            RESET: "        import traceback\n        shift = '_restart' in "
            "[frame.name for frame in traceback.extract_stack()]\n" + RESET,
            "distance = wind =": "position = position + shift\n        distance = wind =",
        },
        {"        position = position + shift\n": ""},
        "let reset depend on its key alone",
    ),
    Case(
        "metric-per-step",
        {METRICS: "metrics={**state.metrics, 'distance': state.metrics['distance'] + reward}"},
        {"'distance': state.metrics['distance'] + reward": "'distance': reward"},
        "give 'distance' what this step adds",
    ),
    Case(
        "index-in-range",
        {
            "reward = -distance": "array, index = jnp.arange(5.0), count\n"
            "        reward = array[index] - distance"
        },
        {"array[index]": "array[jnp.clip(index, 0, len(array) - 1)]"},
        "jnp.clip(index, 0, len(array) - 1)",
    ),
    Case(
        "action-matters",
        {"0.1 * action +": "0.1 * action[0] +"},
        {
            "Continuous(2)": "Continuous(1)",
            "return 2  # pushes": "return 1  # pushes",
        },
        "lower the size of the action space",
    ),
    Case(
        "action-matters",
        {
            "Continuous(2)": "Discrete(3)",
            "return 2  # pushes": "return 3  # pushes",
            "0.1 * action +": "0.1 * jnp.array([-1.0, 1.0])[jnp.minimum(action, 1)] +",
            "0.1 * action[0]": "0.1 * (action == 0)",
        },
        {"Discrete(3)": "Discrete(2)", "return 3  # pushes": "return 2  # pushes"},
        "lower the size of the action space",
    ),
    Case(
        "episode-ends",
        {DONE: "done = (count >= 100).astype(jnp.float32)"},
        {},
        "raise episode_length",
        episode_length=200,
    ),
    Case(
        "one-step-episode",
        {DONE: "done = jnp.ones(())"},
        {"done=done,\n": None},
    ),
    Case(
        "observation-scale",
        {OBS: "obs = position * jnp.array([1.0, 2e4])\n"},
        {
            "        return State": "        {fix}\n        return State",
            "        return state.replace": "        {fix}\n        return state.replace",
        },
    ),
    Case(
        "observation-scale",
        {
            OBS: "x, y = position\n        obs = jnp.stack([x, y, 7.0])\n",
            "return 2  # numbers": "return 3  # numbers",
        },
        {"jnp.stack([x, y, 7.0])": "jnp.stack([x, y])", "return 3": "return 2"},
        "obs=jnp.stack([x, y])",
    ),
    Case(
        "observation-scale",
        {
            OBS: "obs = (position[0] * jnp.ones((10, 10, 1)) * jnp.array([1, 0])).reshape(-1)\n",
            "return 2  # numbers": "return 200  # numbers",
        },
        {"jnp.array([1, 0])": "jnp.array([1])", "return 200": "return 100"},
        "leave it out of the image",
    ),
    Case(
        "weak-type",
        {
            ".astype(jnp.float32)\n        obs": ".astype(jnp.float32)\n        done = "
            "jnp.where(done > 0, 1.0, 0.0)\n        obs"
        },
        {"done=done,\n": "done={fix},\n"},
    ),
    Case("leaf-width", {OBS: "obs = position.astype(jnp.float16)\n"}, {"obs=obs": "obs={fix}"}),
    Case(
        "info-state",
        {"wind = 0.1 * action[0]": "wind = state.info['wind'] + action[0]"},
        {
            f"            {INFO},\n": "",
            "            info={'wind': wind},  # reset\n": "",
            "wind = state.info['wind'] + action[0]": "",
        },
        "move wind to pipeline_state",
    ),
    Case(
        "info-state",
        {"wind = 0.1 * action[0]": "wind = state.info['wind'] + action[0]"},
        {"class Point(Env):\n": "class Point(Env):\n    preserve_info = ('wind',)\n"},
        "stays in info, with preserve_info = ('wind',) in the class",
    ),
    Case(
        "step-changes",
        {
            "        return state.replace(": "        state.replace(",
            f"            {INFO},\n        )\n": f"            {INFO},\n        )\n"
            "        return state\n",
        },
        {"        state.replace(": "        return state.replace("},
        "return a new value and leave the old one as it is",
    ),
    Case(
        "step-remembers",
        {MEMORY: ""},
        {"state.replace(\n": f"state.replace(\n{MEMORY}"},
        "return state.replace(pipeline_state=..., ...)",
    ),
    Case(
        "no-nan-constant",
        {"reward = -distance": "reward = -distance * jnp.array([1.0, 1.0, jnp.nan])[count % 2]"},
        {"jnp.nan": "1.0"},
        "assert not np.any(np.isnan(table))",
    ),
    Case(
        "no-file-read",
        {"reward = -distance": f"reward = -distance * len({READ})"},
        {
            f"len({READ})": "self.size",
            "    def reset(self": f"    def __init__(self):\n        self.size = len({READ})\n\n"
            "    def reset(self",
        },
        "in __init__",
    ),
    Case(
        "input-scale",
        {
            OBS: "obs = 250.0 * jnp.ones(99) + position[0]\n",
            "return 2  # numbers": "return 99  # numbers",
        },
        {"obs = 250.0 * jnp.ones(99)": "obs = 250.0 / 255 * jnp.ones(99)"},
        "/ 255",
    ),
    Case(
        "host-callback",
        {STEP: STEP + "        jax.debug.print('{}', distance)\n".replace("distance", "action")},
        {"        jax.debug.print('{}', action)\n": ""},
        "remove it",
    ),
]


def environment(source: str) -> Any:
    """The class, whose source can be read."""
    names: dict[str, Any] = {"__name__": "broken"}
    linecache.cache["point.py"] = len(source), None, source.splitlines(True), "point.py"
    exec(compile(source, "point.py", "exec"), names)
    return names["Point"]


def replaced(source: str, edits: Mapping[str, str | None], fix: str) -> str:
    code = fix.split("  #")[0]
    for old, new in edits.items():
        if old not in source:
            continue
        end = ",\n" if old.endswith(",\n") else ""
        tail = old[old.index("\n") :] if old.count("\n") > 1 else ""
        if new is None:
            lead = "'distance': distance, " if old == "'distance': distance},  # reset" else ""
            new = lead + code + ("},  # reset" if lead else end or tail or "," * old.endswith(","))
        source = source.replace(old, new.replace("{fix}", code))
    return source


@cache
def checked(source: str, episode_length: int = 40) -> list[Violation]:
    return check_env(environment(source), episode_length=episode_length)


@cache
def assert_trains(source: str, episode_length: int) -> None:
    env = environment(source)()
    settings = PPOConfig(
        episode_length=episode_length,
        num_envs=4,
        unroll_length=50,
        batch_size=4,
        num_minibatches=1,
        num_updates_per_batch=1,
    )
    # Images would need an encoder.
    size = env.observation_size
    vectors = [k for k in size if k[:7] != "pixels/"] if isinstance(size, dict) else None
    factory = make_network_factory(
        action_space_of(env),
        policy_obs_keys=vectors,
        value_obs_keys=vectors,
        policy_hidden_layer_sizes=(8,),
        value_hidden_layer_sizes=(8,),
    )
    ppo = Task(lambda: env, settings, factory).make_ppo()

    def train() -> Any:
        begun = ppo.init(np.uint32(0))
        # If the reward is constant, the value starts exact: the first update leaves it as it is,
        # the second changes its output weights, which start at 0, and the third all weights.
        state, metrics = ppo.epoch(begun, np.int32(3))
        return begun.params, state.params, metrics

    before, after, metrics = jax.jit(train)()
    for network in ("policy", "value"):
        old, _ = ravel_pytree(getattr(before, network))
        new, _ = ravel_pytree(getattr(after, network))
        assert np.all(np.isfinite(new))
        assert np.mean(new != old) > 0.5, network
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(metrics)), metrics


def advice(source: str, rule: str) -> str:
    found = [v for v in checked(source) if v.rule == rule]
    assert found, checked(source)
    return found[0].fix


def cases() -> list[Any]:
    """All of them, those behind the first of a rule among the long tests."""
    seen = [case.rule for case in CASES]
    return [
        pytest.param(
            case,
            id=f"{case.rule}-{i}",
            marks=[pytest.mark.long] if case.rule in seen[:i] else [],
        )
        for i, case in enumerate(CASES)
    ]


def repaired(case: Case) -> str:
    """The source of an environment in which what is advised has been done."""
    source = replaced(SOURCE, case.breaks, "")
    assert source != SOURCE
    fix = advice(source, case.rule)
    assert case.says in fix
    if line := re.match(r"correct point\.py:(\d+)", fix):
        assert source.splitlines()[int(line[1]) - 1].strip() in "".join(case.fixes)
    source = replaced(source, case.fixes, fix)
    for rule, edits in case.then.items():
        source = replaced(source, edits, advice(source, rule))
    return source


@pytest.mark.slow
@pytest.mark.parametrize("case", cases())
def test_advice_leads_to_an_environment_that_passes(case: Case) -> None:
    left = checked(repaired(case), case.episode_length)
    assert not [v for v in left if v.severity == "error" or v.rule == case.rule], left


@pytest.mark.long
@pytest.mark.parametrize("case", cases())
def test_advice_leads_to_an_environment_that_trains(case: Case) -> None:
    assert_trains(repaired(case), case.episode_length)


def test_the_time_limit_that_is_advised_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that counts steps, of which each takes 10 ms."""
    steps = 0

    def over(self: Clock, share: float = 1.0) -> bool:
        nonlocal steps
        steps += share < 1  # the whole limit is asked for by the thread that waits
        return share < 1 and steps > 100 * share * self.limit

    monkeypatch.setattr(Clock, "over", over)
    (violation,) = check_env(environment(SOURCE), episode_length=40, time_limit=0.3)
    assert violation.rule == "check-finished"
    steps, limit = 0, float(violation.fix.removeprefix("check --time-limit "))
    assert check_env(environment(SOURCE), episode_length=40, time_limit=limit) == []


def test_every_rule_has_its_advice_tested() -> None:
    elsewhere = {"check-finished", "wrap-env-fn", "randomization"}  # above, and in test_wrapping.py
    assert {rule.id for rule in RULES} - {case.rule for case in CASES} == elsewhere
