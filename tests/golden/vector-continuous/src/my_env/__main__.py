"""The command line, which is also `python -m my_env`.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

from .kit import cli


def main() -> None:
    cli.main("my-env", "my_env.config")


if __name__ == "__main__":
    main()
