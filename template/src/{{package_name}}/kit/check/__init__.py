"""Whether an environment keeps the rules that Brax and its training loops rely on.

The environment is traced, which finds most, and then run for whole episodes. It is never trained.
"""

from . import form, purity, wrapping, episodes, scale  # noqa: F401, I001  the order of RULES
from .engine import RULES, Report, Rule, Violation, examine
from .report import format_report

__all__ = ["RULES", "Report", "Rule", "Violation", "examine", "format_report"]
