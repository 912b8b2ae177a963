"""The programs that a run executes: compiled for all its seeds at once and for all its devices."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..errors import OutOfMemoryError
from ..ppo import sharding
from ..ppo.settings import PPOConfig
from ..ppo.state import Metrics, Totals, TrainingState
from ..ppo.task import Task
from . import devices


class Programs:
    """`init`, `epoch` and `evaluate` of `kit.ppo`, for a whole run.

    With several seeds each array, of states and of results, has a leading axis for them.

    Args:
      task: what to train.
      num_devices: how many devices to use; all if None.

    Attributes:
      environment: one environment, not batched.
      ppo: the functions of one seed.
      mesh: the devices; None for one.
      num_devices: how many there are.
      shapes: those of the `TrainingState`.
      member_shapes: those of the `TrainingState` of one seed.

    Raises:
      UsageError: PPO can't train this task, or not on so many devices.
      OutOfMemoryError: `compile` or a program found too little memory.
    """

    def __init__(self, task: Task, num_devices: int | None = None) -> None:
        self._config = config = task.settings
        several = config.num_seeds > 1
        divided = ("num_seeds",) if several else ("num_envs", "batch_size")
        self.mesh = mesh = devices.make_mesh(
            {name: getattr(config, name) for name in divided}, num_devices
        )
        self.num_devices = 1 if mesh is None else mesh.size
        self.environment = task.environment()
        self.ppo = ppo = task.make_ppo(None if several else mesh)
        init: Callable[..., TrainingState] = ppo.init
        epoch, evaluate = ppo.epoch, ppo.evaluate
        if several:
            init_members = sharding.divide_members(ppo.init, mesh)
            epoch = sharding.divide_members(ppo.epoch, mesh)
            evaluate = sharding.divide_members(ppo.evaluate, mesh)

            def init_all(seed: Any) -> TrainingState:
                return init_members(seed + jnp.arange(config.num_seeds, dtype=jnp.uint32))

            init = init_all

        self.member_shapes = jax.eval_shape(ppo.init, np.uint32(config.seed))
        self.shapes = (
            jax.eval_shape(init, np.uint32(config.seed)) if several else self.member_shapes
        )
        where: Any = None
        everywhere: Any = None
        if mesh is not None:
            everywhere = NamedSharding(mesh, PartitionSpec())
            where = jax.tree.map(lambda _: everywhere, self.shapes)
            if several:
                members = NamedSharding(mesh, PartitionSpec(sharding.AXIS))
                where = jax.tree.map(lambda _: members, self.shapes)
            elif "env" in ppo.divisions:
                of_envs = jax.tree.map(lambda spec: NamedSharding(mesh, spec), ppo.divisions["env"])
                where = where.replace(env_state=of_envs)
        self._shardings = where
        epoch_result = None if mesh is None else (where, everywhere)
        self._jitted = {
            "init": jax.jit(init, out_shardings=where),
            "epoch": jax.jit(epoch, donate_argnums=0, out_shardings=epoch_result),
            "evaluate": jax.jit(evaluate, out_shardings=everywhere),
        }
        self._compiled: dict[str, Any] = dict(self._jitted)  # which compile when they are called

    @functools.cached_property
    def no_totals(self) -> Totals:
        """The sums of no updates, on the host."""
        with jax.disable_jit(False):
            traced = self._jitted["epoch"].trace(self.shapes, np.int32(1))
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), traced.out_info[1])

    def compile(self) -> None:
        """Compiles all three side by side; can be interrupted."""
        state = self.shapes
        if self.mesh is not None:
            state = jax.tree.map(
                lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
                state,
                self._shardings,
            )
        arguments: dict[str, tuple[Any, ...]] = {
            "epoch": (state, np.int32(1)),  # first, because it takes longest
            "init": (np.uint32(self._config.seed),),
            "evaluate": (state,),
        }
        # What runs once need not be fast.
        on_cpu = jax.default_backend() == "cpu"
        options: dict[str, Any] = {"init": {"xla_backend_optimization_level": 0}} if on_cpu else {}
        pool = ThreadPoolExecutor(len(arguments))
        try:
            # One is traced while others compile already.
            jobs = {}
            for name, args in arguments.items():
                with self._watch_memory(name):
                    lowered = self._jitted[name].lower(*args)
                    jobs[name] = pool.submit(lowered.compile, options.get(name))
            for name, job in jobs.items():
                with self._watch_memory(name):
                    self._compiled[name] = job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def init(self, seed: int | None = None) -> TrainingState:
        """The state that training starts from; its seed is that of the settings if None."""
        seed = self._config.seed if seed is None else seed
        with self._watch_memory("init"):
            return jax.block_until_ready(self._compiled["init"](np.uint32(seed)))

    def to_devices(self, state: TrainingState) -> TrainingState:
        """Moves a state, read from a file for example, to where the programs expect it."""
        if self.mesh is None:
            return state
        return devices.to_devices(state, self._shardings)

    def epoch(self, state: TrainingState, updates: int) -> tuple[TrainingState, Totals]:
        """The state after so many updates, and their sums on the host. Consumes `state`."""
        with self._watch_memory("epoch"):
            state, totals = self._compiled["epoch"](state, np.int32(updates))
            return jax.block_until_ready(state), jax.device_get(totals)

    def evaluate(self, state: TrainingState) -> Metrics:
        """`eval/...` metrics, on the host."""
        with self._watch_memory("evaluate"):
            return jax.device_get(self._compiled["evaluate"](state))

    def to_host(self, state: TrainingState) -> TrainingState:
        """A copy on the host, which training does not overwrite; all processes have to call it."""
        return devices.to_host(state)

    @contextlib.contextmanager
    def _watch_memory(self, program: str) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
                raise
            name = _what_to_halve(self._config, self.shapes, program)
            flag = "--" + name.replace("_", "-")
            raise OutOfMemoryError(
                f"The device has too little memory for these settings: try half of {flag}, which "
                f"is {getattr(self._config, name)}."
            ) from None


def _what_to_halve(config: PPOConfig, state: TrainingState, program: str) -> str:
    """The setting whose arrays take most of the memory."""
    if config.num_seeds > 1:
        return "num_seeds"
    if program == "evaluate":
        return "num_eval_envs"

    def size(tree: Any) -> int:
        return sum(x.size for x in jax.tree.leaves(tree))

    per_step = size(state.env_state.obs) / config.num_envs
    rollouts = per_step * config.batch_size * config.num_minibatches * config.unroll_length
    return "unroll_length" if rollouts > size(state.env_state) else "num_envs"
