"""Makes the environments of all tasks known to Brax, without importing the tasks."""

import ast
import contextlib
import functools
import importlib
import pkgutil
from typing import Any

from brax.envs import register_environment
from brax.envs.base import Env


def register(package: str, env_class: type[Env]) -> None:
    """Lets `brax.envs.get_environment(NAME)` make the environment of each task of config.py.

    NAME is the task's, and that of the package for `env_class`, the environment of `task`.
    config.py is read, to find its names, and only imported when such an environment is made:
    networks and PPO take a second that an environment alone does not need. Keyword arguments go to
    the task's `environment`.
    """
    register_environment(package, env_class)
    code: bytes | None = None
    with contextlib.suppress(OSError):  # a package without config.py
        code = pkgutil.get_data(package, "config.py")
    with contextlib.suppress(SyntaxError, ValueError):  # which importing config.py reports
        for statement in ast.parse(code or b"").body:
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(name)], value=ast.Call())
                    | ast.AnnAssign(target=ast.Name(name), value=ast.Call())
                ) if name != "task":
                    register_environment(name, functools.partial(_make, package, name))


def _make(package: str, name: str, **arguments: Any) -> Env:
    from ..ppo.task import choose, tasks_in

    _, task = choose(tasks_in(importlib.import_module(f"{package}.config")), name)
    return task.environment(**arguments)
