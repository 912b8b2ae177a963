"""The command line, which is also `python -m frozen_lake`.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

from .kit import cli


def main() -> None:
    cli.main("frozen-lake", "frozen_lake.config")


if __name__ == "__main__":
    main()
