"""Whole episodes: to evaluate a policy, to draw it and to time the environment.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import io
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, PipelineEnv, State
from PIL import Image

from . import files
from .actions import ActionSpace, action_space_of
from .errors import UsageError
from .wrappers import wrap_for_evaluation, wrap_for_training

Policy = Callable[[Any, jax.Array], tuple[jax.Array, Any]]


@dataclass(frozen=True)
class Episodes:
    """Returns and lengths of episodes.

    Attributes:
      returns: sums of rewards, (num_episodes,) float32.
      lengths: numbers of steps, (num_episodes,) float32.
    """

    returns: np.ndarray
    lengths: np.ndarray


class EpisodeSums(flax.struct.PyTreeNode):
    """What a batch of episodes added up to, (num_envs,) each.

    Attributes:
      metrics: sums of `reward` and of each metric.
      steps: how many steps the episode took, float32.
      cut_off: bool, whether the time limit ended it, and the environment itself did not.
      goes_on: bool, whether it has not ended yet.
    """

    metrics: dict[str, jax.Array]
    steps: jax.Array
    cut_off: jax.Array
    goes_on: jax.Array


def random_policy(action_space: ActionSpace) -> Policy:
    """A policy that takes uniformly random actions and ignores the observation."""

    def policy(obs: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        del obs
        return action_space.sample(key), {}

    return policy


def run_episodes(
    env: Env, policy: Policy, key: jax.Array, *, num_envs: int, num_steps: int
) -> EpisodeSums:
    """Plays one episode in each of `num_envs` environments. Pure: to be jitted.

    Args:
      env: batched and with a time limit, as `wrap_for_evaluation` gives it.
      policy: takes one observation and a key, not a batch.
      key: (2,) uint32, consumed.
      num_envs: how many episodes.
      num_steps: the time limit, in actions.
    """
    key_reset, key_steps = jax.random.split(key)

    def goes_on(carry: tuple[jax.Array, State, EpisodeSums]) -> jax.Array:
        count, _, sums = carry
        return (count < num_steps) & jnp.any(sums.goes_on)

    def step(carry: tuple[jax.Array, State, EpisodeSums]) -> tuple[jax.Array, State, EpisodeSums]:
        count, state, sums = carry
        keys = jax.random.split(jax.random.fold_in(key_steps, count), num_envs)
        action, _ = jax.vmap(policy)(state.obs, keys)
        state = strip_weak_types(env.step(state, action))
        return count + 1, state, _add_step(sums, state)

    state = strip_weak_types(env.reset(jax.random.split(key_reset, num_envs)))
    start = EpisodeSums(
        metrics=jax.tree.map(jnp.zeros_like, {**state.metrics, "reward": state.reward}),
        steps=jnp.zeros(num_envs, jnp.float32),
        cut_off=jnp.zeros(num_envs, bool),
        goes_on=jnp.ones(num_envs, bool),
    )
    return jax.lax.while_loop(goes_on, step, (jnp.int32(0), state, start))[2]


def _add_step(sums: EpisodeSums, state: State) -> EpisodeSums:
    """Adds a step; what follows the end of an episode does not count, even if it is NaN."""
    new = {**state.metrics, "reward": state.reward}
    return EpisodeSums(
        metrics={
            name: jnp.where(sums.goes_on, x + new[name], x) for name, x in sums.metrics.items()
        },
        steps=jnp.where(sums.goes_on, state.info["steps"], sums.steps),
        cut_off=jnp.where(sums.goes_on, state.info["truncation"] > 0, sums.cut_off),
        goes_on=sums.goes_on & (state.done == 0),
    )


def strip_weak_types(tree: Any) -> Any:
    """Removes weak types, which come from Python numbers: types may not change in a loop."""
    return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.asarray(x).dtype), tree)


def evaluate(
    environment: Env,
    policy: Policy,
    *,
    episode_length: int,
    action_repeat: int = 1,
    num_episodes: int = 128,
    seed: int = 0,
    wrap_env_fn: Callable[..., Env] | None = None,
) -> Episodes:
    """Plays `num_episodes` episodes of `environment`, which is not batched.

    The same seed gives the same episodes. The other arguments are those of `write_gif`.
    """
    env = _wrap(environment, episode_length, action_repeat, wrap_env_fn)

    @jax.jit
    def run(seed: jax.Array) -> EpisodeSums:
        return run_episodes(
            env,
            policy,
            jax.random.PRNGKey(seed),
            num_envs=num_episodes,
            num_steps=episode_length // action_repeat,
        )

    episodes = jax.device_get(run(np.uint32(seed)))
    return Episodes(episodes.metrics["reward"], episodes.steps)


def write_gif(
    path: Path,
    environment: Env,
    policy: Policy,
    *,
    episode_length: int,
    action_repeat: int = 1,
    num_episodes: int = 3,
    max_frames: int = 200,
    seed: int = 0,
    wrap_env_fn: Callable[..., Env] | None = None,
) -> int:
    """Draws episodes one after another, with the environment's `render`.

    Args:
      path: the GIF to write.
      environment: not batched; `render(state)` gives an image, as `as_image` takes it.
      policy: takes one observation and a key.
      episode_length: the time limit, in steps.
      action_repeat: how many steps each action is applied for; one frame is drawn for each action.
      num_episodes: how many episodes.
      max_frames: frames of an episode after which it is cut.
      seed: of the episodes.
      wrap_env_fn: as `Task` has it.

    Returns:
      How many of the episodes were cut.

    Raises:
      UsageError: the environment has no `render`, it fails, or what it returns is no image.
    """
    env = _wrap(environment, episode_length, action_repeat, wrap_env_fn)
    reset = jax.jit(env.reset)

    @jax.jit
    def step(state: State, key: jax.Array) -> State:
        return env.step(state, jax.vmap(policy)(state.obs, key[None])[0])

    frames: list[Image.Image] = []
    cut = 0
    for episode in range(num_episodes):
        key = jax.random.fold_in(jax.random.PRNGKey(seed), episode)
        state = reset(key[None])
        frames.append(draw(environment, state))
        for number in range(1, max_frames):
            state = step(state, jax.random.fold_in(key, number))
            ended = bool(state.done[0])
            # Behind a wrapper of the user's this may be the start of the next episode.
            if not ended or wrap_env_fn is None:
                frames.append(draw(environment, state))
            if ended:
                break
        else:
            cut += 1
        frames += [frames[-1]] * 10  # half a second at the end of an episode
    save_gif(path, frames)
    return cut


def _wrap(
    environment: Env,
    episode_length: int,
    action_repeat: int,
    wrap_env_fn: Callable[..., Env] | None,
    own: Callable[..., Env] = wrap_for_evaluation,
) -> Env:
    return (wrap_env_fn or own)(
        environment,
        episode_length=episode_length,
        action_repeat=action_repeat,
        randomization_fn=None,
    )


def save_gif(path: Path, frames: list[Image.Image]) -> None:
    """Writes a GIF with 20 frames per second.

    Raises:
      OSError: it can't be written.
      UsageError: the frames have different sizes.
    """
    other = next((frame.size for frame in frames if frame.size != frames[0].size), None)
    if other:
        sizes = " and ".join(f"{height} x {width}" for width, height in (frames[0].size, other))
        raise UsageError(f"render returned images of different sizes, {sizes} pixels")
    gif = io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], duration=50, loop=0)
    files.write(path, gif.getvalue())


def draw(environment: Env, batch: State) -> Image.Image:
    """The only state of `batch`, drawn; raises UsageError as `write_gif` does."""
    state = jax.tree.map(lambda x: x[0] if x.shape[:1] == (1,) else x, batch)
    render = getattr(environment, "render", None)
    if render is None:
        raise UsageError("the environment has no render(state)")
    try:
        with warnings.catch_warnings(action="ignore"):  # MuJoCo warns where there is no display
            if getattr(render, "__func__", None) is PipelineEnv.render:  # it draws trajectories
                returned = render([state.pipeline_state])[0]
            else:
                returned = render(jax.device_get(state))
    except Exception as error:
        hint = "; to draw without a display, set MUJOCO_GL=egl" * ("GL" in repr(error))
        raise UsageError(f"render raised {type(error).__name__}: {error}{hint}") from error
    return as_image(returned)


def as_image(returned: Any) -> Image.Image:
    """Makes an RGB image of what `render` returned.

    Args:
      returned: (height, width, 3) uint8. Other integers from 0 to 255, floats from 0 to 1 and bools
        will do too, as will a grey image, (height, width) or (height, width, 1), an RGBA image,
        (height, width, 4), which is drawn on white, and an image of Pillow.

    Raises:
      UsageError: anything else.
    """
    if isinstance(returned, Image.Image):
        returned = returned.convert("RGBA")
    try:
        pixels = np.asarray(returned)
    except (TypeError, ValueError):  # such as lists of different lengths
        pixels = np.asarray(None)
    is_array = pixels.dtype.kind not in "OSU"
    found = f"{pixels.dtype} {pixels.shape}" if is_array else type(returned).__name__
    numbers = {np.integer: 255, np.floating: 1, np.bool_: 1}
    most = next((most for kind, most in numbers.items() if jnp.issubdtype(pixels.dtype, kind)), 0)
    low = high = np.nan
    if most and pixels.size:
        low, high = float(pixels.min()), float(pixels.max())
        found += f" with values from {low:g} to {high:g}"
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    has_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    fits = max(pixels.shape, default=0) <= 65_535  # in a GIF
    slack = 1e-3 if most == 1 else 0  # rounding
    if not (has_shape and fits and -slack <= low <= high <= most + slack):
        raise UsageError(
            f"render returned {found}, but an image is (height, width, 3) uint8, or floats from 0 "
            "to 1"
        )
    scaled = np.clip(np.float32(pixels) * (255 / most), 0, 255)
    image = Image.fromarray(np.round(scaled).astype(np.uint8))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def measure_speed(
    environment: Env,
    num_envs: int,
    *,
    episode_length: int,
    action_repeat: int = 1,
    seconds: float = 1.0,
    wrap_env_fn: Callable[..., Env] | None = None,
) -> float:
    """Environment steps per second with random actions, wrapped as for training, compiled."""
    env = _wrap(environment, episode_length, action_repeat, wrap_env_fn, wrap_for_training)
    space = action_space_of(environment)

    def step(state: State, key: jax.Array) -> tuple[State, None]:
        return env.step(state, space.sample(key, (num_envs,))), None

    @jax.jit
    def run(state: State, seed: jax.Array) -> State:
        return jax.lax.scan(step, state, jax.random.split(jax.random.PRNGKey(seed), 100))[0]

    keys = jax.random.split(jax.random.PRNGKey(0), num_envs)
    state = jax.block_until_ready(run(jax.jit(env.reset)(keys), np.uint32(0)))
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        calls += 1
        state = jax.block_until_ready(run(state, np.uint32(calls)))
    return 100 * calls * num_envs * action_repeat / elapsed
