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

from ..errors import OutOfMemoryError, is_out_of_memory
from ..ppo import sharding
from ..ppo.settings import PPOConfig
from ..ppo.state import Metrics, Totals, TrainingState
from ..ppo.task import Task
from . import devices

CHUNK_SECONDS = 0.5  # from one look at signals, and one movement of the display, to the next


def next_chunk(updates: int, seconds: float) -> int:
    """How many updates take about `CHUNK_SECONDS`, if `updates` of them took so many seconds."""
    return max(1, min(10 * updates, int(CHUNK_SECONDS * updates / seconds)))


class Programs:
    """`init`, `epoch` and `evaluate` of PPO, for a whole run.

    With several seeds each array, of states and of results, has a leading axis for them.

    Attributes:
      environment: one environment, not batched.
      ppo: the functions of one seed.
      mesh: the devices; None for one.
      num_devices: how many there are.
      shapes, member_shapes: those of the `TrainingState`, and of the one of a single seed.

    Raises:
      UsageError: PPO can't train this task, or not on so many devices.
      OutOfMemoryError: `compile` or a program found too little memory.
    """

    def __init__(self, task: Task, num_devices: int | None = None) -> None:
        self._settings = settings = task.settings
        several = settings.num_seeds > 1
        divided = ("num_seeds",) if several else ("num_envs", "batch_size")
        self.mesh = mesh = devices.make_mesh(
            {name: getattr(settings, name) for name in divided}, num_devices
        )
        self.num_devices = 1 if mesh is None else mesh.size
        self.environment = task.environment()
        self.ppo = ppo = task.make_ppo(None if several else mesh)
        init: Callable[..., TrainingState] = ppo.init
        epoch, evaluate = ppo.epoch, ppo.evaluate
        self.member_shapes = self.shapes = jax.eval_shape(init, np.uint32(settings.seed))
        if several:
            init_members = sharding.divide_members(ppo.init, mesh)
            epoch = sharding.divide_members(ppo.epoch, mesh)
            evaluate = sharding.divide_members(ppo.evaluate, mesh)

            def init_all(seed: Any) -> TrainingState:
                return init_members(seed + jnp.arange(settings.num_seeds, dtype=jnp.uint32))

            init = init_all
            self.shapes = jax.eval_shape(init, np.uint32(settings.seed))
        self._shardings: Any = None
        everywhere = None
        if mesh is not None:
            everywhere = NamedSharding(mesh, PartitionSpec())
            whole = NamedSharding(mesh, PartitionSpec(sharding.AXIS)) if several else everywhere
            self._shardings = jax.tree.map(lambda _: whole, self.shapes)
            if not several and "env" in ppo.divisions:
                of_envs = jax.tree.map(lambda spec: NamedSharding(mesh, spec), ppo.divisions["env"])
                self._shardings = self._shardings.replace(env_state=of_envs)
        epoch_result = None if mesh is None else (self._shardings, everywhere)
        self._jitted = {
            "init": jax.jit(init, out_shardings=self._shardings),
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
            "init": (np.uint32(self._settings.seed),),
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
        seed = self._settings.seed if seed is None else seed
        with self._watch_memory("init"):
            return jax.block_until_ready(self._compiled["init"](np.uint32(seed)))

    def to_devices(self, state: TrainingState) -> TrainingState:
        """Moves a state, read from a file for example, to where the programs expect it."""
        return state if self.mesh is None else devices.to_devices(state, self._shardings)

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
            if not is_out_of_memory(error):
                raise
            name = _what_to_halve(self._settings, self.shapes, program)
            raise OutOfMemoryError(
                "The device has too little memory for these settings: try half of "
                f"--{name.replace('_', '-')}, which is {getattr(self._settings, name)}."
            ) from None


def _what_to_halve(settings: PPOConfig, state: TrainingState, program: str) -> str:
    """The setting whose arrays take most of the memory."""
    if settings.num_seeds > 1:
        return "num_seeds"
    if program == "evaluate":
        return "num_eval_envs"

    def size(tree: Any) -> int:
        return sum(x.size for x in jax.tree.leaves(tree))

    per_step = size(state.env_state.obs) / settings.num_envs
    rollouts = per_step * settings.batch_size * settings.num_minibatches * settings.unroll_length
    return "unroll_length" if rollouts > size(state.env_state) else "num_envs"
