"""Compiled programs are kept from one test run to the next. The template's: not for editing."""

from my_env.kit.train import use_compilation_cache

use_compilation_cache()
