"""python downstream/algorithmic_tasks/experiment_stream.py CONFIG.yaml [--key=value ...]

As `python -m downstream.cli algorithmic --config CONFIG.yaml [--key=value ...]`.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])  # a script's own folder stands there, and hides the package

from downstream.cli import main  # noqa: E402


def as_flags(arguments: list[str]) -> list[str]:
    """The first word, if it is one, names the configuration."""
    if arguments and not arguments[0].startswith("-"):
        return ["--config", *arguments]
    return arguments


if __name__ == "__main__":
    sys.exit(main(["algorithmic", *as_flags(sys.argv[1:])]))
