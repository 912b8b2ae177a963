"""`check` for any environment, without a project: see docs/check.md."""

import sys
from types import ModuleType

from .kit import cli


def main() -> None:
    """Runs `check` with the arguments of the command line."""
    if ":" not in "".join(sys.argv[1:2]) and not {"-h", "--help"} & {*sys.argv[1:]}:
        sys.argv.insert(1, "--help")
    cli.main("check-brax-env", ModuleType("none"), ["check", *sys.argv[1:]])
