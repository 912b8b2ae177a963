"""Planted faults are found, sound tasks give no alarm, and the command says so in a sentence."""

import dataclasses
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import State
from faults import FAULTS, FORESIGHT, SOUND
from kit import cli
from kit.env.actions import Discrete
from kit.env.episodes import random_policy
from kit.env.wrappers import wrap_for_evaluation
from kit.run import folder
from kit.tools.diagnose.diagnose import diagnose
from kit.tools.diagnose.evidence import Evidence
from kit.tools.diagnose.findings import findings, verdict
from kit.tools.diagnose.planner import Planner
from kit.tools.diagnose.reads import reading_of
from kit.tools.diagnose.trials import Outcome, with_other_keys
from toys import SPACES, Toy, toy_task

# The others take minutes together.
FAST = ("Catch, paid for any end", "Maze, observation without the goal")
FAST_SOUND = ("Catch",)


def others_long(fast: tuple[str, ...], names: Any) -> list[Any]:
    return [pytest.param(x, marks=[] if x in fast else [pytest.mark.long]) for x in names]


@pytest.mark.parametrize("name", others_long(FAST, FAULTS))
def test_a_planted_fault_is_found_first(name: str) -> None:
    seen = diagnose(FAULTS[name].task, minutes=10)
    assert next(iter(findings(seen)), None) == FAULTS[name].finding


THRESHOLDS = {"CartPole": 475, "Pendulum": -200, "Acrobot": -100, "MountainCarContinuous": 90}


@pytest.mark.parametrize("name", others_long(FAST_SOUND, SOUND))
def test_a_sound_task_gives_no_alarm(name: str) -> None:
    seen = diagnose(SOUND[name], minutes=10)
    assert findings(seen) == {}
    if name != "FrozenLake":  # so slippery that the planner is weak
        assert verdict(seen).startswith("Nothing is wrong with the task")
    assert seen.mean("planner") >= THRESHOLDS.get(name, -np.inf)  # as published


@pytest.mark.parametrize("kind", SPACES)
def test_the_planner_beats_a_known_policy_with_every_kind_of_action(kind: str) -> None:
    """Toy: a push of up to 0.1 for each component takes the point towards 0."""
    space = SPACES[kind]
    env = wrap_for_evaluation(Toy(space), episode_length=8)
    start = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(3), 4))
    planner = Planner(env, space, num_plans=64)
    outcome = planner.run(start, jax.random.PRNGKey(0), horizon=8, limit=8)
    assert outcome is not None
    x = np.abs(np.asarray(start.pipeline_state["x"]))
    if kind == "continuous":  # two components, which can be as small as need be
        best = -np.maximum(x[:, None] - 0.2 * np.arange(1, 9), 0).sum(axis=1).mean()
        nothing = -8 * x.mean()
        assert (best - outcome.returns.mean()) / (best - nothing) < 0.25
    else:  # choices push up alone: from above 0 the best is to stay
        assert np.all(outcome.returns >= -8 * x - 1e-5)
        assert np.all(outcome.returns[np.asarray(start.pipeline_state["x"]) < 0] > -8 * 0.5)
    assert np.all(outcome.lengths == 8)
    assert not np.any(outcome.ended)


@pytest.mark.parametrize("make", [jax.random.PRNGKey, jax.random.key])
def test_each_plan_meets_other_random_numbers(make: Any) -> None:
    state: dict[str, Any] = {"raw": jax.random.split(make(0), 3), "x": np.ones(3)}
    keys = {"['raw']"}
    tried = [
        with_other_keys(state, keys, jax.random.PRNGKey(i), np.arange(3))["raw"] for i in (1, 2)
    ]
    numbers = [jax.vmap(jax.random.uniform)(keys) for keys in (state["raw"], *tried)]
    assert len(set(np.ravel(numbers).tolist())) == 9
    assert {x.dtype for x in tried} == {state["raw"].dtype}


class Sum(Toy):
    """The state is a word of 64 bits in two; what pays next is known from it."""

    def reset(self, rng: jax.Array) -> State:
        board = jax.random.bits(rng, (2,))
        return super().reset(rng).replace(pipeline_state={"board": board})

    def step(self, state: State, action: jax.Array) -> State:
        board = state.pipeline_state["board"]
        pays = (action == board[0] % 3).astype(jnp.float32)
        board = jnp.stack([(board[0] >> 1) ^ (board[1] << 31), board[1] >> 1])
        return state.replace(pipeline_state={"board": board}, reward=pays)


