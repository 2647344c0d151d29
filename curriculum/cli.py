"""Pretraining on text in stages: from short and easy to long and hard.

python -m curriculum.cli initialize curriculum --type simple|default|FILE.yaml   # makes the token files
python -m curriculum.cli start curriculum --type simple|default|FILE.yaml [--key value ...]
python -m curriculum.cli resume curriculum --type simple|default|FILE.yaml
python -m curriculum.cli status --type simple|default|FILE.yaml
python -m curriculum.cli generate "Once upon a time"
python -m curriculum.cli ablate --type FILE.yaml                                  # the same tokens in other orders
"""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from core.cli import Verb, run_verbs
from curriculum.data import initialize
from curriculum.stages import TYPES, InitializeConfig

SECOND_WORD = "curriculum"  # of the documented commands; what else there could be is left out


def later(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that needs PyTorch, which `initialize` does without."""
    return lambda *arguments: getattr(import_module(module), name)(*arguments)


def schema(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda values: getattr(import_module("curriculum.config"), name)


VERBS = {
    "initialize": Verb(initialize, lambda values: InitializeConfig),
    "start": Verb(
        later("curriculum.run", "start"), schema("TrainingConfig"), rehearsal=later("curriculum.run", "rehearse")
    ),
    "resume": Verb(later("curriculum.run", "resume"), schema("TrainingConfig")),
    "status": Verb(later("curriculum.run", "status"), schema("StatusConfig")),
    "generate": Verb(later("curriculum.run", "generate"), schema("GenerateConfig"), word="prompt"),
    "ablate": Verb(later("curriculum.ablation", "ablate"), schema("AblationConfig")),
}


def main(argv: list[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words[1:2] == [SECOND_WORD] and words[0] != "generate":
        del words[1]
    return run_verbs(VERBS, with_file_of_type(words), doc=__doc__, default="start")


def with_file_of_type(words: list[str]) -> list[str]:
    """`--type FILE` names the file that the keys come from, too; what `generate` takes is no key of such a file."""
    if words[:1] == ["generate"]:
        return words
    spelt = [part for word in words for part in (word.split("=", 1) if word.startswith("--type=") else [word])]
    place = spelt.index("--type") + 1 if "--type" in spelt else len(spelt)
    if place < len(spelt) and spelt[place] not in TYPES and spelt[place].endswith((".yaml", ".yml", ".json")):
        return [*words, f"--config={spelt[place]}"]
    return words


if __name__ == "__main__":
    sys.exit(main())
