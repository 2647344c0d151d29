"""Train on the synthetic tasks of "Physics of Language Models: Part 4.1", and measure what was learned.

python -m synthetic_tasks.cli inspect [dataset=brevo show=2 dataset.config.qa=true tokenizer_name_or_path=FOLDER ...]
python -m synthetic_tasks.cli inspect mano --stats --duplicates [dataset.config.L=2 ...]
python -m synthetic_tasks.cli export depo --out data/depo [--N 75 --train 100000 --format jsonl ...]
python -m synthetic_tasks.cli train --task mano --save_dir runs/mano [--L 2 --value_mod 7 --key value ...]
python -m synthetic_tasks.cli train_minimal [--key value ...]
python -m synthetic_tasks.cli evaluate --checkpoint runs/mano/best
python -m synthetic_tasks.cli curve [model=recurrent_olmo3 train.max_steps=400 'eval.hops=[1,2,4]' ...] [--multirun]

`inspect` and `curve` take Hydra's overrides of the files in synthetic_tasks/conf/. With --multirun (-m), values that
commas part, as in train.learning_rate=1e-3,3e-4, are tried one after the other.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

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
    word: str | None = None  # the key that the one word right after the verb is the value of
    switches: Sequence[str] = ()  # keys that are true where --KEY is given


HYDRA_VERBS = {
    "inspect": HydraVerb("inspect_dataset", InspectConfig, run.look, word="dataset", switches=("stats", "duplicates")),
    "curve": HydraVerb("depo_curve", CurveConfig, _curve.train, _curve.rehearse),
}


def main(argv: list[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in HYDRA_VERBS:
        return status_of(lambda: run_hydra(name, arguments[1:]))
    if name == "train_minimal":
        arguments = ["train", "--config", MINIMAL, *arguments[1:]]
    elif name and not name.startswith("-") and name not in VERBS:
        return status_of(lambda: refuse(name))
    return run_verbs(VERBS, arguments, doc=__doc__, default="train")


def refuse(name: str) -> None:
    raise UserError(f"{name!r}: no such verb; there are {', '.join([*VERBS, 'train_minimal', *HYDRA_VERBS])}")


def run_hydra(name: str, arguments: Sequence[str]) -> None:
    """Carries out a verb of HYDRA_VERBS, with --multirun each of its runs. Raises UserError before the first begins."""
    verb = HYDRA_VERBS[name]
    if set(arguments) & set(HELP_FLAGS):
        return print(help_of(name))
    if verb.word and arguments and arguments[0].isidentifier():
        arguments = [f"{verb.word}={arguments[0]}", *arguments[1:]]
    switches = {f"--{key}": f"{key}=true" for key in verb.switches} | {"-m": "--multirun"}
    arguments = [switches.get(word, word) for word in arguments]
    flags = [word for word in arguments if word.startswith("-")]
    words = [word for word in arguments if not word.startswith("-")]
    known = ("--multirun", "--print_config", "--dry_run", *(f"--{key}" for key in verb.switches))
    if unknown := [flag for flag in flags if flag not in known]:
        raise UserError(f"{unknown[0]}: no such flag; there are {', '.join(known)}. Keys are given as key=value")
    if "--dry_run" in flags and verb.rehearsal is None:
        raise UserError("--dry_run: this cannot be rehearsed")
    runs = list(_hydra.swept(words)) if "--multirun" in flags else [words]
    checked = [config.check(lambda keys: verb.schema, _hydra.composed(verb.folder, some), {}) for some in runs]
    check_folders([keys.run_dir for keys in checked if isinstance(keys, CurveConfig)])
    for number, (some, keys) in enumerate(zip(runs, checked, strict=True), start=1):
        if len(runs) > 1:
            print(f"\n--- run {number} of {len(runs)}: {' '.join(some)}")
        if "--print_config" in flags:
            print(config.as_yaml(keys), end="")
        else:
            (verb.rehearsal if "--dry_run" in flags and verb.rehearsal else verb.function)(keys)


def check_folders(folders: Sequence[Path]) -> None:
    """Raises UserError if two runs of a sweep would write into one folder, which the second would find taken."""
    shared = [folder for folder, runs in Counter(folders).items() if runs > 1]
    if shared:
        raise UserError(
            f"output_dir: {folders.count(shared[0])} runs would share {shared[0]}; leave it null and sweep over keys "
            "that change what comes out, or give each run a folder of its own, as in output_dir=a,b"
        )


def help_of(name: str) -> str:
    """Every key of a command, group by group."""
    verb = HYDRA_VERBS[name]
    head = (
        f"{(__doc__ or '').strip()}\n\nThis is the help of `{name}`. Its files and groups: {_hydra.CONF / verb.folder}"
    )
    flags = ", ".join(["--multirun", "--print_config", *["--dry_run"] * bool(verb.rehearsal)])
    flags += "".join(f", --{key} for {key}=true" for key in verb.switches)
    return "\n".join([f"{head}\nFlags: {flags}\n", *_keys_of(verb.schema, "")])


def _keys_of(schema: type[BaseModel], prefix: str) -> Iterator[str]:
    """The keys of a schema, then those of the groups within it. A heading stands for keys of its own level."""
    nested = {key: _schemas(field.annotation) for key, field in schema.model_fields.items()}
    heading = next(iter(getattr(schema, "headings", {})), None)
    text = config.help_of(schema, leave_out=[key for key, kinds in nested.items() if kinds])
    yield text.replace("  --", f"  {prefix}")
    if heading:
        yield f"  (those of conf/.../{heading}/ are written {heading}.KEY)"
    for key, kinds in nested.items():
        for kind in kinds:
            tag = get_args(kind.model_fields["kind"].annotation)[0] if len(kinds) > 1 else ""
            yield f"\n{prefix}{key}{f'={tag}' if tag else ''}"
            yield from _keys_of(kind, f"{prefix}{key}.")


def _schemas(annotation: Any) -> list[type[BaseModel]]:
    return [
        kind
        for kind in (get_args(annotation) or (annotation,))
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]


if __name__ == "__main__":
    sys.exit(main())
