"""Keeps compiled programs from one test run to the next.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

from frozen_lake.kit import use_compilation_cache

use_compilation_cache()
