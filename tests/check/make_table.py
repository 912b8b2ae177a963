"""Writes the tables of docs/check.md: the rules, and what is said about each planted defect.

    python tests/check/make_table.py [--rules-only]

For each defect, Brax's own `ppo.train` is run on a small problem beside `check`. It takes about
half an hour; `--rules-only` takes seconds.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

import conftest  # noqa: F401  the path to `kit`
from brax.envs.base import Env
from brax.training.agents.ppo import train as ppo
from defects import DEFECTS, Defect
from kit.actions import Continuous, Discrete
from kit.brax_trainers import enable_brax_trainers
from kit.check import RULES, check_env
from kit.networks import make_network_factory

PAGE = Path(__file__).parents[2] / "docs" / "check.md"


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
                    policy_hidden_layer_sizes=(8,),
                    value_hidden_layer_sizes=(8,),
                ),
            )
    except BaseException as error:
        text = str(error).strip() or "no message"
        last = [line.strip() for line in text.splitlines() if line.strip()][-1]
        size = len(text)
        more = f" (the last of {size:,} characters)" if size > 500 else ""
        return f"`{type(error).__name__}`: {_cell(last, 90)}{more}"
    return "trains without an error"


def what_check_says(env: Env, defect: Defect) -> str:
    found = [v for v in check_env(env, episode_length=60, time_limit=300) if v.rule == defect.rule]
    return f"`{defect.rule}`: {_cell(found[0].actual, 160)}" if found else "**nothing**"


def _cell(text: str, longest: int) -> str:
    """One line that does not break a table, without memory addresses."""
    text = re.sub(r"0x[0-9a-f]+|\b\d{12,}\b", "...", text.replace("\n", " "))
    text = text if len(text) <= longest else text[: longest - 3] + "..."
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "'")


def rules() -> list[str]:
    lines = ["| rule | | what it asks |", "| --- | --- | --- |"]
    return lines + [f"| `{rule.id}` | {rule.severity} | {rule.says} |" for rule in RULES]


def defects() -> list[str]:
    lines = ["| defect | `ppo.train` | `check` |", "| --- | --- | --- |"]
    for defect in DEFECTS:
        base = defect.bases[0]
        print(defect.rule, defect.title, flush=True)
        check = what_check_says(defect.plant(base)(), defect)
        train = what_ppo_says(defect.plant(base)(), discrete=base.__name__ == "Maze")
        lines.append(f"| {defect.title} | {train} | {check} |")
    severity = {rule.id: rule.severity for rule in RULES}
    counts = []
    for kind in ("error", "warning"):
        rows = [row for d, row in zip(DEFECTS, lines[2:], strict=True) if severity[d.rule] == kind]
        silent = sum("trains without an error" in row for row in rows)
        counts.append(f"{silent} of the {len(rows)} {kind}s")
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
