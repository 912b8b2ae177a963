"""Side by side: the gallery's tasks, trained by this project and by what people would use instead.

    python benchmarks/side_by_side.py --purejaxrl PATH [--tasks ...] [--loops ...] [--seeds 5]
    python benchmarks/side_by_side.py --purejaxrl PATH --search [--tasks ...] [--loops ...]
    python benchmarks/side_by_side.py --compiling [--tasks ...] [--loops ...]

PATH is a checkout of github.com/luchris429/purejaxrl, which is on no package index; without it
purejaxrl is not run. The others get virtual environments of their own in --folder, made with uv
the first time. Ours is the command `train` of the example, seen from outside through its
metrics.jsonl, with nothing compiled before (cold) and with what such a run left (warm).

Seconds count from the start of the process, imports included, to the first evaluation whose 16
episodes have a mean return at or above the threshold. purejaxrl does not evaluate: there it is the
mean of the last 16 training episodes. Steps/s are those after compilation, without evaluation, and
all loops then have the same batches, passes and networks (`SAME_WORK`). The loops take turns, and
no two run at once. Torch has one thread, because two were slower; JAX has all cores.

With --search each loop tries the settings of `TRIES` on one seed, and the best two again on the
other --seeds. `BEST` records which of them was the quickest. All loops have the same tries, among
them published ones; ours also has the example's own config.py.

With --compiling the CPU seconds of compiling are printed: those of a process that compiles
everything, less those of the same process with everything in JAX's compilation cache. Both train to
the threshold with the same seed, so what is left over is compiling.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import classic

EXAMPLES = classic.HERE.parent / "examples"
EPISODES = 16  # of an evaluation
SPEED_RUNS = 5  # in which steps/s are measured; fewer for loops that are far slower
Settings = Mapping[str, Any]  # the names are those of PPOConfig


@dataclass(frozen=True)
class Measured:
    """A task: the example, its threshold, and how it is measured.

    Attributes:
      threshold: of the mean return.
      num_timesteps: that a loop has to reach it.
      evaluate_every: steps from one evaluation to the next.
      limit: seconds after which a run is ended as not solved.
      speed_steps: over which steps/s are measured.
    """

    example: str
    threshold: float
    num_timesteps: int
    evaluate_every: int
    limit: float
    speed_steps: int


TASKS = {
    "cartpole": Measured("cartpole", 475.0, 409_600, 8_192, 60, 409_600),
    "pendulum": Measured("pendulum", -200.0, 819_200, 8_192, 90, 409_600),
    "acrobot": Measured("acrobot", -100.0, 819_200, 8_192, 90, 409_600),
    "breakout": Measured("breakout", 10.0, 4_194_304, 65_536, 300, 524_288),
    "mjx-cartpole": Measured("inverted-pendulum", 950.0, 163_840, 20_480, 300, 40_960),
}

# Virtual environments by name. sbx takes no newer JAX.
VENVS = {
    "torch": ["stable-baselines3==2.9.2", "torch==2.13.0", "minatar==1.0.15"],
    "sbx": [
        "sbx-rl==0.25.0",
        "jax==0.8.3",
        "stable-baselines3",
        "torch==2.13.0",
        "minatar==1.0.15",
    ],
    "gymnax": ["rejax==0.1.3", "jax==0.10.2", "gymnax==0.0.9", "six"],
    "playground": ["playground==0.2.0", "jax==0.10.2", "brax==0.14.2"],
}


@dataclass(frozen=True)
class Peer:
    """Another loop: the script of `peers/` that trains with it, and its virtual environment."""

    script: str
    venv: str | None
    tasks: tuple[str, ...] = ("cartpole", "pendulum", "acrobot", "breakout")
    speed_runs: int = SPEED_RUNS


OURS = ("ours, cold", "ours, warm")
PEERS = {
    "Stable-Baselines3": Peer("run_sb3.py", "torch", speed_runs=2),
    "sbx": Peer("run_sb3.py", "sbx", speed_runs=2),
    "purejaxrl": Peer("run_purejaxrl.py", "gymnax"),
    "rejax": Peer("run_rejax.py", "gymnax"),
    "ppo.train": Peer("run_brax.py", None, tuple(TASKS)),  # runs where this script runs
    "Playground": Peer("run_brax.py", "playground", ("mjx-cartpole",)),
}

# ---- settings -----------------------------------------------------------------------------------

COMMON: Settings = {
    "num_envs": 16,
    "unroll_length": 64,
    "num_minibatches": 8,
    "num_updates_per_batch": 4,
    "learning_rate": 1e-3,
    "discounting": 0.99,
    "gae_lambda": 0.95,
    "clipping_epsilon": 0.2,
    "entropy_cost": 0.01,
    "max_grad_norm": 0.5,
    "normalize_observations": False,
}
FAST = {**COMMON, "learning_rate": 3e-3}
CLEANRL = {  # CleanRL's ppo.py, for the classic tasks
    **COMMON,
    "num_envs": 4,
    "unroll_length": 128,
    "num_minibatches": 4,
    "learning_rate": 2.5e-4,
    "anneal": True,
}
# rl-baselines3-zoo, hyperparams/ppo.yml.
ZOO: Mapping[str, Settings] = {
    "cartpole": {
        **COMMON,
        "num_envs": 8,
        "unroll_length": 32,
        "num_minibatches": 1,
        "num_updates_per_batch": 20,
        "discounting": 0.98,
        "gae_lambda": 0.8,
        "entropy_cost": 0.0,
        "anneal": True,
    },
    "pendulum": {
        **COMMON,
        "num_envs": 4,
        "unroll_length": 1024,
        "num_minibatches": 64,
        "num_updates_per_batch": 10,
        "discounting": 0.9,
        "entropy_cost": 0.0,
        "use_sde": True,  # Stable-Baselines3 alone has it
    },
    "acrobot": {
        **COMMON,
        "unroll_length": 256,
        "num_minibatches": 64,
        "learning_rate": 3e-4,
        "gae_lambda": 0.94,
        "entropy_cost": 0.0,
        "normalize_observations": True,
    },
}
PENDULUM = {
    "num_updates_per_batch": 8,
    "discounting": 0.95,
    "entropy_cost": 1e-3,
    "normalize_observations": True,
}
MINATAR = {**COMMON, "num_envs": 64, "unroll_length": 128, "learning_rate": 5e-3, "anneal": True}
MJX = {**COMMON, "num_minibatches": 16, "num_updates_per_batch": 8, "normalize_observations": True}

# Names of tries; `gallery` is the example's config.py, and so ours alone.
TRIES: Mapping[str, Mapping[str, Settings]] = {
    "cartpole": {"common": COMMON, "fast": FAST, "zoo": ZOO["cartpole"], "cleanrl": CLEANRL},
    "pendulum": {
        "common": {**COMMON, **PENDULUM},
        "fast": {**FAST, **PENDULUM},
        "short": {**FAST, **PENDULUM, "discounting": 0.9},
        "zoo": ZOO["pendulum"],
    },
    "acrobot": {"common": COMMON, "fast": FAST, "zoo": ZOO["acrobot"], "cleanrl": CLEANRL},
    "breakout": {
        "minatar": MINATAR,
        "common": {**COMMON, "unroll_length": 128},
        "wide": {**COMMON, "num_envs": 64},
    },
    "mjx-cartpole": {
        "common": MJX,
        "fast": {**MJX, "learning_rate": 3e-3},
        "short": {**MJX, "unroll_length": 16, "learning_rate": 3e-3},
    },
}
# What --search found: the quickest on average.
BEST: Mapping[str, Mapping[str, str]] = {
    "cartpole": {
        "ours": "cleanrl",
        "Stable-Baselines3": "fast",
        "sbx": "common",
        "purejaxrl": "fast",
        "rejax": "fast",
        "ppo.train": "common",
    },
    "pendulum": {
        "ours": "fast",
        "Stable-Baselines3": "common",
        "sbx": "common",
        "purejaxrl": "fast",
        "rejax": "fast",
        "ppo.train": "fast",
    },
    "acrobot": {
        "ours": "cleanrl",
        "Stable-Baselines3": "common",
        "sbx": "fast",
        "purejaxrl": "cleanrl",
        "rejax": "common",
        "ppo.train": "cleanrl",
    },
    "breakout": {
        "ours": "common",
        "Stable-Baselines3": "minatar",
        "sbx": "minatar",
        "purejaxrl": "minatar",
        "rejax": "minatar",
        "ppo.train": "minatar",
    },
    "mjx-cartpole": {"ours": "fast", "ppo.train": "fast", "Playground": "common"},
}
SAME_WORK: Mapping[str, Settings] = {
    task: tries.get("common", COMMON) for task, tries in TRIES.items()
}
LAYERS = (64, 64)  # of policy and value, as ours by default
EXAMPLE_LAYERS = {"breakout": (128, *LAYERS)}  # those of the example, where it has others


def settings_of(task: str, name: str) -> Settings:
    return {} if name == "gallery" else TRIES[task][name]


# ---- one process --------------------------------------------------------------------------------

RETURN = "eval/episode_reward"


@dataclass(frozen=True)
class Run:
    """What a process did.

    Attributes:
      seconds: to the threshold; infinite if it was not reached.
      last: the row that reached it, or the last one.
    """

    seconds: float
    cpu_seconds: float
    last: Mapping[str, float]


@dataclass(frozen=True)
class Bench:
    """Where the virtual environments are, and purejaxrl."""

    folder: Path
    purejaxrl: Path | None

    def run(
        self, loop: str, task: str, settings: Settings, seed: int, cache: str | None, *, watch: bool
    ) -> Run:
        """Trains to the threshold (`watch`), or to the end without evaluations.

        `cache` is the folder of JAX's compilation cache; None for no cache, but not for ours.
        """
        measured = TASKS[task]
        steps = measured.num_timesteps if watch else measured.speed_steps
        source = EXAMPLES / measured.example / "src"
        env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(source)}
        if cache is not None:
            env |= classic.cached(cache)
        (package,) = (path.name for path in source.iterdir())
        threshold, limit = (measured.threshold, measured.limit) if watch else (math.inf, math.inf)
        with tempfile.TemporaryDirectory() as folder:
            if loop in OURS:
                run = Path(folder) / "run"
                given = for_rollouts(settings) | {
                    "seed": seed,
                    "num_timesteps": steps,
                    "num_evals": 1 + steps // measured.evaluate_every if watch else 4,
                    "num_eval_envs": EPISODES,
                    "deterministic_eval": True,
                }
                command = [sys.executable, "-m", package, "train", "--run-dir", str(run)]
                command += classic.flags(given)
                return watched(command, env, None, run, threshold, limit)
            peer = PEERS[loop]
            given = for_rollouts(settings) if peer.script == "run_brax.py" else dict(settings)
            given |= {
                "loop": loop,
                "task": task,
                "package": package,
                "seed": seed,
                "num_seeds": 1,
                "num_timesteps": steps,
                "watch": watch,
                "evaluate_every": measured.evaluate_every,
                "episodes": EPISODES,
                "layers": LAYERS if watch else EXAMPLE_LAYERS.get(task, LAYERS),
            }
            command = [self.python(peer), str(classic.HERE / "peers" / peer.script)]
            command += [str(self.purejaxrl)] * (loop == "purejaxrl") + [json.dumps(given)]
            output = Path(folder) / "metrics.jsonl"
            return watched(command, env, output, Path(folder), threshold, limit)

    def python(self, peer: Peer) -> str:
        """The interpreter of a peer's virtual environment, which is made if there is none."""
        if peer.venv is None:
            return sys.executable
        place = self.folder / peer.venv
        python = place / "bin" / "python"
        if not python.exists():
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            subprocess.run(["uv", "venv", "-q", "--python", version, str(place)], check=True)
            install = ["uv", "pip", "install", "-q", "--python", str(python)]
            subprocess.run([*install, *VENVS[peer.venv]], check=True)
        return str(python)


