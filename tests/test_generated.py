"""Projects of each kind, run: their own tests, importing, sizes, dtypes, and a short training."""

import dataclasses
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from projects import Render
from rich.console import Console

KINDS = list(product(["vector", "hybrid"], ["continuous", "discrete", "multi_discrete"]))
# Sizes at the ends of their ranges, and those that leave the point no plane to move in.
SIZES: list[dict[str, Any]] = [
    {"actions": "continuous", "vector_size": 1, "action_size": 3},
    {"actions": "continuous", "vector_size": 65536, "action_size": 1024},
    {"actions": "discrete", "vector_size": 1, "action_size": 1},
    {"actions": "discrete", "vector_size": 3, "action_size": 2},
    {"actions": "discrete", "vector_size": 2, "action_size": 1024},
    {"actions": "multi_discrete", "vector_size": 2, "action_size": 1},
    {"actions": "multi_discrete", "vector_size": 5, "action_size": 1024},
    {"actions": "continuous", "vector_size": 1, "action_size": 3, "image_shape": "1x1x1"},
    {"actions": "discrete", "vector_size": 16, "action_size": 3, "image_shape": "1x7x2"},
    {"actions": "multi_discrete", "vector_size": 3, "action_size": 5, "image_shape": "256x256x16"},
]

LARGE = {"65536", "1024", "256x256x16"}

Import = Callable[..., Any]


def one_of(cases: list[Any], chosen: int) -> list[Any]:
    """The cases of a slow test: all but one are long."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=[] if i == chosen else [pytest.mark.long],
            id="-".join(map(str, case.values() if isinstance(case, dict) else case)),
        )
        for i, case in enumerate(cases)
    ]


@pytest.fixture(scope="module")
def package(render: Render) -> Import:
    """A function from answers to the imported package; each has a name of its own."""
    names: dict[str, str] = {}

    def package(**answers: Any) -> Any:
        name = names.setdefault(str(answers), f"generated_{len(names)}")
        project = render(package_name=name, **answers)
        if name not in sys.modules:
            sys.path.append(str(project / "src"))
        return importlib.import_module(name)

    return package


def kind_of(sizes: dict[str, Any]) -> dict[str, Any]:
    return {"observation": "hybrid" if "image_shape" in sizes else "vector", **sizes}


def python(project: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project / "src")} | env,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("observation", "actions"),
    # test_newcomer.py runs those of the other two.
    one_of([kind for kind in KINDS if kind[0] == "vector" or kind[1] == "multi_discrete"], 3),
)
def test_its_own_tests_pass(render: Render, tmp_path: Path, observation: str, actions: str) -> None:
    assert seconds_of_its_tests(render(observation=observation, actions=actions), tmp_path) < 60


@pytest.mark.slow
def test_the_tests_of_a_physics_project_pass(render: Render, tmp_path: Path) -> None:
    assert seconds_of_its_tests(render(dynamics="mjx"), tmp_path) < 120


def seconds_of_its_tests(project: Path, tmp_path: Path) -> float:
    """Seconds of CPU; fails if a test does."""
    started, worked = time.perf_counter(), cpu_seconds()
    compiled = str(tmp_path / "compiled")
    result = python(
        project, "-m", "pytest", "-p", "no:cacheprovider", JAX_COMPILATION_CACHE_DIR=compiled
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert re.search(r"\d+ passed", output), output
    assert not re.search(r"\d+ (skipped|warning|xfail|xpass)|Failed to import", output), output
    # Waiting for a busy machine does not count.
    return min(time.perf_counter() - started, cpu_seconds() - worked)


def cpu_seconds() -> float:
    """What finished child processes have used."""
    usage = os.times()
    return usage.children_user + usage.children_system


@pytest.mark.slow
def test_importing_it_prints_nothing(render: Render) -> None:
    """Brax by itself complains about packages that nobody needs here."""
    code = "import my_env, my_env.__main__; import brax.envs; brax.envs.get_environment('my_env')"
    result = python(render(observation="hybrid"), "-c", code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


CORRIDOR = '''
"""Another task: nothing of the first one is left. Walk to the end of a corridor."""

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State

from .kit import Discrete

LENGTH = 6


class Corridor(Env):
    """Three actions: back, stay, forth."""

    observation_size = LENGTH
    action_space = Discrete(3)
    action_size = 3
    backend = "none"

    def reset(self, rng: jax.Array) -> State:
        cell = jax.random.randint(rng, (), 0, LENGTH - 1)
        zero = jnp.zeros((), jnp.float32)
        return State(cell, jax.nn.one_hot(cell, LENGTH), zero, zero)

    def step(self, state: State, action: jax.Array) -> State:
        cell = jnp.clip(state.pipeline_state + action - 1, 0, LENGTH - 1)
        done = jnp.float32(cell == LENGTH - 1)
        obs = jax.nn.one_hot(cell, LENGTH)
        return state.replace(pipeline_state=cell, obs=obs, reward=done - 0.1, done=done)
'''


@pytest.mark.long
@pytest.mark.parametrize("observation", [pytest.param("vector", marks=pytest.mark.long), "hybrid"])
def test_no_test_is_red_once_env_py_is_rewritten(
    render: Render, tmp_path: Path, observation: str
) -> None:
    """As its README says it: another class, in three files; other sizes, names and actions."""
    project = shutil.copytree(render(observation=observation), tmp_path / "my-env")
    package = project / "src" / "my_env"
    (package / "env.py").write_text(CORRIDOR.lstrip())
    (package / "encoder.py").unlink(missing_ok=True)
    for name in ("config.py", "__init__.py"):
        text = (package / name).read_text().replace("MyEnv", "Corridor")
        text = re.sub(r"^ *(from .encoder .*|encoder=.*)\n", "", text, flags=re.M)
        (package / name).write_text(text)
    tests = [] if observation == "vector" else ["tests/test_env.py"]
    result = python(project, "-m", "pytest", "-p", "no:cacheprovider", *tests)
    assert result.returncode in (0, 5), result.stdout  # 5: no tests, because all are skipped
    assert re.search(r"SKIPPED .* test.*env.py", result.stdout), result.stdout
    if observation == "vector":
        assert "another task than at the start: delete these tests" in result.stdout
        mypy = python(project, "-m", "mypy", "--cache-dir", str(tmp_path / "mypy"))
        assert mypy.returncode == 0, mypy.stdout


SECOND = """