def test_a_board_that_looks_like_a_key_is_left_to_the_planner() -> None:
    env = wrap_for_evaluation(Sum(Discrete(3)), episode_length=8)
    start = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(3), 4))
    outcome = Planner(env, Discrete(3), num_plans=256).run(
        start, jax.random.PRNGKey(0), horizon=8, limit=8
    )
    assert outcome is not None
    assert np.mean(outcome.returns) > 7  # chance is 8 / 3


def test_a_planner_without_time_gives_nothing() -> None:
    seen = diagnose(toy_task(), episodes=2, minutes=1e-9)
    assert "planner" not in seen.played
    assert seen.minutes is not None
    assert f"--minutes {seen.minutes}" in verdict(seen)


@pytest.mark.parametrize(
    ("task", "reward_reads", "reads_obs"),
    [
        (SOUND["hybrid skeleton"], True, False),
        (SOUND["CartPole"], True, True),  # its reward is 1, but ends are computed
        (FAULTS["skeleton, reward 0"].task, False, False),
        (FAULTS["Pendulum, reward 1"].task, False, False),
    ],
)
def test_what_step_reads(task: Any, reward_reads: bool, reads_obs: bool) -> None:
    environment = task.environment()
    assert reading_of(environment, environment.action_space)[:2] == (reward_reads, reads_obs)


def evidence(**returns: Any) -> Evidence:
    """A hundred steps, cut off; each name of a policy with its returns."""

    def outcome(values: Any) -> Outcome:
        values = np.array(values, float)
        count = len(values)
        ended = np.zeros(count, bool)
        return Outcome(values, np.full(count, 100), ended, (-1.0, 1.0), values / 100)

    played = {name: outcome(values) for name, values in returns.items()}
    return Evidence(100, 1, played, "0", action_changes=True, reward_reads=True)


def test_training_is_at_fault_where_the_policy_is_far_behind_the_planner() -> None:
    others = {"random": (-90, -110), "constant": (-50, -50), "planner": (-1, -2)}
    seen = evidence(**others, trained=(-60, -60))
    assert findings(seen) == {
        "training_is_at_fault": "A planner reaches -1.5, the policy -60: training is at fault. "
        "Train for longer, or search for other settings with `tune`."
    }
    seen = evidence(**others, trained=(-4, -4))
    assert findings(seen) == {}
    assert verdict(seen).startswith("Nothing was found: the policy is about as good")


def test_a_policy_is_not_blamed_where_the_task_is_at_fault() -> None:
    seen = dataclasses.replace(
        evidence(random=(-90, -110), constant=(-50, -50), planner=(-1, -2), trained=(-52, -52)),
        hidden=["pipeline_state.goal[0]"],
    )
    assert list(findings(seen)) == ["goal_is_hidden"]
    assert "pipeline_state.goal[0]" in findings(seen)["goal_is_hidden"]


def test_a_policy_far_behind_is_told_beside_another_finding() -> None:
    """openai/gym#3074: a constant action reaches much more, and nothing was said of it."""
    seen = evidence(random=(-90, -110), constant=(-1, -2), planner=(-1, -2), trained=(-60, -60))
    found = findings(seen)
    assert list(found) == ["constant_is_best", "training_is_at_fault"]
    assert "The policy is far behind, too" in found["training_is_at_fault"]


ONE = np.eye(16)[0]
NOISE = 22 * np.random.default_rng(0).normal(size=16)


@pytest.mark.parametrize(
    ("planner", "trained"),
    [
        (ONE, 0 * ONE),  # one of sixteen
        (-291.5 + NOISE, -291.6 + np.roll(NOISE, 1)),
        (-200 + NOISE, -201 + np.roll(NOISE, 1)),
    ],
)
def test_a_difference_inside_the_noise_is_not_blamed(planner: Any, trained: Any) -> None:
    others = {"random": trained - 0.5, "constant": trained - 0.5}
    assert findings(evidence(**others, planner=planner, trained=trained)) == {}


def test_the_same_difference_is_blamed_where_it_is_one_from_each_start() -> None:
    """Starts that differ by much hide nothing, because each policy has the same ones."""
    start = NOISE
    seen = evidence(random=start - 5, constant=start - 5, planner=start, trained=start - 4)
    assert list(findings(seen)) == ["training_is_at_fault"]


