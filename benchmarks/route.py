"""Follows one task through a training run of the kit: which functions hold it, and by which names.

Prints each function that holds the task or its settings, in the order in which they get them, how
often such a call climbs to a room that is above the caller's (tests/test_house.py has the floors),
and the names of the variables.
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KIT = ROOT / "template" / "src" / "{{package_name}}" / "kit"
sys.path[:0] = [str(KIT.parent), str(ROOT / "tests" / "kit"), str(ROOT / "tests")]
with contextlib.redirect_stdout(io.StringIO()):
    from kit.ppo.settings import PPOConfig
    from kit.ppo.task import Task
    from kit.run.train import train
    from rich.console import Console
    from test_house import floor
    from toys import toy_task


def module(frame: Any) -> tuple[str, ...] | None:
    path = Path(frame.f_code.co_filename)
    return path.relative_to(KIT).with_suffix("").parts if path.is_relative_to(KIT) else None


def main() -> None:
    stops: dict[str, None] = {}
    names: dict[str, set[str]] = {"task": set(), "settings": set()}
    climbs: set[str] = set()

    def follow(frame: Any, event: str, _: Any) -> None:
        here = module(frame) if event in ("call", "return") else None
        if here is None or frame.f_code.co_name.startswith("<"):
            return
        held = {
            name: "task" if isinstance(x, Task) else "settings"
            for name, x in frame.f_locals.items()
            if isinstance(x, Task | PPOConfig) and name != "self"
        }
        for name, kind in held.items():
            names[kind].add(name)
        if event != "call" or not (held or isinstance(frame.f_locals.get("self"), Task)):
            return
        stop = f"{'/'.join(here)}: {frame.f_code.co_name}"
        stops[stop] = None
        above = frame.f_back and module(frame.f_back)
        if above and floor(here) > floor(above):
            climbs.add(f"{'/'.join(above)} -> {stop}")

    task = toy_task()
    with tempfile.TemporaryDirectory() as folder:
        sys.setprofile(follow)
        train(task, run_dir=Path(folder) / "run", console=Console(quiet=True))
        sys.setprofile(None)
    print(*stops, sep="\n")
    modules = {stop.split(":")[0] for stop in stops}
    print(f"\n{len(stops)} functions in {len(modules)} modules; climbs: {sorted(climbs) or 'none'}")
    for kind, found in names.items():
        print(f"the {kind} is called {', '.join(sorted(found))}")


if __name__ == "__main__":
    main()
