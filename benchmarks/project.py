"""A rendered project to measure, and what the measurements share."""

import contextlib
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def rendered(
    observation: str = "vector", actions: str = "continuous", dynamics: str = "jax"
) -> Iterator[Path]:
    """Renders the template's working tree into a temporary folder, and gives its `src`."""
    import copier  # which not every process that imports this file has

    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "template"
        template.mkdir()
        shutil.copy(ROOT / "copier.yml", template)
        for name in ("questions", "template"):
            shutil.copytree(ROOT / name, template / name)
        project = Path(folder) / "project"
        copier.run_copy(
            str(template),
            project,
            data={"dynamics": "mjx"}
            if dynamics == "mjx"
            else {"observation": observation, "actions": actions},
            defaults=True,
            quiet=True,
            settings=copier.Settings(),
        )
        yield project / "src"


def import_project(src: Path):
    """Imports `my_env` of a rendered project."""
    sys.path.insert(0, str(src))
    import my_env

    return my_env


def watch_compilations() -> list[float]:
    """Seconds of each compilation in this process, from now on."""
    import jax

    seconds: list[float] = []

    def listen(event: str, duration: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds


EPISODES, SEED = 256, 99


def mean_return(task, policy) -> float:
    """Over the same 256 episodes for every policy."""
    from my_env.kit.tools.play import evaluate

    result = evaluate(task, policy, num_episodes=EPISODES, seed=SEED)
    return float(result.returns.mean())


def best_and_random_return(my_env, task) -> tuple[float, float]:
    """What no policy can beat on these episodes of the starting task, and a random policy's return.

    A push moves the point by at most `push`: along each axis where axes are pushed independently,
    else in one direction.
    """
    import jax
    import jax.numpy as jnp
    from my_env.kit import Discrete, random_policy

    env, steps = my_env.MyEnv(), task.settings.episode_length
    key, _ = jax.random.split(jax.random.PRNGKey(SEED))  # as `evaluate` draws the starts
    point = jax.vmap(env.reset)(jax.random.split(key, EPISODES)).pipeline_state
    offset = point.position - getattr(point, "goal", 0.0)
    distance = jnp.abs(offset)
    if isinstance(env.action_space, Discrete):
        distance = jnp.linalg.norm(offset, axis=-1, keepdims=True)
    left = distance - env.push * jnp.arange(1, steps + 1)[:, None, None]
    best = -jnp.sum(jnp.maximum(left, 0.0) ** 2, axis=(0, 2))
    return float(best.mean()), mean_return(task, random_policy(env.action_space))


def settings_for_brax(settings) -> dict:
    """Our settings as `ppo.train` takes them; its learning rate is constant."""
    given = dataclasses.asdict(settings)
    for name in (
        "init_value_from_rollouts",
        "learning_rate_schedule",
        "normalize_rewards",
    ):
        del given[name]
    assert given.pop("num_seeds") == 1
    return given
