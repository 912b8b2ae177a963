r"""N seeds at once: wall seconds, beside one after another, purejaxrl and rejax.

    uv run --with rejax==0.1.3 --with gymnax==0.0.9 --with six \
        python benchmarks/seeds.py --purejaxrl PATH [--repeats 3]

PATH is a checkout of github.com/luchris429/purejaxrl, which is on no package index. All train the
same networks (two layers of 64 swish units for the policy, two for the value) on the same
dynamics, with the same environments, rollouts, minibatches, passes and updates. That the numbers of
environment steps and of gradient steps are equal is checked.

Wall counts from the start of the process to its end, first with an empty compilation cache (cold),
then with what that run left (warm). Ours is the command `train` with all that it writes, and
evaluates before and after; rejax evaluates after; purejaxrl does not. "One after another" is
`train` once for each seed, with one cache; beyond 8 seeds it is estimated from the first 8.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import classic

# The names are those of PPOConfig.
SHARED = {
    "num_envs": 16,
    "unroll_length": 64,
    "num_minibatches": 8,
    "gae_lambda": 0.95,
    "clipping_epsilon": 0.2,
    "max_grad_norm": 0.5,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "constant",
    "init_value_from_rollouts": False,
}
SETTINGS = {
    "cartpole": SHARED
    | {
        "num_timesteps": 204_800,
        "num_updates_per_batch": 4,
        "discounting": 0.99,
        "entropy_cost": 1e-2,
        "normalize_observations": False,
    },
    "pendulum": SHARED
    | {
        "num_timesteps": 409_600,
        "num_updates_per_batch": 8,
        "discounting": 0.95,
        "entropy_cost": 1e-3,
        "normalize_observations": True,
    },
}
MEASURED = 8  # runs one after another

Found = dict[str, float]  # wall seconds, cold and warm, and the returns


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--purejaxrl", type=Path, metavar="PATH", help="a checkout")
    parser.add_argument("--tasks", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 8, 32], metavar="N")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--updates", type=int, help="fewer, to try the script")
    arguments = parser.parse_args()
    peers = {}
    if arguments.purejaxrl is None:
        print("purejaxrl is not measured: give --purejaxrl PATH.")
    else:
        script = classic.HERE / "peers" / "run_purejaxrl.py"
        peers["purejaxrl"] = [str(script), str(arguments.purejaxrl.resolve())]
    if importlib.util.find_spec("rejax") is None:
        print("rejax is not measured: use uv run --with, as --help shows.")
    else:
        peers["rejax"] = [str(classic.HERE / "peers" / "run_rejax.py")]
    import jax

    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, JAX {jax.__version__}\n")
    print(
        "| task | seeds | loop | cold, s | warm, s | ours / it, cold | warm | mean return, worst |"
    )
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |", flush=True)
    with classic.rendered() as src:
        for task in arguments.tasks:
            settings = dict(SETTINGS[task])
            if arguments.updates:
                settings["num_timesteps"] = arguments.updates * steps_per_update(settings)
            for seeds in arguments.seeds:
                found: dict[str, list[Found]] = {}
                for repeat in range(arguments.repeats):
                    first = 100 * repeat
                    found.setdefault("`train --num-seeds`", []).append(
                        at_once(src, task, settings, seeds, first)
                    )
                    if seeds > 1:
                        found.setdefault("`train`, one after another", []).append(
                            one_by_one(src, task, settings, seeds, first)
                        )
                    for name, command in peers.items():
                        found.setdefault(name, []).append(
                            peer(command, src, task, settings, seeds, first)
                        )
                print_rows(task, seeds, found)


def steps_per_update(settings: dict) -> int:
    return settings["num_envs"] * settings["unroll_length"]


def flags(settings: dict) -> dict:
    """The flags of `train`; a batch is one rollout of each environment, as the peers have it."""
    batch, rest = divmod(settings["num_envs"], settings["num_minibatches"])
    assert not rest
    return settings | {"batch_size": batch, "num_evals": 2}


def at_once(src: Path, task: str, settings: dict, seeds: int, first: int) -> Found:
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        for state in ("cold", "warm"):
            run = Path(folder) / state
            given = flags(settings) | {"seed": first}
            if seeds > 1:
                given["num_seeds"] = seeds
            command = classic.train(task, run, given)
            found[state], _ = classic.timed(command, classic.variables(src, f"{folder}/cache"))
            found |= returns_of([run], settings, seeds)
    return found


def one_by_one(src: Path, task: str, settings: dict, seeds: int, first: int) -> Found:
    measured = min(seeds, MEASURED)
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / str(i) for i in range(measured + 1)]
        env = classic.variables(src, f"{folder}/cache")
        seconds = [
            classic.timed(classic.train(task, run, flags(settings) | {"seed": first + i}), env)[0]
            for i, run in enumerate(runs)
        ]
        warm = statistics.mean(seconds[1:]) * seeds
        return {
            "cold": seconds[0] + warm * (seeds - 1) / seeds,
            "warm": warm,
        } | returns_of(runs[:measured], settings, measured)


def returns_of(runs: list[Path], settings: dict, seeds: int) -> Found:
    last = [row for run in runs for row in classic.rows(run)]
    steps = max(row["steps"] for row in last)
    assert steps == settings["num_timesteps"], (steps, settings["num_timesteps"])
    returns = [row["eval/episode_reward"] for row in last if row["steps"] == steps]
    assert len(returns) == seeds, returns
    return {"mean": statistics.mean(returns), "worst": min(returns)}


def peer(command: list[str], src: Path, task: str, settings: dict, seeds: int, first: int) -> Found:
    given = settings | {"task": task, "num_seeds": seeds, "seed": first, "layers": (64, 64)}
    updates = settings["num_timesteps"] // steps_per_update(settings)
    gradient_steps = updates * settings["num_minibatches"] * settings["num_updates_per_batch"]
    found: Found = {}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            found[state], output = classic.timed(
                [sys.executable, *command, json.dumps(given)], classic.variables(src, cache)
            )
            result = json.loads(output.splitlines()[-1])
            assert result["steps"] == settings["num_timesteps"], result
            assert result["gradient_steps"] == gradient_steps, result
            returns = result["returns"]
            assert len(returns) == seeds, returns
            found |= {"mean": statistics.mean(returns), "worst": min(returns)}
    return found


def print_rows(task: str, seeds: int, found: dict[str, list[Found]]) -> None:
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    ours = next(iter(medians.values()))
    for name, its in medians.items():
        ratios = [f"{ours[state] / its[state]:.2f}" for state in ("cold", "warm")]
        estimated = " (estimated)" * ("another" in name and seeds > MEASURED)
        print(
            f"| {task} | {seeds} | {name}{estimated} | {its['cold']:.1f} | {its['warm']:.1f} | "
            f"{' | '.join(ratios)} | {its['mean']:.0f}, {its['worst']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
