"""What pretraining buys: transfer weights into a model, train it on a task, measure it.

python -m downstream.cli algorithmic --config downstream/algorithmic_tasks/configs/procedural.yaml [--key value ...]
"""

import sys

from core.cli import Verb, run_verbs
from downstream.algorithmic_tasks import run as algorithmic
from downstream.algorithmic_tasks.config import AlgorithmicConfig

VERBS = {
    "algorithmic": Verb(algorithmic.train, lambda values: AlgorithmicConfig, rehearsal=algorithmic.rehearse),
}


def main(argv: list[str] | None = None) -> int:
    return run_verbs(VERBS, argv, doc=__doc__, default="algorithmic")


if __name__ == "__main__":
    sys.exit(main())