@pytest.mark.parametrize(
    ("best", "text"),
    [
        ("planner", "A planner reaches 9, "),
        ("constant", "A constant action reaches 9, "),
        ("random", "Random actions reach 9, "),
    ],
)
def test_who_reaches_more_is_a_sentence(best: str, text: str) -> None:
    seen = evidence(
        **{"random": (0, 0), "constant": (0, 0), "planner": (0, 0), best: (9, 9)},
        trained=(-50, -50),
    )
    assert text in findings(seen)["training_is_at_fault"]


def test_a_constant_action_is_compared_where_the_planner_gives_up() -> None:
    """gym-electric-motor#24: random actions are so bad that nothing seems to matter beside them."""
    seen = evidence(random=(-9000, -9100), constant=(-100, -110), trained=(-800, -790))
    assert "A constant action reaches -105" in findings(seen)["training_is_at_fault"]
    seen = evidence(random=(-9000, -9100), constant=(-100, -110), trained=(-101, -112))
    assert findings(seen) == {}
    text = verdict(dataclasses.replace(seen, minutes=3))
    assert "--minutes 3" in text
    assert "-106.5" in text


def test_a_hidden_goal_that_the_policy_knows_is_no_finding() -> None:
    """It remembers what the first observation showed."""
    others = {"random": (0.2, 0.1), "constant": (0.3, 0.2), "planner": (0.8, 0.8)}
    cue: dict[str, Any] = {"hidden": ["pipeline_state.cue"]}
    assert findings(dataclasses.replace(evidence(**others, trained=(0.8, 0.8)), **cue)) == {}
    found = findings(dataclasses.replace(evidence(**others, trained=(0.2, 0.2)), **cue))
    assert list(found) == ["goal_is_hidden"]
    assert "FrameStack" in found["goal_is_hidden"]


def test_a_policy_that_is_better_when_sampled_is_said_to_be() -> None:
    """SB3#1063: the most likely action fails, and training is not at fault."""
    others = {"random": (-150, -140), "constant": (-100, -100), "planner": (-10, -11)}
    seen = evidence(**others, trained=(-100, -100), sampled=(-11.4, -11.6))
    assert list(findings(seen)) == ["sampling_is_better"]
    assert "get -100, actions sampled from it -11.5" in findings(seen)["sampling_is_better"]
    assert findings(evidence(**others, trained=(-10, -12), sampled=(-40, -30))) == {}


def test_a_weak_planner_praises_no_policy() -> None:
    """SB3#998: it reaches -45 ± 285."""
    spread = 285 * np.array([-1, 1] * 8)
    others = {"random": -180 + NOISE, "constant": -150 + NOISE, "planner": -45 + spread}
    for policy in ({}, {"trained": -120 + NOISE}):
        text = verdict(evidence(**others, **policy))
        assert "the planner is weak here: it reaches -45 ± 285" in text
        assert "as good as" not in text


@pytest.mark.parametrize("policy", [{}, {"trained": (1, 2)}])
def test_where_a_nan_came_from_is_told_by_a_command_that_finds_it(policy: Any) -> None:
    """mjlab#174: `check` finds nothing where it takes a trained policy to get there."""
    seen = evidence(random=(1, 2), constant=(1, np.nan), **policy)
    text = findings(seen)["numbers_are_not_finite"]
    assert "constant" in text
    assert "`check`" in text
    assert "`replay RUN`" in text
    assert ("training stops there" in text) == (not policy)
    if policy:
        seen = evidence(random=(1, 2), constant=(1, 1), trained=(1, np.inf))
        assert "with the policy" in findings(seen)["numbers_are_not_finite"]


def test_a_planner_that_knows_more_is_no_measure_of_the_policy() -> None:
    others = {"random": (0, 0), "constant": (1, 1), "planner": (17, 18)}
    seen = dataclasses.replace(evidence(**others, trained=(5, 5)), knows=["self.prices"])
    assert list(findings(seen)) == ["planner_knows_more"]
    assert "self.prices" in findings(seen)["planner_knows_more"]
    # A constant action knows nothing.
    seen = dataclasses.replace(evidence(**others, trained=(-9, -9)), knows=["self.prices"])
    assert list(findings(seen)) == ["training_is_at_fault"]


