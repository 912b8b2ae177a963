"""Python that needs the number of a traced value: the fix that is advised computes what was meant.

Rebuilt from reports such as jax#10231, jax#4418 and jax#5073.
"""

import collections
import functools
import linecache
import math
import random
from dataclasses import dataclass
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bases import Point
from checking import check_env
from defects import edited
from kit.check.advice import TABLE, fix_of
from kit.errors import failure


class Memory(flax.struct.PyTreeNode):
    """A frozen class, as a state is."""

    inner: Any


@dataclass
class Thawed:
    """The same without JAX, which is not frozen: what a slip means."""

    inner: Any


Named = collections.namedtuple("Named", "inner")
GRID = np.arange(16.0, dtype=np.float32).reshape(4, 4)
CONSTANTS = {
    **{"jax": jax, "jnp": jnp, "np": np, "math": math, "random": random, "GRID": GRID},
    **{"key": jax.random.PRNGKey(0), "N": 4},
}


@dataclass(frozen=True)
class Slip:
    """Lines that compute `y` from x (a float), t (an int) and v (four floats).

    Attributes:
      code: the slip.
      old: what the advice replaces.
      new: by what, where the advice is not the code itself.
      says: what the advice has to say then.
      means: what is meant, where Python does not compute it from numbers.
    """

    code: str
    old: str
    new: str | None = None
    says: str = ""
    means: str = ""


