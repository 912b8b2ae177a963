"""Programs that are compiled once in a process, however often a task trains."""

import functools

from kit.run.programs import Programs


class SharedPrograms(Programs):
    is_compiled = False

    def compile(self) -> None:
        if not self.is_compiled:
            super().compile()
            self.is_compiled = True


share = functools.cache(SharedPrograms)
