"""Episodes as a GIF."""

import io
from pathlib import Path

import jax
from brax.envs.base import State
from PIL import Image

from ..env.episodes import Policy
from ..env.render import draw
from ..errors import UsageError
from ..ppo.task import Task
from . import files


def write_gif(
    path: Path,
    task: Task,
    policy: Policy,
    *,
    num_episodes: int = 3,
    max_frames: int = 200,
    seed: int = 0,
) -> int:
    """Draws episodes of a task one after another, a frame for each action.

    Args:
      path: the GIF to write.
      task: its environment's `render(state)` gives an image, as `as_image` takes it.
      policy: takes one observation and a key.
      num_episodes: how many episodes.
      max_frames: actions after which an episode is cut.
      seed: of the episodes.

    Returns:
      How many of the episodes were cut.

    Raises:
      UsageError: the environment has no `render`, it fails, or what it returns is no image.
    """
    environment, env = task.environment(), task.batched(training=False)
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
        for number in range(1, max_frames + 1):
            state = step(state, jax.random.fold_in(key, number))
            ended = bool(state.done[0])
            # Behind a wrapper of the user's this may be the start of the next episode.
            if not ended or task.wrap_env_fn is None:
                frames.append(draw(environment, state))
            if ended:
                break
        else:
            cut += 1
        frames += [frames[-1]] * 10  # half a second at the end of an episode
    save_gif(path, frames)
    return cut


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