class Line(MyEnv):
    \"\"\"Another task, in a file of its own or beside the first one.\"\"\"
"""
TASKS = """
line = dataclasses.replace(task, environment=Line)
wide: Task = dataclasses.replace(line, environment=functools.partial(Line, arena=4.0))
encoder = dict()
"""
IMPORTS = "from .env import MyEnv"
MAKE = """
import sys, my_env
assert "my_env.config" not in sys.modules
from brax.envs import get_environment
print([type(get_environment(name)).__name__ for name in ("my_env", "line", "wide")])
print(get_environment("wide").arena, get_environment("line", arena=3.0).arena)
try:
    get_environment("encoder")
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", ["env", "second"])
def test_brax_makes_the_environment_of_each_task(render: Render, tmp_path: Path, file: str) -> None:
    """Without importing config.py, and so the networks, before one is made."""
    project = shutil.copytree(render() / "src", tmp_path / "src").parent
    package = project / "src" / "my_env"
    second = package / f"{file}.py"
    second.write_text(second.read_text() + SECOND if second.exists() else IMPORTS + SECOND)
    config = (package / "config.py").read_text()
    imports = f"import dataclasses\nimport functools\nfrom .{file} import Line\n"
    (package / "config.py").write_text(config.replace("from .env", imports + "from .env") + TASKS)
    result = python(project, "-c", MAKE)
    assert result.stdout.splitlines() == [
        "['MyEnv', 'Line', 'Line']",
        "4.0 3.0",
        "There is no task 'encoder'; config.py defines task, line, wide.",
    ], result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("code", ["(", "raise RuntimeError", None])