def watched(
    command: list[str],
    env: Mapping[str, str],
    output: Path | None,
    folder: Path,
    threshold: float,
    limit: float,
) -> Run:
    """Runs a process until a row of the folder's metrics.jsonl is at the threshold, or to its end.

    Its stdout goes to `output`.
    """
    with (output or Path(os.devnull)).open("w") as stdout, tempfile.TemporaryFile("w+") as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=stdout, stderr=stderr)
        solved, pid = None, 0
        while not pid:
            time.sleep(0.01)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            seconds = time.perf_counter() - start
            rows = classic.rows(folder)
            solved = next((x for x in rows if x.get(RETURN, -math.inf) >= threshold), None)
            if not pid and (solved or seconds > limit):
                process.kill()  # all programs are in the cache as soon as they are compiled
                pid, _, usage = os.wait4(process.pid, 0)
                status = 0
        process.returncode = status
        if status:
            stderr.seek(0)
            raise SystemExit(f"{command}\n{stderr.read()[-3000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    last = solved or (rows[-1] if rows else {})
    return Run(seconds if solved else math.inf, cpu, last)


def for_rollouts(settings: Settings) -> dict[str, Any]:
    """Minibatches of whole rollouts, as Brax has them: shorter ones where one is too long."""
    if not settings:
        return {}
    found = {k: v for k, v in settings.items() if k not in ("anneal", "use_sde")}
    minibatch = settings["num_envs"] * settings["unroll_length"] // settings["num_minibatches"]
    found["unroll_length"] = min(settings["unroll_length"], minibatch)
    found["batch_size"] = minibatch // found["unroll_length"]
    found["learning_rate_schedule"] = "linear" if settings.get("anneal") else "constant"
    return found


# ---- search and table ---------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--purejaxrl", type=Path, metavar="PATH", help="a checkout")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/side-by-side")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--loops", nargs="+", default=["ours", *PEERS], choices=["ours", *PEERS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--search", action="store_true", help="try settings")
    parser.add_argument("--compiling", action="store_true", help="measure compiling alone")
    arguments = parser.parse_args()
    purejaxrl = arguments.purejaxrl and arguments.purejaxrl.resolve()
    bench = Bench(arguments.folder, purejaxrl)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}\n")
    for task in arguments.tasks:
        loops = [x for x in arguments.loops if x == "ours" or task in PEERS[x].tasks]
        if purejaxrl is None and "purejaxrl" in loops:
            loops.remove("purejaxrl")
            print("purejaxrl is not run: give --purejaxrl PATH.")
        if arguments.compiling:
            loops = [x for x in loops if x == "ours" or PEERS[x].venv != "torch"]
            compiling(bench, task, loops, arguments.seeds)
        elif arguments.search:
            search(bench, task, loops, arguments.seeds)
        else:
            compare(bench, task, loops, arguments.seeds)


