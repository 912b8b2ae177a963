"""How many faults in the kit the README's test command finds.

Each fault is planted in a copy of the repository, where the tests of its room that the command
includes run until one fails; where they pass, all tests of the command run.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
KIT = "template/src/{{package_name}}/kit"
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache")

# The module, what stands there, what stands there instead, and where its tests are.
FAULTS = [
    ("errors.py", 'lines[: 4 if lines[0].endswith(":") else 1]', "lines", "check"),
    ("bounds.py", "FRACTION = Bounds(0, 1)", "FRACTION = Bounds(0, 2)", "kit/test_ppo.py"),
    ("env/actions.py", "jnp.argmax(self._log_probs", "jnp.argmin(self._log_probs", "kit"),
    ("env/auto_reset.py", "obs=put(state.obs, fresh.obs)", "obs=state.obs", "kit"),
    ("env/frames.py", "[stack[..., frame.shape[-1] :], frame]", "[frame, stack[..., "
     "frame.shape[-1] :]]", "kit/test_wrappers.py"),
    ("env/time_limit.py", "jnp.where(time_is_up, 1 - state.done,", "jnp.where(time_is_up, "
     "jnp.ones_like(state.done),", "kit"),
    ("ppo/algorithm.py", "            key=new_key,\n", "", "kit/test_ppo.py"),
    ("ppo/loss.py", "(1 - data.discount) * (1 - cut_off)", "(1 - data.discount)", "kit"),
    ("ppo/networks.py", "if not key.startswith(PRIVILEGED)", "", "kit/test_ppo.py"),
    ("ppo/rewards.py", "before.divisor() / divisor", "divisor / before.divisor()", "kit"),
    ("trace/causes.py", "return not is_finite(x)", "return False", "kit/test_causes.py"),
    ("trace/values.py", 'first - rest[0] if name == "sub"', 'first + rest[0] if name == "sub"',
     "check/test_jaxprs.py"),
    ("run/advice.py", "min(shares) > 0.95", "min(shares) > 0.05", "kit/test_display.py"),
    ("run/display.py", "shown, encoding = printable(text)", "shown, encoding = text", "kit"),
    ("run/files.py", "part.replace(path)", "path.write_bytes(part.read_bytes())", "kit"),
    ("run/folder.py", "max(found, default=", "min(found, default=", "kit"),
    ("run/loop.py", "self.totals, self.seconds = saved.totals, saved.seconds.item()", "pass",
     "kit/test_train.py"),
    ("check/engine.py", "*(v.rule for v in self.violations), *self.unchecked}",
     "*(v.rule for v in self.violations)}", "check/test_check.py"),
    ("check/purity.py", "    if not given:\n        return\n    twice", "    return\n    twice",
     "check/test_check.py"),
    ("check/rewrite.py", "min(A, B) -> jnp.minimum(A, B)", "min(A, B) -> jnp.maximum(A, B)",
     "check/test_slips.py"),
    ("tools/diagnose/evidence.py", "> 3 * error", "> 0 * error", "kit/test_diagnose.py"),
    ("tools/export.py", "policy_params(state), deterministic=True", "policy_params(state), "
     "deterministic=False", "kit/test_export.py"),
    ("tools/tune/journal.py", '*lines, rest = data.split(b"\\n")', 'lines, rest = '
     'data.split(b"\\n"), b""', "kit/test_journal.py"),
    ("tools/tune/ladder.py", "(self.curves.returns[-1] >= threshold).all()",
     "(self.curves.returns[-1] >= threshold).any()", "kit/test_tune.py"),
    ("cli.py", "_fail(2, str(error))", "_fail(1, str(error))", "kit/test_mistakes.py"),
]  # fmt: skip


def is_found(copy: Path, *tests: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    if result.returncode not in (0, 1, 2):
        raise SystemExit(result.stdout + result.stderr)
    return result.returncode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "modules", nargs="*", help="those of the kit to plant faults in; all if none"
    )
    asked = parser.parse_args()
    found = total = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(ROOT, Path(folder) / "copy", symlinks=True, ignore=LEFT_OUT))
        for module, right, wrong, tests in FAULTS:
            if asked.modules and module not in asked.modules:
                continue
            path = copy / KIT / module
            text = path.read_text()
            assert text.count(right) == 1, f"{module} has not this once: {right}"
            path.write_text(text.replace(right, wrong))
            ok = is_found(copy, f"tests/{tests}") or is_found(copy)
            path.write_text(text)
            found, total = found + ok, total + 1
            print(
                f"{'found' if ok else 'MISSED':7} {module}: {wrong or 'without ' + right.strip()}"
            )
    print(f"{found} of {total} faults are found")


if __name__ == "__main__":
    main()
