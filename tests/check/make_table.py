"""Writes the tables of docs/check.md: the rules, and what is said about each planted defect.

    python tests/check/make_table.py [--rules-only | --all]

For each defect `check` is run, and Brax's own `ppo.train` on a small problem if the table has no
row of the defect yet. With `--all` it is run for each, which takes about half an hour.
`--rules-only` takes seconds.
"""

import contextlib
import io
import sys
from typing import Any

import conftest  # noqa: F401  the path to `kit`
import jax
import jax.numpy as jnp
from bases import Sensed
from brax.envs.base import Env
from brax.training.agents.ppo import train as ppo
from checking import check_env
from defects import DEFECTS
from flax import linen as nn
from kit.check import RULES
from kit.env.actions import Continuous, Discrete
from kit.ppo.brax_trainers import enable_brax_trainers
from kit.ppo.networks import make_network_factory
from table import PAGE, cell, key_of, rows, what_check_says


class Everything(nn.Module):
    """Encodes a dict observation: all of its entries, one after the other."""

    def __call__(self, observation: Any, normalized: Any) -> jax.Array:
        entries = [
            x.reshape(*x.shape[:-3], -1) if name.startswith("pixels/") else normalized[name]
            for name, x in observation.items()
        ]
        return jnp.concatenate(entries, axis=-1)


def what_ppo_says(env: Env, *, discrete: bool) -> str:
    """The last line of the error, or that there is none."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            ppo.train(
                environment=env,
                num_timesteps=2048,
                episode_length=60,
                num_envs=4,
                unroll_length=8,
                batch_size=4,
                num_minibatches=2,
                num_updates_per_batch=1,
                num_evals=2,
                num_eval_envs=4,
                network_factory=make_network_factory(
                    (Discrete if discrete else Continuous)(env.action_size),
                    encoder=Everything() if isinstance(env, Sensed) else None,
                    policy_hidden_layer_sizes=(8,),
                    value_hidden_layer_sizes=(8,),
                ),
            )
    except BaseException as error:
        text = str(error).strip() or "no message"
        last = [line.strip() for line in text.splitlines() if line.strip()][-1]
        size = len(text)
        more = f" (the last of {size:,} characters)" if size > 500 else ""
        return f"`{type(error).__name__}`: {cell(last, 90)}{more}"
    return "trains without an error"


def rules() -> list[str]:
    lines = ["| rule | | what it asks |", "| --- | --- | --- |"]
    return lines + [f"| `{rule.id}` | {rule.severity} | {rule.says} |" for rule in RULES]


def defects() -> list[str]:
    lines = ["| defect | `ppo.train` | `check` |", "| --- | --- | --- |"]
    known = {} if "--all" in sys.argv else rows()
    for defect in DEFECTS:
        base = defect.bases[0]
        print(defect.rule, defect.title, flush=True)
        found = check_env(defect.plant(base)(), episode_length=60, time_limit=500)
        check = what_check_says(found, defect)
        train, _ = known.get(key_of(defect)) or ("", "")
        train = train or what_ppo_says(defect.plant(base)(), discrete=base.__name__ == "Maze")
        lines.append(f"| {defect.title} | {train} | {check} |")
    severity = {rule.id: rule.severity for rule in RULES}
    counts = []
    for kind in ("error", "warning"):
        those = [row for d, row in zip(DEFECTS, lines[2:], strict=True) if severity[d.rule] == kind]
        silent = sum("trains without an error" in row for row in those)
        counts.append(f"{silent} of the {len(those)} {kind}s")
    return [f"Trained without an error: {' and '.join(counts)}.", "", *lines]


def put(page: str, name: str, lines: list[str]) -> str:
    """`page` with `lines` between its two marks called `name`."""
    begin, end = f"<!-- {name}: make_table.py -->", f"<!-- /{name} -->"
    before, rest = page.split(begin)
    return before + "\n".join([begin, "", *lines, "", end]) + rest.split(end)[1]


def main() -> None:
    enable_brax_trainers()
    page = put(PAGE.read_text(), "rules", rules())
    PAGE.write_text(page)
    if "--rules-only" not in sys.argv:
        PAGE.write_text(put(page, "defects", defects()))


if __name__ == "__main__":
    main()
