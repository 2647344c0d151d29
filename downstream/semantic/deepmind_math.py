"""python downstream/semantic/deepmind_math.py --config downstream/semantic/configs/deepmind_math.yaml [--key value ...]

As `python -m downstream.cli math`.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])  # a script's own folder stands there, and hides the package

from downstream.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["math", *sys.argv[1:]]))
