"""python downstream/semantic/c4.py --config downstream/semantic/configs/c4.yaml [--key value ...]

As `python -m downstream.cli c4`.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])  # a script's own folder stands there, and hides the package

from downstream.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["c4", *sys.argv[1:]]))
