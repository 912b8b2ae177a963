"""Many settings of PPO that train at once, as members of one program.

Members differ in `HyperParameters` and seeds. What shapes a program is the same for all of them:
the sizes of batches and rollouts, and whether observations are normalised.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ...ppo.settings import PPOConfig
from ...ppo.state import HyperParameters
from ...ppo.task import Task
from ...run.display import RETURN, Display
from ...run.programs import CHUNK_SECONDS, Programs, next_chunk

NUMBERS = [field.name for field in dataclasses.fields(HyperParameters)]


@dataclass
class Curves:
    """What was measured of some members.

    Attributes:
      steps: (evaluations,) environment steps.
      returns: (evaluations, members) mean return of each evaluation; NaN from where on a member
        has diverged.
    """

    steps: np.ndarray
    returns: np.ndarray

    def beside(self, other: "Curves") -> "Curves":
        """These members and those of `other`, which were evaluated after the same steps."""
        return Curves(self.steps, np.hstack([self.returns, other.returns]))

    def split(self, count: int) -> list["Curves"]:
        """Those of each of `count` settings, whose members take turns."""
        return [Curves(self.steps, self.returns[:, i::count]) for i in range(count)]


@dataclass
class Trainer:
    """Trains `count` members at once; each program is compiled once.

    `check` is called every half a second; an error that it raises ends a run.
    """

    task: Task
    count: int
    console: Console
    check: Callable[[], None]
    _programs: dict[PPOConfig, Programs] = field(default_factory=dict)

    def train(
        self,
        settings: PPOConfig,
        numbers: Sequence[Mapping[str, float]],
        *,
        seed: int,
        steps: int,
        evaluations: int,
        seconds: float,
    ) -> Curves | None:
        """Trains from the start.

        Args:
          settings: what the members share; a schedule of the learning rate uses `num_timesteps`.
          numbers: (count,) a value for each of `HyperParameters`.
          seed: of the first member; that of the next one is 1 larger.
          steps: how long; rounded up to whole updates.
          evaluations: how many, evenly spaced; the last one is at the end.
          seconds: after so long the run is cut off, and None is returned.
        """
        programs, per_update = self.compiled(settings), settings.steps_per_update
        updates = -(-steps // per_update)
        targets = np.unique(np.linspace(0, updates, evaluations + 1).round().astype(int)[1:])
        arrays = {name: np.array([x[name] for x in numbers], np.float32) for name in NUMBERS}
        state = programs.init(seed).replace(
            hyperparameters=HyperParameters(**{name: jnp.array(x) for name, x in arrays.items()}),
            learning_rate=jnp.array(arrays["learning_rate"]),
        )
        state = programs.to_devices(state)
        finite, returns = np.ones(self.count, bool), []
        end, done, chunk = time.monotonic() + seconds, 0, 1
        with Display(self.console, updates * per_update) as display:
            for target in targets:
                while done < target and finite.any():
                    if time.monotonic() >= end:
                        return None
                    chunk = min(chunk, int(target) - done)
                    start = time.monotonic()
                    state, totals = programs.epoch(state, chunk)
                    taken = time.monotonic() - start
                    done += chunk
                    for metric in totals.metrics.values():
                        finite &= np.isfinite(metric)
                    finite &= totals.not_finite == 0
                    display.progress(done * per_update, chunk * per_update / taken, {})
                    chunk = next_chunk(chunk, taken)
                    self.check()
                returns.append(np.where(finite, programs.evaluate(state)[RETURN], np.nan))
        return Curves(targets * per_update, np.array(returns, float))

    def speed(self, settings: PPOConfig) -> float:
        """Environment steps a second, of each member."""
        programs = self.compiled(settings)
        state = programs.init()
        updates, taken = 1, 0.0
        while taken < CHUNK_SECONDS:
            updates *= 2
            start = time.monotonic()
            state, _ = programs.epoch(state, updates)
            taken = time.monotonic() - start
            self.check()
        return updates * settings.steps_per_update / taken

    def compiled(self, settings: PPOConfig) -> Programs:
        """The programs of all members; raises OutOfMemoryError."""
        settings = dataclasses.replace(settings, seed=0, num_seeds=self.count)
        if settings not in self._programs:
            shared = next(n for n in range(jax.device_count(), 0, -1) if self.count % n == 0)
            programs = Programs(dataclasses.replace(self.task, settings=settings), shared)
            pool = ThreadPoolExecutor(1)  # so that a signal need not wait for the compiler
            try:
                with Display(self.console, 1) as display, display.compiling():
                    job = pool.submit(programs.compile)
                    while not wait([job], CHUNK_SECONDS).done:
                        self.check()
                    job.result()
            finally:
                pool.shutdown(wait=False)
            self._programs[settings] = programs
        return self._programs[settings]
