"""Compiled programs on disk."""

import os
import warnings
from pathlib import Path

import jax

CACHE_BYTES = 2**27  # some 2,000 files, of which JAX looks at each whenever it adds one


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that a second run starts fast.

    In the folder that JAX_COMPILATION_CACHE_DIR names, as JAX does it. Else in one of our own, of
    which JAX deletes what was not used for longest when it grows too large. (A folder that was
    used without a limit can't get one: JAX then fails to write to it.)
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        try:
            base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError:  # the user has no home
            return
        folder = str(Path(base) / "copier-brax-env")
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
            jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    jax.config.update("jax_compilation_cache_dir", folder)
    # By default only programs that took a second to compile are kept; most here are faster.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A cache that is full or can't be written to only costs time.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
