"""Where a NaN or an infinity comes from: the operation of a program, its line and its step.

A program that steps a batch of environments is evaluated one operation at a time. Each number that
is not finite carries along what made it, through loops, branches and calls. Where `jnp.where`
masks a number, its cause is dropped too; `jax_debug_nans` would stop there.
"""

import contextlib
import itertools
import linecache
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper

from ..env.time_limit import WRAPPER_INFO, has_not_finite
from . import jaxprs
from .calls import leaves
from .lines import Frame, frames, users_first

CALLS = {*jaxprs.CALLS, "custom_vmap_call"}
IN_ORDER = ("pipeline_state", "obs", "reward", "done", "metrics", "info")  # what tells most, first


@dataclass
class Call:
    """A `reset` or a `step` of a batch, as one environment has it, with leading axes of 1.

    Attributes:
      given: a key; a state and an action; or a state, where a program starts from one.
      loops: the rounds of the loops around it, from 0, outermost first.
      after: the state; at the end of an episode its `obs` is the last one.
      causes: of what is bad: `action`, or the leaves of `after`.
    """

    given: tuple[Any, ...]
    loops: tuple[int, ...]
    after: State
    causes: dict[str, "Cause | int | None"] = field(default_factory=dict)


@dataclass(eq=False)
class Cause:
    """The operation that made a number bad out of finite ones.

    Attributes:
      operation: JAX's name for it, such as `div`; empty if all is finite where its program is
        evaluated one operation at a time, because a compiled program rounds in another order.
      stack: where it stands, innermost first.
      loops: the rounds of the loops around it, from 0, outermost first.
      call: the one of the environment that it is in; None if it is in none.
      path: the first bad leaf of what that call gave; empty if none is bad.
    """

    operation: str
    stack: tuple[Frame, ...]
    loops: tuple[int, ...]
    call: Call | None = None
    path: str = ""

    @property
    def line(self) -> Frame | None:
        """The innermost line of the user's own code; None if the operation is unknown."""
        return users_first(self.stack) if self.operation else None

    def __str__(self) -> str:
        """`env.py:57: x / jnp.sqrt(v) (div)`, and its place if that is in a library."""
        if self.line is None:
            return "The line is unknown: all is finite where it is done one operation at a time."
        text = linecache.getline(self.line.file, self.line.line).strip()
        place = "" if self.line is self.stack[0] else f" in {self.stack[0]}"
        return f"{self.line}: `{text}` ({self.operation}{place})"

    def is_in(self, function: str) -> bool:
        """Whether a function of this name is on the stack."""
        return any(function in frame.function for frame in self.stack)


# A value, and what made it bad: an operation, or the input of this index; None for a constant.
Traced = tuple[Any, Cause | int | None]


def is_finite(x: Any) -> bool:
    """Whether all numbers of an array are finite."""
    return not jnp.issubdtype(x.dtype, jnp.inexact) or bool(np.all(np.isfinite(x)))


class Marked(Wrapper):
    """A batch of environments whose calls `Watch` finds in a program.

    Attributes:
      structures: of their inputs and outputs, by name, once they are traced.
    """

    def __init__(self, env: Env, structures: dict[str, Any]) -> None:
        super().__init__(env)
        self.structures = structures

    def reset(self, rng: jax.Array) -> State:
        return self._call("environment_reset", self.env.reset, rng)

    def step(self, state: State, action: jax.Array) -> State:
        return self._call("environment_step", self.env.step, state, action)

    def _call(self, name: str, function: Callable[..., State], *given: Any) -> State:
        def call(*given: Any) -> State:
            return function(*given)

        call.__name__ = name
        after = jax.jit(call)(*given)
        self.structures[name] = jax.tree.structure(given), jax.tree.structure(after)
        return after


class _Ended(Exception):
    """A step gave what ends a run."""