@pytest.mark.slow
@pytest.mark.parametrize("name", others_long(tuple(FORESIGHT)[:1], FORESIGHT))
def test_a_policy_that_cannot_know_the_future_is_not_blamed(name: str) -> None:
    """gym-anytrading#36, SB3#641: prices or cards to come lie in the state or on `self`."""
    task, policy, place = FORESIGHT[name]
    seen = diagnose(task, policy, minutes=10)
    text = " ".join(findings(seen).values()) or verdict(seen)
    assert "training is at fault" not in text
    if place in seen.knows:  # the planner could not be kept from it, which is said
        assert place in text
    else:  # what it reaches, the policy does about as well
        assert seen.mean("planner") < seen.mean("trained") + 0.3 * abs(seen.mean("trained"))


def test_an_own_end_in_the_last_step_of_the_time_limit_is_an_own_end() -> None:
    """Gymnasium#907."""
    seen = diagnose(SOUND["Catch"], random_policy(Discrete(3)), episodes=4, minutes=1e-9)
    assert np.all(seen.played["trained"].lengths == 9)  # which is the limit
    assert np.all(seen.played["random"].ended)
    assert np.all(seen.played["trained"].ended)


def test_a_longer_episode_that_goes_on_as_before_needs_no_more_time() -> None:
    seen = evidence(random=(5, 9), constant=(20, 20), planner=(100, 100))
    twice = evidence(random=(5, 9), constant=(20, 20), planner=(200, 200)).played["planner"]
    assert findings(dataclasses.replace(seen, longer=twice)) == {}
    more = evidence(random=(5, 9), constant=(20, 20), planner=(300, 300)).played["planner"]
    assert list(findings(dataclasses.replace(seen, longer=more))) == ["time_limit_is_short"]


def test_an_episode_that_ends_near_the_limit_needs_no_more_time() -> None:
    """Nothing is planned beyond the limit, so that a pole may fall at the last step."""
    seen = evidence(random=(5, 9), constant=(20, 20), planner=(100, 100))
    fallen = dataclasses.replace(seen.played["planner"], ended=np.ones(2, bool))
    twice = evidence(random=(5, 9), constant=(20, 20), planner=(200, 200)).played["planner"]
    played = {**seen.played, "planner": fallen}
    assert findings(dataclasses.replace(seen, played=played, longer=twice)) == {}


def test_a_constant_action_that_was_lucky_once_is_not_called_best() -> None:
    seen = evidence(random=(0, 0), constant=(1, 0), planner=(0, 1))
    assert findings(seen) == {}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint; nothing is trained."""
    run = folder.make_folder(tmp_path_factory.mktemp("runs") / "run")
    task = toy_task()
    ppo = task.make_ppo()
    folder.write_config(run, "task", task, ppo)
    folder.save_checkpoint(run, jax.jit(ppo.init)(np.uint32(0)), 0)
    return run


def config() -> types.ModuleType:
    module = types.ModuleType("toy_config")
    vars(module).update(task=toy_task(), other=toy_task())
    return module


@pytest.mark.slow
def test_the_command_says_what_follows(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main("toy", config(), ["diagnose", str(run), "--episodes", "4"])
    out = capsys.readouterr().out
    for name in ("random", "constant: ", "planner", "trained", "trained, sampled"):
        assert name in out
    assert "training is at fault" in out or "Nothing was found" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--episodes", "1"], "--episodes is 1, which has to be from 2 to 1,000."),
        (["--episodes", "100000000000"], "which has to be from 2 to 1,000."),
        (["--minutes", "nan"], "--minutes is nan, which has to be greater than 0."),
        (["--task", "third"], "There is no task 'third'"),
        (["nowhere"], "nowhere is not the folder of a run"),
        (["RUN", "--task", "other"], "leave other out"),
    ],
)
def test_a_mistake_gets_one_sentence(
    flags: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(run) if flag == "RUN" else flag for flag in flags]
    with pytest.raises(SystemExit) as exit:
        cli.main("toy", config(), ["diagnose", *flags])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_trained_policy_plays_the_same_starts() -> None:
    """Where nothing but the start matters, all returns are equal start by start."""
    task = FAULTS["CartPole, action ignored"].task
    space = Discrete(2)
    seen = diagnose(task, random_policy(space), episodes=4, minutes=1e-9)
    assert np.array_equal(seen.played["trained"].returns, seen.played["random"].returns)
    assert len(set(seen.played["random"].returns)) > 1