IF = "if x > 0:\n        y = 2 * x\n    else:\n        y = -x"
WHILE = "y = x\n    while y > 0:\n        y = y - 1"
FOR = "y = x\n    for i in range(t):\n        y += i"
SLIPS = {
    # What branches.
    "if": Slip(IF, IF),
    "if without else": Slip("y = x\n    if x > 1:\n        y = 1.0", "if x > 1:\n        y = 1.0"),
    "if and": Slip(
        "y = x\n    if x > 0 and x < 1:\n        y += 1",
        "if x > 0 and x < 1:\n        y += 1",
    ),
    "if not": Slip("y = x\n    if not x > 0:\n        y = -x", "if not x > 0:\n        y = -x"),
    "elif": Slip(
        "y = x\n    if N > 5:\n        y = 0.0\n    elif t in (1, 2):\n        y = 3.0",
        "if N > 5:\n        y = 0.0\n    elif t in (1, 2):\n        y = 3.0",
    ),
    "if that does more": Slip(
        "y, z = x, 1\n    if x > 0:\n        y = 2 * x\n        z = 3\n    y = y + z",
        "if x > 0:\n        y = 2 * x\n        z = 3",
        "y, z = jnp.where(x > 0, 2 * x, y), jnp.where(x > 0, 3, z)",
        "jnp.where(x > 0, a, b)  # instead of `if`, for each of y, z",
    ),
    "if that returns": Slip(
        "def f(x):\n        if x > 0:\n            return x\n        return -x\n    y = f(x)",
        "if x > 0:\n            return x\n        return -x",
        "return jax.tree.map(lambda a, b: jnp.where(x > 0, a, b), x, -x)",
        "jax.tree.map(lambda a, b: jnp.where(x > 0, a, b), a, b)",
    ),
    "ternary": Slip("y = x if x > 1 else -x", "x if x > 1 else -x"),
    "and": Slip("y = x > 0 and x < 1", "x > 0 and x < 1"),
    "or": Slip("y = (x > 0) or (x < 1)", "(x > 0) or (x < 1)"),
    "not": Slip("y = not (x > 0)", "not (x > 0)"),
    "chain": Slip("y = 0 < x < 1", "0 < x < 1"),
    "in": Slip("y = t in [1, 2]", "t in [1, 2]"),
    "not in": Slip("y = t not in range(2)", "t not in range(2)"),
    "in a set": Slip("y = t in {1, 3}", "t in {1, 3}"),
    "assert": Slip("assert x > -9, x\n    y = x", "assert x > -9, x", "pass", "remove `assert x >"),
    "while": Slip(WHILE, WHILE.removeprefix("y = x\n    ")),
    "while that does more": Slip(
        "y, n = x, 0\n    while y > 0:\n        y = y - 1\n        n = n + 1\n    y = n",
        "while y > 0:\n        y = y - 1\n        n = n + 1",
        "y, n = jax.lax.while_loop(lambda c: c[0] > 0, lambda c: (c[0] - 1, c[1] + 1), (y, n))",
        "a tuple of all that the loop changes",
    ),
    "range": Slip(FOR, FOR.removeprefix("y = x\n    ")),
    "a filter": Slip(
        "y = sum([q for q in v if q > 0])",
        "[q for q in v if q > 0]",
        "jnp.where(v > 0, v, 0)",
        "jnp.where(condition, x, 0)",
    ),
    "max": Slip("y = max(x, 0.0)", "max(x, 0.0)"),
    "min of three": Slip("y = min(x, 0.0, 1)", "min(x, 0.0, 1)"),
    "max of a list": Slip("y = max([x, 2.0])", "max([x, 2.0])"),
    "max in an expression": Slip("y = 3 * max(x, t) + 1", "max(x, t)"),
    "any": Slip("y = any(q > 0 for q in v)", "any(q > 0 for q in v)"),
    "all": Slip("y = all(v > 0)", "all(v > 0)"),
    "sorted": Slip("y = sorted([x, 2.0])[0]", "sorted([x, 2.0])"),
    "index": Slip("y = [3, 1].index(t)", "[3, 1].index(t)"),
    "match": Slip(
        "match t:\n        case 0:\n            y = 5.0\n        case _:\n            y = 7.0",
        "match t:\n        case 0:\n            y = 5.0\n        case _:\n            y = 7.0",
        "y = jax.lax.switch(t, [lambda: 5.0, lambda: 7.0])",
        "jax.lax.switch(t, [lambda: a, lambda: b])",
    ),
    # What needs a number.
    "int": Slip("y = GRID[0][int(t)]", "GRID[0][int(t)]"),
    "int of an array": Slip("y = v * int(x)", "int(x)"),
    "float": Slip("y = float(x)", "float(x)"),
    "bool": Slip("y = bool(x)", "bool(x)"),
    "item": Slip("y = x.item()", "x.item()"),
    "math": Slip("y = math.sin(x)", "math.sin(x)"),
    "math of another name": Slip("y = math.atan2(x, 2.0)", "math.atan2(x, 2.0)"),
    "floor": Slip("y = math.floor(x)", "math.floor(x)"),
    "numpy": Slip("y = np.sin(x)", "np.sin(x)"),
    "np.clip": Slip("y = np.clip(v, 0, 1)", "np.clip(v, 0, 1)"),
    "np.array": Slip("y = np.array([x, t])", "np.array([x, t])"),
    "np.float32": Slip("y = np.float32(t)", "np.float32(t)"),
    "random": Slip(
        "y = 0 * random.randint(0, t)",
        "random.randint(0, t)",
        "jax.random.randint(key, (), 0, t)",
        "jax.random.randint(key, ...)",
    ),
    "np.random": Slip(
        "y = 0 * np.random.normal(x)",
        "np.random.normal(x)",
        "(jax.random.normal(key, ()) + x)",
        "jax.random.normal(key, ...)",
    ),
    "a text": Slip(
        "y = x\n    label = f'{x:.2f} m'", "label = f'{x:.2f} m'", None, "leave it out, or use "
    ),
    "a text by %": Slip("y = x\n    s = '%.2f' % x", "s = '%.2f' % x", None, "leave it out"),
    "a text by format": Slip(
        "y = x\n    s = '{:.1f}'.format(x)", "s = '{:.1f}'.format(x)", None, "leave it out"
    ),
    # Indexes and sizes.
    "a numpy table": Slip("y = GRID[t]", "GRID[t]"),
    "a numpy table in two axes": Slip("y = GRID[t, 0]", "GRID[t, 0]"),
    "a list": Slip("y = [3.0, 1.0, 2.0][t]", "[3.0, 1.0, 2.0][t]"),
    "a dict": Slip("y = {0: 1.0, 1: 4.0}[t]", "{0: 1.0, 1: 4.0}[t]"),
    "a dict's get": Slip(
        "y = {0: 1.0, 1: 4.0}.get(t, 0.0)",
        "{0: 1.0, 1: 4.0}.get(t, 0.0)",
        "jnp.asarray([1.0, 4.0])[t]",
        "jnp.asarray(values)[index]",
    ),
    "a float as an index": Slip("y = v[jnp.floor(x)]", "v[jnp.floor(x)]", means="y = v[0]"),
    "a mask": Slip("y = v[v > 0].sum()", "v[v > 0]"),
    "a mask's mean": Slip("y = jnp.mean(v[v > 0])", "jnp.mean(v[v > 0])"),
    "a mask's largest": Slip("y = jnp.max(v[v > 0])", "jnp.max(v[v > 0])"),
    "how many": Slip("y = len(v[v > 0])", "len(v[v > 0])"),
    "how many by nonzero": Slip("y = len(jnp.nonzero(v)[0])", "len(jnp.nonzero(v)[0])"),
    "where they are": Slip("y = jnp.nonzero(v > 0)[0][0]", "jnp.nonzero(v > 0)"),
    "len": Slip("y = len(x)", "len(x)", means="y = 1"),
    "zeros": Slip(
        "y = jnp.sum(jnp.zeros(t) + 2)",
        "jnp.zeros(t) + 2",
        "jnp.where(jnp.arange(4) < t, jnp.zeros(4) + 2, 0)",
        "jnp.zeros(N)  # a constant size N; jnp.arange(N) < n masks",
    ),
    "arange": Slip(
        "y = jnp.sum(jnp.arange(t))",
        "jnp.arange(t)",
        "jnp.where(jnp.arange(4) < t, jnp.arange(4), 0)",
        "jnp.arange(N)  # a constant size N",
    ),
    "repeat": Slip("y = jnp.sum(jnp.repeat(x, t))", "jnp.repeat(x, t)", means="y = 4 * x"),
    "a slice": Slip("y = v[t:t + 2]", "v[t:t + 2]"),
    "a slice up to": Slip("y = jnp.sum(v[:t])", "v[:t]"),
    "a slice from": Slip("y = jnp.sum(v[t:])", "v[t:]"),
    "a slice between": Slip("y = jnp.sum(v[t - 1:t])", "v[t - 1:t]"),
    "a slice of a list": Slip("y = np.sum([3, 1, 2, 4][t:t + 2])", "[3, 1, 2, 4][t:t + 2]"),
    "a sum over a list": Slip("y = jnp.sum([x, x])", "jnp.sum([x, x])", means="y = 2 * x"),
    "a loop over a number": Slip(
        "y = 0\n    for q in x:\n        y += q",
        "in x",
        "in jnp.atleast_1d(x)",
        "jnp.atleast_1d(x)",
        "y = x",
    ),
    "append": Slip("y = v.append(x)", "v.append(x)", "jnp.append(v, x)", means="y = [*v, x]"),
    "numpy()": Slip("y = x.numpy()", "x.numpy()", means="y = x"),
    # Assignments.
    "an element": Slip("v[1] = x\n    y = v", "v[1] = x"),
    "an element is added to": Slip("v[t] += x\n    y = v", "v[t] += x"),
    "an element is subtracted from": Slip("v[t] -= x\n    y = v", "v[t] -= x"),
    "elements by a mask": Slip("v[v > 0] = 9.0\n    y = v", "v[v > 0] = 9.0"),
    "an element of numpy's": Slip("w = GRID.copy()\n    w[t] = 1.0\n    y = w", "w[t] = 1.0"),
    "elements by a mask, with at": Slip(
        "y = v.at[v > 0].add(9.0)", "v.at[v > 0].add(9.0)", means="y = v + 9 * (v > 0)"
    ),
    "elements by a mask are added to": Slip("v[v > 0] += x\n    y = v", "v[v > 0] += x"),
    "elements by a slice": Slip("v[t:t + 2] = 9.0\n    y = v", "v[t:t + 2] = 9.0"),
    "elements by a slice, with at": Slip(
        "y = v.at[:t].set(9.0)", "v.at[:t].set(9.0)", means="y = [9.0, *v[1:]]"
    ),
    "elements by a constant slice": Slip("v[1:3] *= x\n    y = v", "v[1:3] *= x"),
    "an element deep down": Slip(
        "s = Memory(v)\n    s.inner[1] = x\n    y = s.inner",
        "s.inner[1] = x",
        says="s = s.replace(inner=s.inner.at[1].set(x))",
    ),
    "an element of an entry": Slip(
        "s = Memory({'a': v})\n    s.inner['a'][1] = x\n    y = s.inner['a']",
        "s.inner['a'][1] = x",
    ),
    "a frozen field": Slip("s = Memory(x)\n    s.inner = v\n    y = s.inner", "s.inner = v"),
    "a frozen field is added to": Slip(
        "s = Memory(x)\n    s.inner += v\n    y = s.inner", "s.inner += v"
    ),
    "a frozen field deep down": Slip(
        "s = Memory(Memory(x))\n    s.inner.inner = v\n    y = s.inner.inner", "s.inner.inner = v"
    ),
    "a named tuple": Slip(
        "s = Named(x)\n    s.inner = v\n    y = s.inner", "s.inner = v", means="y = v"
    ),
    # What says enough.
    "branches that differ": Slip(
        "y = jax.lax.cond(x > 0, lambda: 1.0, lambda: 1)",
        "lambda: 1)",
        "lambda: 1.0)",
        "the same shapes and dtypes from each branch",
        "y = 1.0",
    ),
    "a loop that changes a dtype": Slip(
        "y = jax.lax.fori_loop(0, t, lambda i, x: i, x)",
        "lambda i, x: i, x)",
        "lambda i, x: jnp.float32(i), x)",
        "from the body of a loop what it is given",
        means="y = 0.0",
    ),
    "shapes": Slip(
        "y = v + jnp.zeros(3)", "jnp.zeros(3)", "jnp.zeros(4)", "make the shapes agree", "y = v"
    ),
    "a name": Slip("y = undefined", "undefined", "1.0", "define or import undefined", "y = 1.0"),
    "a package": Slip(
        "import nothing_here\n    y = x",
        "import nothing_here",
        "pass",
        "install nothing_here, and add it to pyproject.toml",
        "y = x",
    ),
    "a file": Slip(
        "y = x + len(open('levels.txt').read())",
        "len(open('levels.txt').read())",
        "0",
        "Path(__file__).parent / 'levels.txt'",
        "y = x",
    ),
}


