"""The command line, which is also `python -m catch`.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

from .kit import cli


def main() -> None:
    cli.main("catch", "catch.config")


if __name__ == "__main__":
    main()
