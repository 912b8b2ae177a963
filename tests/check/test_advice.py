"""Whoever follows what `check` advises gets an environment that passes and trains."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
import pytest
from kit.check import RULES, Violation, check_env
from kit.networks import make_network_factory
from kit.ppo import PPOConfig, make_ppo

SOURCE = """
import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State
from kit.actions import Continuous, Discrete

ACTION_SPACE = Continuous(2)
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
    """

    rule: str
    breaks: dict[str, str]
    fixes: dict[str, str | None]
    says: str = ""
    then: dict[str, dict[str, str | None]] = field(default_factory=dict)


STEP = "        count = memory.count + 1\n"  # where lines are added to `step`
RESET = "        key, draw = jax.random.split(rng)\n"
OBS = "obs = position\n"
DONE = "done = jnp.any(jnp.abs(position) > 1.5).astype(jnp.float32)"
START = "jax.random.uniform(draw, (2,), minval=-1.0, maxval=1.0)"
SPLIT = "key, draw = jax.random.split(state.pipeline_state.key)"
NOISE = "0.01 * jax.random.normal(draw, (2,))"
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
        "add that key in reset",
    ),
    Case(
        "reset-runs",
        {RESET: RESET + "        undefined\n"},
        {"        undefined\n": ""},
        "correct Point",
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
    Case("backend", {'return "abstract"': "return None"}, {"return None": None}),
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
        "metrics-keys",
        {METRICS: METRICS[:-1] + ", 'late': wind}"},
        {"'distance': distance},  # reset": None},
    ),
    Case(
        "info-keys",
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
        "state-dtypes",
        {RETURNED: "obs=obs.astype(jnp.float16),\n            reward=reward,\n"},
        {"obs.astype(jnp.float16)": None},
    ),
    Case(
        "one-trace",
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
        "metric-per-step",
        {METRICS: "metrics={**state.metrics, 'distance': state.metrics['distance'] + reward}"},
        {"'distance': state.metrics['distance'] + reward": None},
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
        "host-callback",
        {STEP: STEP + "        jax.debug.print('{}', distance)\n".replace("distance", "action")},
        {"        jax.debug.print('{}', action)\n": ""},
        "remove it",
    ),
]
LITERAL = {"runs-compiled", "survives-wrappers", "time-limit", "episode-ends"}  # sentences


def environment(source: str) -> Any:
    names: dict[str, Any] = {"__name__": "broken"}
    exec(compile(source, "<string>", "exec"), names)
    return names["Point"]()


def replaced(source: str, edits: dict[str, str | None], fix: str) -> str:
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
def checked(source: str) -> list[Violation]:
    return check_env(environment(source), episode_length=40)


@cache
def trains(source: str) -> bool:
    """Traces an update, which is where PPO refuses what it can't train."""
    env = environment(source)
    settings = PPOConfig(
        episode_length=40,
        num_timesteps=64,
        num_envs=4,
        unroll_length=4,
        batch_size=4,
        num_minibatches=1,
        num_updates_per_batch=1,
        num_eval_envs=2,
    )
    ppo = make_ppo(env, settings, make_network_factory(env.action_space))
    jax.eval_shape(ppo.update, jax.eval_shape(ppo.init, 0))
    return True


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


@pytest.mark.parametrize("case", cases())
def test_advice_leads_to_an_environment_that_passes_and_trains(case: Case) -> None:
    source = replaced(SOURCE, dict(case.breaks), "")
    assert source != SOURCE
    fix = advice(source, case.rule)
    assert case.says in fix
    source = replaced(source, case.fixes, fix)
    for rule, edits in case.then.items():
        source = replaced(source, edits, advice(source, rule))
    left = checked(source)
    assert not [v for v in left if v.severity == "error" or v.rule == case.rule], left
    assert trains(source)


def test_every_rule_has_its_advice_tested() -> None:
    assert {rule.id for rule in RULES} - {case.rule for case in CASES} == LITERAL
