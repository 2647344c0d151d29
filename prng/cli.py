"""Transformers that learn pseudo-random number generators: one modulus, or a curriculum of several.

python -m prng.cli train --type XSLRR --m 2**16 --control_bits 3 [--key value ...]
python -m prng.cli curriculum --config configs/curriculum.yaml [--key value ...]
python -m prng.cli evaluate --checkpoint results/train/RUN/best
python -m prng.cli generate --type XSLRR --m 2**18 --control_bits 3 --a 5 --c 3
python -m prng.cli inspect --type XSLRR --m 2**16 --control_bits 3 [--show 2 --stats --key value ...]
python -m prng.cli export --out data/lcg --type LCG --m 2**16 [--train 100000 --key value ...]
python -m prng.cli plot results/train/RUN [RUN ...]
"""

import sys

from core.cli import Verb, run_verbs
from prng import run
from prng.config import (
    CurriculumConfig,
    EvaluateConfig,
    GenerateConfig,
    LookConfig,
    PlotConfig,
    TrainConfig,
    WriteConfig,
)

VERBS = {
    "train": Verb(run.train, lambda values: TrainConfig, rehearsal=run.rehearse),
    "curriculum": Verb(run.train, lambda values: CurriculumConfig, rehearsal=run.rehearse),
    "evaluate": Verb(run.evaluate, lambda values: EvaluateConfig),
    "generate": Verb(run.generate, lambda values: GenerateConfig),
    "inspect": Verb(run.look, lambda values: LookConfig),
    "export": Verb(run.write, lambda values: WriteConfig),
    "plot": Verb(run.plot, lambda values: PlotConfig, words="runs"),
}


def main(argv: list[str] | None = None, default: str = "train") -> int:
    return run_verbs(VERBS, argv, doc=__doc__, default=default)


if __name__ == "__main__":
    sys.exit(main())
