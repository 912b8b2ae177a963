"""Curricula: environments that know how far training is."""

import contextlib
from collections.abc import Iterator

import jax
from brax.envs.base import Env


@contextlib.contextmanager
def at_progress(env: Env, progress: jax.Array) -> Iterator[None]:
    """Sets the attribute `progress` of an environment that has one, while it is traced.

    As Brax does with `sys`. It is () float32, 0 in the first update of a run and 1 in the last;
    everywhere else, as in evaluation, it is what the class says.
    """
    inner = env.unwrapped
    if not hasattr(inner, "progress"):
        yield
        return
    own = vars(inner)
    before = {name: own[name] for name in ("progress",) if name in own}
    inner.progress = progress
    try:
        yield
    finally:
        del inner.progress
        own.update(before)