@functools.cache
def defined(code: str, memory: type = Memory) -> Any:
    """A function of x, t and v around the code, whose source can be read."""
    source = f"def slip(x, t, v):\n    {code}\n    return y\n"
    name = f"slip-{abs(hash((code, memory)))}.py"
    linecache.cache[name] = len(source), None, source.splitlines(True), name
    names: dict[str, Any] = {**CONSTANTS, "Memory": memory, "Named": Named}
    exec(compile(source, name, "exec"), names)
    return names["slip"]


def advised(slip: Slip) -> str:
    function = defined(slip.code)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each slip its own
        jax.make_jaxpr(function)(*POINTS[0])
    return fix_of(failure(raised.value, function))


def fixed(slip: Slip) -> str:
    fix = advised(slip)
    assert slip.says in fix
    new = slip.new or fix.split("  #")[0]
    if slip.new is None and fix.startswith("leave it out"):
        new = "pass"
    assert slip.code.count(slip.old) == 1
    return slip.code.replace(slip.old, new)


# From the second a branch goes the other way.
POINTS = [
    (np.float32(0.5), np.int32(1), np.array([1.0, -1.0, 0.0, 2.0], np.float32)),
    (np.float32(-1.5), np.int32(2), np.array([-1.0, 1.0, 0.0, 3.0], np.float32)),
]


