"""What a task is: an environment, settings and networks.

`config.py` defines a task as a value; a second task is a second value beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from brax.envs.base import Env
from brax.training import types
from brax.training.agents.ppo.networks import PPONetworks
from jax.sharding import Mesh

from ..env.wrappers import wrap_for_evaluation, wrap_for_training
from ..errors import UsageError
from .algorithm import PPO, make_ppo
from .settings import PPOConfig


@dataclass(frozen=True)
class Task:
    """An environment, the settings of PPO and the networks that it trains.

    Attributes:
      environment: makes one environment, not batched; the class itself will do.
      settings: how PPO trains; each is a flag of `train`.
      network_factory: as `ppo.train` takes it; see `kit.networks.make_network_factory`.
      wrap_env_fn: as `ppo.train` takes it: called with the environment and with `episode_length`,
        `action_repeat` and `randomization_fn` by name. Training, evaluation and drawing use it;
        `kit.wrappers` has what they use if it is None.
      randomization_fn: domain randomisation, as `ppo.train` takes it. `play` does not use it.
      ignore_rules: rules of `check` that this task breaks on purpose, such as `("episode-ends",)`.

    Raises:
      UsageError: `environment` is an environment and not what makes one, or `ignore_rules` is text.
    """

    environment: Callable[[], Env]
    settings: PPOConfig
    network_factory: types.NetworkFactory[PPONetworks]
    wrap_env_fn: Callable[..., Env] | None = None
    randomization_fn: Callable[..., tuple[Any, Any]] | None = None
    ignore_rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.environment, Env):
            made = type(self.environment).__name__
            raise UsageError(f"A task's environment is a class or function: {made}, not {made}().")
        if isinstance(self.ignore_rules, str):
            raise UsageError(f"ignore_rules is a tuple: ({self.ignore_rules!r},), with a comma.")

    @classmethod
    def without_networks(cls, environment: Callable[[], Env]) -> "Task":
        """For `check` alone, which can do without."""
        return cls(environment, PPOConfig(episode_length=1000), None)  # type: ignore[arg-type]

    def batched(
        self,
        environment: Env | None = None,
        *,
        training: bool,
        randomization_fn: Callable[[Any], tuple[Any, Any]] | None = None,
    ) -> Env:
        """A batch of environments, as for training or for whole episodes.

        Args:
          environment: the one to wrap; a new one if None.
          training: with auto-reset.
          randomization_fn: the task's, with its keys; None for the environment as it is.
        """
        wrap = self.wrap_env_fn or (wrap_for_training if training else wrap_for_evaluation)
        return wrap(
            environment or self.environment(),
            episode_length=self.settings.episode_length,
            action_repeat=self.settings.action_repeat,
            randomization_fn=randomization_fn,
        )

    def make_ppo(self, mesh: Mesh | None = None) -> PPO:
        """See `make_ppo`."""
        return make_ppo(self, mesh)


def tasks_in(config: ModuleType) -> dict[str, Task]:
    """The tasks that `config.py` defines, by name, in their order there.

    Raises:
      UsageError: it defines none.
    """
    tasks = {name: value for name, value in vars(config).items() if isinstance(value, Task)}
    if not tasks:
        raise UsageError(
            f"{config.__name__} defines no task: it needs one, as in task = Task(...)."
        )
    return tasks


def choose(tasks: Mapping[str, Task], name: str | None) -> tuple[str, Task]:
    """The task called `name`; the first one if None.

    Raises:
      UsageError: there is none of that name.
    """
    if name is None:
        name = next(iter(tasks))
    if name not in tasks:
        raise UsageError(f"There is no task {name!r}; config.py defines {', '.join(tasks)}.")
    return name, tasks[name]
