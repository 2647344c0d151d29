"""Look at the procedural tasks, and write their examples to files.

python -m procedural_data.cli list
python -m procedural_data.cli inspect dyck [--k 4 --show 2 --stats --duplicates --key value ...]
python -m procedural_data.cli export sort --out data/sort [--seq_length 16 --train 100000 --format jsonl ...]
"""

import sys

from core.cli import run_verbs
from core.task_verbs import task_verbs

VERBS = task_verbs("procedural_data")


def main(argv: list[str] | None = None) -> int:
    return run_verbs(VERBS, argv, doc=__doc__, default="list")


if __name__ == "__main__":
    sys.exit(main())