class Watch:
    """Evaluates a program up to the first step that ends a run, with a bad observation for example.

    Args:
      structures: those of `Marked`.
      batch: how many environments there are.
      row: the environment that alone is looked at; all if None, and then `calls` stays empty.
      one_episode: whether what follows the end of an episode does not matter.

    Attributes:
      ended: the environments for which that step did, (batch,) bool; None if there was none.
      calls: what the one environment went through.
    """

    def __init__(
        self,
        structures: dict[str, Any] | None = None,
        batch: int = 0,
        row: int | None = None,
        one_episode: bool = False,
    ) -> None:
        self._structures = {} if structures is None else structures
        self._batch, self._row = batch, row
        self._one_episode = one_episode
        self._with_calls: dict[int, bool] = {}
        self._stack: tuple[Frame, ...] = ()
        self._loops: tuple[int, ...] = ()
        self._call: Call | None = None
        self.ended: np.ndarray | None = None
        self.calls: list[Call] = []

    def run(self, function: Callable[..., Any], given: Any) -> dict[str, Traced]:
        """The outputs by path, with their causes; none if a step ended it."""
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(given)
        inputs = [(jnp.asarray(x), i) for i, x in enumerate(jax.tree.leaves(given))]
        with contextlib.suppress(_Ended):
            return dict(zip(leaves(shapes), self._run(closed, inputs), strict=True))
        return {}

    # ---- programs -------------------------------------------------------------------------------

    def _run(self, program: Any, inputs: Sequence[Traced]) -> list[Traced]:
        jaxpr = getattr(program, "jaxpr", program)
        known: dict[Any, Traced] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, x in zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True):
            known[var] = x, None

        def look(atom: Any) -> Traced:
            return (jnp.asarray(atom.val), None) if hasattr(atom, "val") else known[atom]

        around = self._stack
        for eqn in jaxpr.eqns:
            self._stack = (*frames(eqn, __file__), *around)
            results = self._evaluate(eqn, [look(x) for x in eqn.invars])
            known |= zip(eqn.outvars, results, strict=True)
        self._stack = around
        return [look(x) for x in jaxpr.outvars]

    def _evaluate(self, eqn: Any, operands: list[Traced]) -> list[Traced]:
        enter = self._contains_calls(eqn)
        if "donated_invars" in eqn.params:  # which would delete the operands
            kept = (False,) * len(eqn.invars)
            eqn = eqn.replace(params={**eqn.params, "donated_invars": kept})
        results = jaxprs.evaluate(eqn, [x for x, _ in operands])
        if eqn.params.get("name") in self._structures:
            return self._look_at_call(eqn, operands, results)
        if enter or any(map(self._is_bad, results)):
            return self._look_into(eqn, operands, results)
        return [(x, None) for x in results]

    def _contains_calls(self, eqn: Any) -> bool:
        if id(eqn) not in self._with_calls:
            if len(self._with_calls) % 2000 == 1999:  # a process may have 65,530 memory maps
                jax.clear_caches()
            program = str(eqn.params) if eqn.primitive.name in ("scan", "while", "jit") else ""
            self._with_calls[id(eqn)] = any(f"={name}" in program for name in self._structures)
        return self._with_calls[id(eqn)]

    def _is_bad(self, x: Any) -> bool:
        # A reset puts some environments of the batch in another order.
        in_reset = any("_reset_done" in frame.function for frame in self._stack)
        if self._row is not None and not in_reset and x.shape[:1] == (self._batch,):
            x = x[self._row]
        return not is_finite(x)

    def _look_into(self, eqn: Any, operands: list[Traced], results: list[Any]) -> list[Traced]:
        """`results` with their causes."""
        inside = self._inside(eqn, operands)
        if inside is None:
            inside = [(x, self._cause(eqn, operands, i)) for i, x in enumerate(results)]
        lost = Cause("", self._stack, self._loops, self._call)
        return [
            (x, cause if self._is_bad(y) else lost)
            for x, (y, cause) in zip(results, inside, strict=True)
        ]

    def _inside(self, eqn: Any, operands: list[Traced]) -> list[Traced] | None:
        """The outputs of a call, a branch or a loop; None for other operations."""
        name, params = eqn.primitive.name, eqn.params
        if name == "cond":
            branch = int(np.clip(operands[0][0], 0, len(params["branches"]) - 1))
            return self._run(params["branches"][branch], operands[1:])
        if name == "while":
            return self._while(params, operands)
        if name == "scan":
            return self._scan(params, operands)
        inner = jaxprs.called(eqn, CALLS)
        return None if inner is None else self._run(inner, operands)

    def _while(self, params: Any, operands: list[Traced]) -> list[Traced]:
        of_cond, of_body = params["cond_nconsts"], params["body_nconsts"]
        held, consts = operands[:of_cond], operands[of_cond:][:of_body]
        carry, around = operands[of_cond + of_body :], self._loops
        for i in itertools.count():
            goes_on, _ = self._run(params["cond_jaxpr"], [*held, *carry])[0]
            if not goes_on.any():
                break
            self._loops = (*around, i)
            new = self._run(params["body_jaxpr"], [*consts, *carry])
            pairs = zip(new, carry, strict=True)
            carry = [self._where(goes_on, x, y) for x, y in pairs] if goes_on.ndim else new
        self._loops = around
        return carry

    def _where(self, mask: Any, new: Traced, old: Traced) -> Traced:
        """`new` in those loops of a batch that go on."""
        (x, of_new), (y, of_old) = new, old
        is_new = not self._is_bad(y)
        if self._row is not None and mask.shape == (self._batch,):
            is_new = bool(mask[self._row])
        mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
        return jnp.where(mask, x, y), of_new if is_new else of_old

    def _scan(self, params: Any, operands: list[Traced]) -> list[Traced]:
        """What is carried at the end, and the first bad round of each other output."""
        if "ft_in" in params:  # since JAX 0.11
            num_consts, num_carry = map(len, params["ft_in"].unpack()[:2])
        else:
            num_consts, num_carry = params["num_consts"], params["num_carry"]
        consts, rest = operands[:num_consts], operands[num_consts:]
        carry, rows, around = rest[:num_carry], rest[num_carry:], self._loops
        found: list[Traced] = []
        for i in range(params["length"])[:: -1 if params["reverse"] else 1]:
            self._loops = (*around, i)
            now = [(x[i], cause) for x, cause in rows]
            outputs = self._run(params["jaxpr"], [*consts, *carry, *now])
            carry, new = outputs[:num_carry], outputs[num_carry:]
            pairs = zip(found or new, new, strict=True)
            found = [old if self._is_bad(old[0]) else now for old, now in pairs]
        self._loops = around
        return [*carry, *found]

    def _cause(self, eqn: Any, operands: list[Traced], output: int) -> Cause | int | None:
        """That of the bad operand that makes an output bad, or the operation itself."""
        bad = [i for i, (x, _) in enumerate(operands) if self._is_bad(x)]

        def stays_bad(kept: int | None) -> bool:
            tried = [
                jnp.where(jnp.isfinite(x), x, jnp.full_like(x, 0.5))
                if i in bad and i != kept
                else x
                for i, (x, _) in enumerate(operands)
            ]
            return self._is_bad(jaxprs.evaluate(eqn, tried)[output])

        if bad and not stays_bad(None):
            guilty = next((i for i in bad if stays_bad(i)), bad[0])
            if operands[guilty][1] is not None:
                return operands[guilty][1]
        return Cause(eqn.primitive.name, self._stack, self._loops, self._call)

    # ---- calls of the environments --------------------------------------------------------------

    def _look_at_call(self, eqn: Any, operands: list[Traced], results: list[Any]) -> list[Traced]:
        into, out = self._structures[eqn.params["name"]]
        operands_of_own = operands[len(operands) - into.num_leaves :]
        given = into.unflatten([x for x, _ in operands_of_own])
        after = out.unflatten(results)
        ended = self._ends_a_run(given, after)
        traced: list[Traced] = [(x, None) for x in results]
        if self._row is not None:
            one, after = take((given, after), self._row, self._batch)
            if len(one) > 1 and not self.calls:
                start = Call(one[:1], (), one[0])
                self._tell_causes(start, [cause for _, cause in operands_of_own])
                self.calls.append(start)
            self._call = Call(one, self._loops, after)
            self.calls.append(self._call)
            if any(map(self._is_bad, results)):
                traced = self._look_into(eqn, operands, results)
                self._tell_causes(self._call, [cause for _, cause in traced])
            if len(one) > 1 and not is_finite(one[1]):
                self._call.causes["action"] = operands_of_own[-1][1]
            self._call = None
            ended = ended[[self._row]]
        if ended.any():
            self.ended = ended
            raise _Ended
        return traced

    def _ends_a_run(self, given: tuple[Any, ...], after: State) -> np.ndarray:
        """For which environments of the batch."""
        ended = has_not_finite((after.obs, after.reward, after.done))
        if len(given) > 1:
            before, action = given
            ended |= has_not_finite((action, before.obs, before.reward, before.done))
            if "not_finite" in after.info:  # looked at before the auto-reset
                ended |= after.info["not_finite"] & ~before.info["not_finite"]
            if self._one_episode:
                ended &= before.done == 0
        return np.asarray(ended)

    def _tell_causes(self, call: Call, causes: list[Cause | int | None]) -> None:
        """Notes the causes of what a call gave."""
        by_path = dict(zip(leaves(call.after), causes, strict=False))
        last, of_last = call.after.info.get("final_obs"), "info['final_obs']"
        if len(call.given) > 1 and not all(
            map(is_finite, jax.tree.leaves(last))
        ):  # a new episode has begun since
            call.after = call.after.replace(obs=last)
            found = [path for path in by_path if path.startswith(of_last)]
            by_path |= {path.replace(of_last, "obs"): by_path[path] for path in found}
        for path in bad_leaves(call.after):
            call.causes[path] = cause = by_path[path]
            if isinstance(cause, Cause) and cause.call is call:
                cause.path = cause.path or path


def take(tree: Any, row: int, batch: int) -> Any:
    """One environment of a batch, with a leading axis of 1; as it is what the batch shares."""
    rows = np.array([row])
    return jax.tree.map(lambda x: x[rows] if x.shape[:1] == (batch,) else x, tree)


def bad_leaves(state: State) -> Iterator[str]:
    """The paths of the leaves that are not finite, but for those of wrappers."""
    found = leaves(state)
    for name in IN_ORDER:
        for path, x in found.items():
            of_wrapper = any(path.startswith(f"info['{name}']") for name in WRAPPER_INFO)
            if path.startswith(name) and not of_wrapper and not is_finite(x):
                yield path
