"""As `python -m synthetic_tasks.cli curve`, with the same words behind it."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])  # a script's own folder stands there, and hides the package

from synthetic_tasks.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["curve", *sys.argv[1:]]))
