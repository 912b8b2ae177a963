"""A rendered project to measure, and the yardsticks that the measurements share."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import copier

ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def rendered(observation: str = "vector", actions: str = "continuous") -> Iterator[Path]:
    """Renders the template as it stands into a temporary folder; gives its `src`."""
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "template"
        template.mkdir()
        for name in ("copier.yml", "answers.jinja"):
            shutil.copy(ROOT / name, template / name)
        shutil.copytree(ROOT / "template", template / "template")
        project = Path(folder) / "project"
        copier.run_copy(
            str(template),
            project,
            data={"observation": observation, "actions": actions},
            defaults=True,
            quiet=True,
            settings=copier.Settings(),
        )
        yield project / "src"


def import_project(src: Path):
    """Makes `my_env` of a rendered project importable in this process."""
    sys.path.insert(0, str(src))
    import my_env

    return my_env


def give_back_device_put_replicated() -> None:
    """Brax 0.14.2 calls `jax.device_put_replicated`, which JAX 0.10 took away (google/brax#671)."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def put(tree, devices):
        mesh = jax.sharding.Mesh(np.array(devices), ("i",))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
        return jax.tree.map(
            lambda x: jax.device_put(jnp.stack([jnp.asarray(x)] * len(devices)), sharding), tree
        )

    if not hasattr(jax, "device_put_replicated"):
        jax.device_put_replicated = put


def watch_compilations() -> list[float]:
    """How long each of this process's compilations took, from now on."""
    import jax

    seconds: list[float] = []

    def listen(event: str, duration: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds


# The settings that `ppo.train` takes under the same names.
BRAX_TAKES = [
    "num_timesteps",
    "episode_length",
    "action_repeat",
    "seed",
    "num_envs",
    "unroll_length",
    "batch_size",
    "num_minibatches",
    "num_updates_per_batch",
    "learning_rate",
    "entropy_cost",
    "discounting",
    "gae_lambda",
    "clipping_epsilon",
    "reward_scaling",
    "vf_loss_coefficient",
    "max_grad_norm",
    "normalize_observations",
    "num_evals",
    "num_eval_envs",
    "deterministic_eval",
]
