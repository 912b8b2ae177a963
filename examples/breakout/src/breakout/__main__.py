"""The command line, which is also `python -m breakout`.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

from .kit import cli


def main() -> None:
    cli.main("breakout", "breakout.config")


if __name__ == "__main__":
    main()