def search(bench: Bench, task: str, loops: list[str], seeds: int) -> None:
    """Prints the seconds of each try."""
    print(f"| {task} | try | seconds, by seed |\n| --- | --- | --- |", flush=True)
    for loop in loops:
        names = [*TRIES[task], *["gallery"] * (loop == "ours")]
        found: dict[str, list[float]] = {}
        for seed in range(100, 100 + seeds):  # other seeds than those of the table
            if seed == 101:
                names = sorted(names, key=lambda name: found[name][0])[:2]
            for name in names:
                with tempfile.TemporaryDirectory() as cache:
                    settings = settings_of(task, name)
                    kept = cache if loop == "ours" else None
                    run = bench.run(cold(loop), task, settings, seed, kept, watch=True)
                found.setdefault(name, []).append(run.seconds)
        for name, seconds in found.items():
            print(f"| {loop} | {name} | {' '.join(f'{x:.1f}' for x in seconds)} |", flush=True)


def cold(loop: str) -> str:
    return OURS[0] if loop == "ours" else loop


def best(task: str, name: str) -> Settings:
    return settings_of(task, BEST[task]["ours" if name in OURS else name])


def compiling(bench: Bench, task: str, loops: list[str], seeds: int) -> None:
    """Prints the CPU seconds of compiling."""
    found: dict[str, list[tuple[float, float]]] = {loop: [] for loop in loops}
    for seed in range(seeds):
        for loop, pairs in found.items():
            name = cold(loop)
            with tempfile.TemporaryDirectory() as cache:
                first, second = (
                    bench.run(name, task, best(task, name), seed, cache, watch=True).cpu_seconds
                    for _ in range(2)
                )
            pairs.append((first, second))
    ours = statistics.median(first - second for first, second in found[loops[0]])
    print(f"| {task}, CPU s | nothing cached | all cached | compiling (range) | ours / it |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for loop, pairs in found.items():
        spent = [first - second for first, second in pairs]
        cells = [
            loop,
            *(f"{statistics.median(x):.1f}" for x in zip(*pairs, strict=True)),
            f"{statistics.median(spent):.1f} ({min(spent):.1f} to {max(spent):.1f})",
            f"{ours / statistics.median(spent):.2f}" if loop != loops[0] else "",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def compare(bench: Bench, task: str, loops: list[str], seeds: int) -> None:
    names = [y for x in loops for y in (OURS if x == "ours" else [x])]
    runs: dict[str, list[Run]] = {name: [] for name in names}
    speeds: dict[str, list[Run]] = {name: [] for name in names}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as other:
            for name in names:
                kept = cache if name in OURS else None
                runs[name].append(bench.run(name, task, best(task, name), seed, kept, watch=True))
                speed_runs = PEERS[name].speed_runs if name in PEERS else SPEED_RUNS
                if seed < speed_runs and name != OURS[1]:
                    kept = other if name in OURS else None
                    run = bench.run(name, task, SAME_WORK[task], seed, kept, watch=False)
                    speeds[name].append(run)
        print(
            f"{task}, seed {seed}: {[round(x[-1].seconds, 1) for x in runs.values()]}",
            file=sys.stderr,
        )
    print(
        f"\n| {task} | solved | seconds, median (range) | ours / it, cold | warm | steps "
        "| steps/s | ours / it | CPU s |\n" + "| --- |" + " ---: |" * 8
    )
    medians = {
        name: statistics.median(run.seconds for run in found) for name, found in runs.items()
    }
    sps = {
        name: statistics.median(run.last["training/sps"] for run in found)
        for name, found in speeds.items()
        if found
    }
    for name, found in runs.items():
        seconds = [run.seconds for run in found]
        solved = [run for run in found if run.seconds < math.inf]
        cells = [
            name,
            f"{len(solved)} of {len(found)}",
            f"{medians[name]:.1f} ({min(seconds):.1f} to {max(seconds):.1f})",
            *(f"{medians[each] / medians[name]:.2f}" if name not in OURS else "" for each in OURS),
            f"{statistics.median(run.last['steps'] for run in solved):,.0f}" if solved else "",
            f"{sps[name]:,.0f}" if name in sps else "",
            f"{sps[OURS[0]] / sps[name]:.2f}" if name in sps and name not in OURS else "",
            f"{statistics.median(run.cpu_seconds for run in found):.1f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
