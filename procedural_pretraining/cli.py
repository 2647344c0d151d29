"""Pretrain a GPT on a procedural task.

python -m procedural_pretraining.cli --config procedural_pretraining/configs/sort.yaml [--key value ...]
python -m procedural_pretraining.cli evaluate --checkpoint pretrained_models/procedural/sort/checkpoint-2500
python -m procedural_pretraining.cli list
"""

import sys

from core.cli import Verb, run_verbs
from core.task_verbs import list_tasks
from procedural_pretraining import run
from procedural_pretraining.config import PACKAGE, EvaluationConfig, schema

VERBS = {
    "train": Verb(run.train, schema, rehearsal=run.rehearse),
    "evaluate": Verb(run.evaluate, lambda values: EvaluationConfig),
    "list": Verb(lambda: list_tasks(PACKAGE)),
}


def main(argv: list[str] | None = None) -> int:
    return run_verbs(VERBS, argv, doc=__doc__, default="train")


if __name__ == "__main__":
    sys.exit(main())
