"""Keeps compiled programs from one test run to the next.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

from acrobot.kit import use_compilation_cache

use_compilation_cache()
