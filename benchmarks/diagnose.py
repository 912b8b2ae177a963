"""What `diagnose` finds: returns of the planner on sound tasks, and planted faults.

    python benchmarks/diagnose.py [--cases skeleton Acrobot ...] [--minutes 1]

The tasks and the faults are those of tests/tasks/faults.py. The goal is the published threshold, or
on the skeletons what no policy can beat on these starts (`project.best_and_random_return`). Seconds
are those of `diagnose`, compilation included, one case after another in one process. Tasks whose
future lies in the state or on `self` come last, with a policy near the best one, which must not be
blamed.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [
    str(ROOT / "template/src/{{package_name}}"),
    str(ROOT / "tests/check"),
    str(ROOT / "tests/tasks"),
]
from kit.tools.diagnose.diagnose import diagnose  # before Brax, which it keeps quiet  # noqa: E402, I001
from kit.tools.diagnose.evidence import Evidence  # noqa: E402
from kit.tools.diagnose.findings import findings  # noqa: E402
import faults  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

THRESHOLDS = {"Pendulum": -200, "CartPole": 475, "Acrobot": -100, "MountainCarContinuous": 90}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="those whose names start so")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cases = {name: faults.Case(task, None) for name, task in faults.SOUND.items()} | faults.FAULTS
    asked = tuple(arguments.cases or [""])
    print("| task | goal | planner | constant | random | found | right | seconds |")
    print("| --- | ---: | ---: | ---: | ---: | --- | --- | ---: |", flush=True)
    wrong = 0
    for name, case in cases.items():
        if name.startswith(asked):
            seen = diagnose(case.task, seed=arguments.seed, minutes=arguments.minutes)
            found = list(findings(seen))
            right = found[:1] == ([case.finding] if case.finding else [])
            wrong += not right
            played = (
                f"{seen.mean(x):.4g}" if x in seen.played else "-"
                for x in ("planner", "constant", "random")
            )
            print(
                f"| {name} | {best(name, seen, arguments.seed)} | {' | '.join(played)} "
                f"| {', '.join(found) or '-'} | {'yes' if right else 'NO'} | {seen.seconds:.1f} |",
                flush=True,
            )
    print("\n| task | policy | planner | constant | random | found | right | seconds |")
    print("| --- | ---: | ---: | ---: | ---: | --- | --- | ---: |", flush=True)
    for name, (task, policy, _) in faults.FORESIGHT.items():
        if name.startswith(asked):
            seen = diagnose(task, policy, seed=arguments.seed, minutes=arguments.minutes)
            found = list(findings(seen))
            right = "training_is_at_fault" not in found
            wrong += not right
            played = (
                f"{seen.mean(x):.4g}" if x in seen.played else "-"
                for x in ("trained", "planner", "constant", "random")
            )
            print(
                f"| {name} | {' | '.join(played)} | {', '.join(found) or '-'} "
                f"| {'yes' if right else 'NO'} | {seen.seconds:.1f} |",
                flush=True,
            )
    sys.exit(wrong > 0)


def best(name: str, seen: Evidence, seed: int) -> str:
    """The known best, as text; empty where nothing is known."""
    if name in THRESHOLDS:
        return f"{THRESHOLDS[name]}"
    if name not in ("skeleton", "hybrid skeleton"):
        return ""
    env, count = faults.SOUND[name].environment(), len(seen.played["random"].returns)
    key, _ = jax.random.split(jax.random.PRNGKey(seed))
    point = jax.vmap(env.reset)(jax.random.split(key, count)).pipeline_state
    offset = jnp.abs(point.position - getattr(point, "goal", 0.0))
    left = offset - 0.1 * jnp.arange(1, seen.limit + 1)[:, None, None]
    return f"{-jnp.sum(jnp.maximum(left, 0.0) ** 2, axis=(0, 2)).mean():.4g}"


if __name__ == "__main__":
    main()
