"""What pretraining buys: transfer weights into a model, train it on a task, measure it.

python -m downstream.cli algorithmic --config downstream/algorithmic_tasks/configs/procedural.yaml [--key value ...]
python -m downstream.cli c4 --config downstream/semantic/configs/c4.yaml [--data FOLDER --key value ...]
python -m downstream.cli codeparrot --config downstream/semantic/configs/codeparrot.yaml [--data FOLDER ...]
python -m downstream.cli math --config downstream/semantic/configs/deepmind_math.yaml [--key value ...]
python -m downstream.cli grid --config configs/transfer_grid_cpu.yaml [--processes 2 --slurm --shard 0/8]
python -m downstream.cli report --grid results/transfer_grid_cpu [--metric exact_match]
python -m downstream.cli inspect additionstream_3 [--show 2 --stats --duplicates]
python -m downstream.cli export additionstream_3 --out data/additionstream_3 [--train 100000]
"""

import sys
from functools import partial

from core.cli import Verb, run_verbs
from downstream import grid, grid_report
from downstream.algorithmic_tasks import run as algorithmic
from downstream.algorithmic_tasks.config import AlgorithmicConfig, LookConfig, WriteConfig
from downstream.semantic import run as semantic
from downstream.semantic.config import C4Config, CodeParrotConfig, MathConfig, SemanticConfig
from downstream.semantic.corpus import Corpus
from downstream.semantic.problem_corpus import ProblemCorpus
from downstream.semantic.text_corpus import TextCorpus


def semantic_verb(corpus: type[Corpus], keys: type[SemanticConfig]) -> Verb:
    return Verb(partial(semantic.train, corpus), lambda values: keys, rehearsal=partial(semantic.rehearse, corpus))


VERBS = {
    "algorithmic": Verb(algorithmic.train, lambda values: AlgorithmicConfig, rehearsal=algorithmic.rehearse),
    "c4": semantic_verb(TextCorpus, C4Config),
    "codeparrot": semantic_verb(TextCorpus, CodeParrotConfig),
    "math": semantic_verb(ProblemCorpus, MathConfig),
    "grid": Verb(grid.run, lambda values: grid.GridConfig),
    "report": Verb(grid_report.report, lambda values: grid_report.ReportConfig),
    "inspect": Verb(algorithmic.look, lambda values: LookConfig, word="task"),
    "export": Verb(algorithmic.write, lambda values: WriteConfig, word="task"),
}


def main(argv: list[str] | None = None) -> int:
    return run_verbs(VERBS, argv, doc=__doc__, default="algorithmic")


if __name__ == "__main__":
    sys.exit(main())
