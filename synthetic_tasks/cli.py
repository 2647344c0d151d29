"""Train on the synthetic tasks of "Physics of Language Models: Part 4.1", and measure what was learned.

python -m synthetic_tasks.cli inspect [dataset=brevo show=2 dataset.config.qa=true tokenizer_name_or_path=FOLDER ...]
python -m synthetic_tasks.cli export depo --out data/depo [--N 75 --train 100000 --format jsonl ...]
python -m synthetic_tasks.cli train --task mano --save_dir runs/mano [--L 2 --value_mod 7 --key value ...]
python -m synthetic_tasks.cli train_minimal [--key value ...]
python -m synthetic_tasks.cli evaluate --checkpoint runs/mano/checkpoint-2000
python -m synthetic_tasks.cli curve [model=recurrent_olmo3 train.max_steps=400 'eval.hops=[1,2,4]' ...] [--multirun]

`inspect` and `curve` take Hydra's overrides of the files in synthetic_tasks/conf/. With --multirun (-m), values that
commas part, as in train.learning_rate=1e-3,3e-4, are tried one after the other.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core import config
from core.cli import HELP_FLAGS, Verb, run_verbs, status_of
from core.errors import UserError
from core.task_verbs import task_verbs
from synthetic_tasks import _curve, _hydra, run
from synthetic_tasks._curve_config import CurveConfig
from synthetic_tasks._example_task import PACKAGE
from synthetic_tasks.config import InspectConfig, exam_schema, schema

MINIMAL = str(Path(__file__).parent / "configs" / "depo_minimal.yaml")
VERBS = {
    "train": Verb(run.train, schema, rehearsal=run.rehearse),
    "evaluate": Verb(run.evaluate, exam_schema),
    **{name: verb for name, verb in task_verbs(PACKAGE).items() if name != "inspect"},
}


class HydraVerb(NamedTuple):
    """A command whose keys lie in `conf/FOLDER/` and are changed by words such as train.max_steps=400."""

    folder: str
    schema: type[config.Config]
    function: Callable[[Any], Any]
    rehearsal: Callable[[Any], Any] | None = None


HYDRA_VERBS = {
    "inspect": HydraVerb("inspect_dataset", InspectConfig, run.look),
    "curve": HydraVerb("depo_curve", CurveConfig, _curve.train, _curve.rehearse),
}


def main(argv: list[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in HYDRA_VERBS and not set(arguments) & set(HELP_FLAGS):
        return status_of(lambda: run_hydra(HYDRA_VERBS[name], arguments[1:]))
    if name == "train_minimal":
        arguments = ["train", "--config", MINIMAL, *arguments[1:]]
    return run_verbs(VERBS, arguments, doc=__doc__, default="train")


def run_hydra(verb: HydraVerb, arguments: Sequence[str]) -> None:
    switches = {"-m": "--multirun"}
    flags = [switches.get(word, word) for word in arguments if word.startswith("-")]
    words = [word for word in arguments if not word.startswith("-")]
    known = ("--multirun", "--print_config", "--dry_run")
    if unknown := [flag for flag in flags if flag not in known]:
        raise UserError(f"{unknown[0]}: no such flag; there are {', '.join(known)}. Keys are given as key=value")
    if "--dry_run" in flags and verb.rehearsal is None:
        raise UserError("--dry_run: this cannot be rehearsed")
    runs = list(_hydra.swept(words)) if "--multirun" in flags else [words]
    checked = [config.check(lambda keys: verb.schema, _hydra.composed(verb.folder, some), {}) for some in runs]
    for number, (some, keys) in enumerate(zip(runs, checked, strict=True), start=1):
        if len(runs) > 1:
            print(f"\n--- run {number} of {len(runs)}: {' '.join(some)}")
        if "--print_config" in flags:
            print(config.as_yaml(keys), end="")
        else:
            (verb.rehearsal if "--dry_run" in flags and verb.rehearsal else verb.function)(keys)


if __name__ == "__main__":
    sys.exit(main())
