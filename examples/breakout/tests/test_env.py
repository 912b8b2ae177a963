"""Tests of the environment. Yours: `copier update` never touches this file."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import State
from gymnasium.wrappers import TimeLimit
from minatar.environments import breakout as minatar

from breakout.config import task
from breakout.encoder import BoardEncoder
from breakout.env import ACTION_SPACE, IMAGE_SHAPE, Breakout, Game
from breakout.kit import compare

env = task.environment()
reset = jax.jit(env.reset)
DIRECTIONS = {(-1, -1): 0, (1, -1): 1, (1, 1): 2, (-1, 1): 3}  # as MinAtar numbers them


class Reference(gymnasium.Env[Any, Any]):
    """MinAtar's game as an environment of Gymnasium, without sticky actions."""

    action_space = gymnasium.spaces.Discrete(ACTION_SPACE.size)
    observation_space = gymnasium.spaces.Box(0, 1, IMAGE_SHAPE)

    def __init__(self) -> None:
        self.game = minatar.Env()
        self.actions = self.game.minimal_action_set()

    def reset(self, **_: Any) -> Any:
        self.game.reset()
        return self.game.state(), {}

    def step(self, action: int) -> Any:
        reward, lost = self.game.act(self.actions[action])
        return self.game.state(), reward, lost, False, {}

    def set_state(self, game: Game) -> None:
        self.game.pos = int(game.paddle)
        self.game.ball_x, self.game.ball_y = int(game.x), int(game.y)
        self.game.last_x, self.game.last_y = int(game.last_x), int(game.last_y)
        self.game.ball_dir = DIRECTIONS[int(game.dx), int(game.dy)]
        self.game.brick_map = np.array(game.bricks, float)
        self.game.strike = bool(game.strike)
        self.game.terminal = False


def random_games(count: int, seed: int) -> Game:
    """Games in the middle, with few bricks or many."""
    rng = np.random.default_rng(seed)
    bricks = np.zeros((count, 10, 10), bool)
    bricks[:, 1:4] = rng.random((count, 3, 10)) < rng.choice([0.0, 0.1, 0.5, 1.0], (count, 1, 1))
    x, y, last_x, last_y, paddle = rng.integers(10, size=(5, count), dtype=np.int32)
    fields = {
        "paddle": paddle,
        "x": x,
        "y": np.where(rng.random(count) < 0.4, 8, np.minimum(y, 8)).astype(np.int32),
        "dx": rng.choice(np.array([-1, 1], np.int32), count),
        "dy": rng.choice(np.array([-1, 1], np.int32), count),
        "last_x": last_x,
        "last_y": last_y,
        "bricks": bricks,
        "strike": rng.random(count) < 0.3,
        "last_action": np.zeros(count, np.int32),
        "rng": rng.integers(2**32, size=(count, 2), dtype=np.uint32),
    }
    return Game(**jax.tree.map(jnp.asarray, fields))


def follow(obs: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """The paddle stays under the ball, but for a random action now and then."""
    paddle, ball = (jnp.argmax(obs["pixels/board"][..., i].max(axis=0)) for i in (0, 1))
    key_which, key_action = jax.random.split(key)
    action = jnp.where(ball < paddle, 1, jnp.where(ball > paddle, 2, 0))
    random = ACTION_SPACE.sample(key_action)
    return jnp.where(jax.random.bernoulli(key_which, 0.02), random, action), {}


def test_games_equal_minatar_s() -> None:
    random, following = (
        compare(
            Breakout(sticky=0.0),
            TimeLimit(Reference(), task.settings.episode_length),
            lambda reference, state: reference.set_state(state.pipeline_state),
            episode_length=task.settings.episode_length,
            policy=policy,
            to_observation=lambda board: {"pixels/board": board},
        )
        for policy in (None, follow)
    )
    assert random.difference is None, random.difference
    assert following.difference is None, following.difference
    assert random.terminations > 0
    assert following.terminations > 0


def test_steps_from_any_state_equal_minatar_s() -> None:
    """Few bricks, none at all, balls in the wall: what takes long to play to."""
    games = random_games(3000, seed=0)
    actions = np.random.default_rng(1).integers(3, size=3000, dtype=np.int32)
    sure = Breakout(sticky=0.0)

    @jax.jit
    @jax.vmap
    def step(game: Game, action: jax.Array) -> State:
        return sure.step(sure.reset(game.rng).replace(pipeline_state=game), action)

    games, after = jax.device_get((games, step(games, actions)))
    reference, seen = Reference(), set()
    for i, action in enumerate(actions):
        before, now = (jax.tree.map(lambda x, i=i: x[i], x) for x in (games, after.pipeline_state))
        reference.set_state(before)
        board, reward, lost, _, _ = reference.step(action)
        assert (after.reward[i], after.done[i]) == (reward, lost), before
        np.testing.assert_array_equal(after.obs["pixels/board"][i], board, err_msg=str(before))
        assert DIRECTIONS[int(now.dx), int(now.dy)] == reference.game.ball_dir, before
        assert bool(now.strike) == reference.game.strike, before
        seen.add((reward, lost))
    assert seen == {(0, False), (1, False), (0, True)}


def test_a_game_starts_as_minatar_s() -> None:
    reference = Reference()
    boards = {reference.reset()[0].tobytes() for _ in range(50)}
    keys = jax.random.split(jax.random.PRNGKey(0), 400)
    ours = np.asarray(jax.jit(jax.vmap(env.reset))(keys).obs["pixels/board"]).astype(bool)
    assert {board.tobytes() for board in ours} == boards
    assert 150 < sum(board.tobytes() == ours[0].tobytes() for board in ours) < 250


def test_actions_are_sticky() -> None:
    start = reset(jax.random.PRNGKey(0))
    keys = jax.random.split(jax.random.PRNGKey(1), 4000)
    game = start.pipeline_state.replace(last_action=jnp.int32(1))
    after = jax.jit(
        jax.vmap(lambda key: env.step(start.replace(pipeline_state=game.replace(rng=key)), 2))
    )(keys)
    repeated = np.mean(after.pipeline_state.last_action == 1)
    np.testing.assert_allclose(repeated, 0.1, atol=0.02)
    assert np.all((after.pipeline_state.paddle == 3) == (after.pipeline_state.last_action == 1))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_the_encoder_takes_any_leading_dimensions(batch: tuple[int, ...]) -> None:
    obs = {"pixels/board": jax.random.uniform(jax.random.PRNGKey(0), (*batch, *IMAGE_SHAPE))}
    encoder = BoardEncoder(features=8)
    params = encoder.init(jax.random.PRNGKey(1), obs, obs)
    features: Any = encoder.apply(params, obs, obs)
    assert features.shape == (*batch, 8)


def test_it_draws_the_board() -> None:
    image = env.render(jax.device_get(reset(jax.random.PRNGKey(0))))
    assert (image.shape, image.dtype) == ((120, 120, 3), np.uint8)
    colours = {tuple(pixel) for pixel in image.reshape(-1, 3)}
    assert {(255, 255, 255), (40, 80, 200), (60, 60, 60)} < colours