@pytest.mark.parametrize("name", SLIPS)
def test_the_fix_computes_what_was_meant(name: str) -> None:
    slip = SLIPS[name]
    traced = jax.jit(defined(fixed(slip)))
    # Some slips can't be computed from numbers either, and some fixes hold for valid numbers alone.
    once = slip.means or name in ("index", "a dict", "a dict's get")
    for x, t, v in POINTS[: 1 if once else 2]:
        found = traced(x, t, v)
        meant = defined(slip.means or slip.code, Thawed)(x, int(t), v.copy())
        np.testing.assert_allclose(np.asarray(found, float), np.asarray(meant, float), rtol=1e-5)


@pytest.mark.slow
def test_an_environment_with_every_fix_passes() -> None:
    # Random numbers need a key, which these functions are not given.
    slips = [slip for slip in SLIPS.values() if "random" not in slip.code]
    functions = [defined(fixed(slip)) for slip in slips]

    def step(self: Any, s: Any, given: Any, action: Any) -> Any:
        v = jnp.append(s.obs, 1.0)[:4]
        found = [f(action[0], jnp.int32(v[0] > 0), v) for f in functions]
        total = sum(jnp.sum(jnp.asarray(x, jnp.float32)) for x in found)
        return s.replace(reward=s.reward + 1e-3 * jnp.clip(jnp.nan_to_num(total), -9, 9))

    assert check_env(edited(Point, step=step)(), episode_length=60) == []


def test_every_kind_of_error_has_a_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry of the table gives the fix of a slip."""
    left = list(range(len(TABLE)))
    for i, (error, says, fixes) in enumerate(TABLE):
        alone = [(error, says, fixes)]
        monkeypatch.setattr("kit.check.advice.TABLE", alone)
        monkeypatch.setattr("kit.check.advice.SENTENCES", [])
        if any(not advised(slip).startswith("correct ") for slip in SLIPS.values()):
            left.remove(i)
    assert [TABLE[i][0] for i in left] == [KeyError]  # of an entry of `info`, in test_advice.py


def test_what_is_no_slip_names_the_line() -> None:
    fix = advised(Slip("y = 1 // 0", ""))
    assert fix.startswith("correct slip-")
    assert fix.endswith(".py:2: y = 1 // 0")
