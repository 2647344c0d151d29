"""python prng/curriculum_lowmem.py --config configs/curriculum.yaml: as `python -m prng.cli curriculum`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # a script's own folder stands there, and hides the package

from prng.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(default="curriculum"))
