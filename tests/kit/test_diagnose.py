"""The planner near known optima, planted faults, and what the command says."""

import dataclasses
import types
from pathlib import Path
from typing import Any

import faults
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import Env, State
from faults import FAULTS, SOUND, Case
from kit import cli, runs
from kit.actions import Continuous, Discrete, MultiDiscrete
from kit.diagnose import Evidence, constant_actions, diagnose, findings, verdict
from kit.planner import Outcome, with_other_keys
from kit.task import Task
from toys import SPACES, toy_task

# One of each finding; the others take long.
FAST = (
    "CartPole, sign of the reward",
    "CartPole, action ignored",
    "Maze, goal off the board",
    "MountainCar, time limit 70",
    "Catch, paid for any end",
    "Maze, observation without the goal",
    "skeleton, reward 0",
)
FAST_SOUND = ("skeleton", "Catch", "Maze")


def long_but(fast: tuple[str, ...], names: Any) -> list[Any]:
    return [pytest.param(x, marks=[] if x in fast else [pytest.mark.long]) for x in names]


@pytest.mark.parametrize("name", long_but(FAST, FAULTS))
def test_a_planted_fault_is_found_first(name: str) -> None:
    assert next(iter(findings(diagnose(FAULTS[name].task)))) == FAULTS[name].finding


@pytest.mark.parametrize("name", long_but(FAST_SOUND, SOUND))
def test_a_sound_task_gives_no_alarm(name: str) -> None:
    seen = diagnose(SOUND[name])
    assert findings(seen) == {}
    assert verdict(seen).startswith("Nothing is wrong with the task")