def test_an_environment_does_not_need_config_py(
    render: Render, tmp_path: Path, code: str | None
) -> None:
    project = shutil.copytree(render() / "src", tmp_path / "src").parent
    config = project / "src" / "my_env" / "config.py"
    config.unlink() if code is None else config.write_text(code)
    result = python(project, "-c", "import my_env; my_env.MyEnv()")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.slow
def test_a_renamed_class_is_an_error_that_says_where_else_to_rename_it(
    render: Render, tmp_path: Path
) -> None:
    for path in (render() / "src" / "my_env").glob("*.py"):
        renamed = path.read_text()
        if path.name == "env.py":
            renamed = renamed.replace("MyEnv", "Reacher")
        (tmp_path / "src" / "my_env").mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / "my_env" / path.name).write_text(renamed)
    (tmp_path / "src" / "my_env" / "kit").symlink_to(render() / "src" / "my_env" / "kit")
    result = python(tmp_path, "-c", "from my_env import MyEnv")
    assert result.returncode == 1
    assert result.stderr.endswith(
        "If you renamed the class in env.py, rename it in __init__.py and config.py.\n"
    )


@pytest.mark.parametrize(
    "x64", [False, pytest.param(True, marks=pytest.mark.long)], ids=["x32", "x64"]
)
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(
            sizes,
            marks=[pytest.mark.long] if LARGE & {str(x) for x in sizes.values()} else [],
            id="-".join(map(str, sizes.values())),
        )
        for sizes in SIZES
    ],
)
def test_the_environment_has_the_sizes_that_were_asked_for(
    package: Import, sizes: dict[str, Any], x64: bool
) -> None:
    env = package(**kind_of(sizes)).MyEnv()
    image = np.prod([int(n) for n in sizes.get("image_shape", "0").split("x")])
    assert env.observation_size == sizes["vector_size"] + image
    assert env.action_size == sizes["action_size"]
    with jax.enable_x64(x64):
        keys = jax.random.split(jax.random.PRNGKey(0), 32)
        start = jax.jit(jax.vmap(env.reset))(keys)
        state = jax.jit(jax.vmap(env.step))(start, env.action_space.sample(keys[0], (32,)))
        assert start.obs.shape == (32, env.observation_size)
        assert {leaf.dtype for leaf in jax.tree.leaves((start, state))} == {jnp.dtype("float32")}
        assert jnp.all(jnp.ptp(start.obs, axis=0) > 0), "some of the observation never changes"
        assert jnp.any(start.obs != state.obs), "actions do nothing"


@pytest.mark.slow
@pytest.mark.parametrize("sizes", one_of(SIZES, 8))
def test_check_finds_nothing(package: Import, sizes: dict[str, Any]) -> None:
    module = package(**kind_of(sizes))
    config, kit = (importlib.import_module(f"{module.__name__}.{x}") for x in ("config", "kit"))
    report = kit.examine(config.task, time_limit=300)
    assert not report.violations
    assert not report.unchecked


@pytest.mark.long
@pytest.mark.parametrize(("observation", "actions"), one_of(KINDS, 4))
def test_a_short_training_beats_chance(
    package: Import, tmp_path: Path, observation: str, actions: str
) -> None:
    module = package(observation=observation, actions=actions)
    config, episodes, play, train = (
        importlib.import_module(f"{module.__name__}.{name}")
        for name in ("config", "kit.env.episodes", "kit.tools.play", "kit.run.train")
    )
    settings = dataclasses.replace(config.task.settings, num_timesteps=15_000, num_evals=2)
    task = dataclasses.replace(config.task, settings=settings)
    run = train.train(task, run_dir=tmp_path / "run", console=Console(quiet=True))
    trained, random = (
        play.evaluate(task, policy, num_episodes=64).returns
        for policy in (
            module.load_policy(run),
            episodes.random_policy(module.MyEnv.action_space),
        )
    )
    gain = trained - random  # episode by episode, since both have the same starts
    assert gain.mean() > 3 * gain.std() / gain.size**0.5
