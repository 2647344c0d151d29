"""Train on the synthetic tasks of "Physics of Language Models: Part 4.1", and measure what was learned.

python -m synthetic_tasks.cli train --task mano --save_dir runs/mano [--L 2 --value_mod 7 --key value ...]
python -m synthetic_tasks.cli evaluate --checkpoint runs/mano/checkpoint-2000
"""

import sys

from core.cli import Verb, run_verbs
from synthetic_tasks import run
from synthetic_tasks.config import exam_schema, schema

VERBS = {
    "train": Verb(run.train, schema, rehearsal=run.rehearse),
    "evaluate": Verb(run.evaluate, exam_schema),
}


def main(argv: list[str] | None = None) -> int:
    return run_verbs(VERBS, argv, doc=__doc__, default="train")


if __name__ == "__main__":
    sys.exit(main())
