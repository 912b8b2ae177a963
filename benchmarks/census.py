"""What `check` says of the environments of Brax, gymnax and MuJoCo Playground.

    uv run --with playground==0.2.0 python benchmarks/census.py --write census.json

Each environment that loads without a download is checked in a process of its own, by the kit's
`check MODULE:NAME`. What it found is printed as a table, a row for each environment.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).parents[1] / "template" / "src" / "{{package_name}}"

# Imports the kit as it lies in the template, and checks what the first argument names.
CHECK = """
import sys, types
sys.path.insert(0, sys.argv[1])
from kit import cli
cli.main("check", types.ModuleType("none"), ["check", sys.argv[2], "--json", "--time-limit", "300"])
"""

LISTS = {
    "brax": """
import brax.envs
for name in sorted(brax.envs._envs):
    for backend in ("generalized", "positional", "spring"):
        print(f'brax.envs:get_environment({name!r}, backend={backend!r})')
""",
    "gymnax": """
import gymnax
for name in gymnax.registered_envs:
    print(f'gymnax:make({name!r})')
""",
    "playground": """
from mujoco_playground import dm_control_suite
for name in dm_control_suite.ALL_ENVS:
    print(f"mujoco_playground:registry.load({name!r}, config_overrides={{'impl': 'jax'}})")
""",
}


def python(*arguments: str) -> str:
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("libraries", nargs="*", help="brax, gymnax and playground if none is named")
    parser.add_argument("--write", type=Path, help="a JSON file for all reports")
    asked = parser.parse_args()
    told = {}
    print("| environment | errors and warnings | s |\n| --- | --- | --- |")
    for library in asked.libraries or LISTS:
        for line in python(LISTS[library]).splitlines():
            if ":" not in line:  # what a library prints when it is imported
                continue
            output = python(CHECK, str(KIT), line)
            try:
                (report,) = json.loads(output[output.index('{\n  "ok"') :])["tasks"].values()
            except ValueError:
                print(f"| `{line}` | no report: {output[-200:]!r} | |", flush=True)
                continue
            told[line] = report
            found = "<br>".join(
                f"{v['severity']} `{v['rule']}`: {v['actual']}" for v in report["violations"]
            )
            left = ", ".join(report["unchecked"])
            found += f"<br>not checked: {left}" if left else ""
            print(f"| `{line}` | {found or 'none'} | {report['seconds']:.0f} |", flush=True)
            if asked.write:
                asked.write.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
