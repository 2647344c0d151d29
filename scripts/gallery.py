"""Writes docs/TASKS.md: every task with its parameters and two examples.

python scripts/gallery.py [--check]      --check: writes nothing, exit status 1 if the file is not up to date
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # a script's own folder stands there

from core.config import domain  # noqa: E402
from core.show import View, lines_of  # noqa: E402
from core.task import Task, task_class, task_names  # noqa: E402
from prng.config import TrainConfig  # noqa: E402
from prng.generators import KINDS, TRUNCATED  # noqa: E402
from prng.run import view  # noqa: E402
from synthetic_tasks._example_task import ExampleTask  # noqa: E402

TARGET = ROOT / "docs" / "TASKS.md"
PACKAGES = {
    "procedural_data": "python -m procedural_data.cli inspect {name}",
    "synthetic_tasks": "python -m synthetic_tasks.cli inspect dataset={name}",
    "downstream.algorithmic_tasks.tasks": "python -m downstream.cli inspect {name}_3",
}
MOST_TOKENS = 80  # of an example
WIDTH = 110
SEED = 0


def gallery() -> str:
    """The whole page."""
    parts = [
        "# Tasks\n\nMade by `python scripts/gallery.py`; a test keeps it up to date. Examples are the first two of the "
        f"train split under seed {SEED}; what stands in [ ] is predicted.\n"
    ]
    for package, command in PACKAGES.items():
        parts.append(f"## {package}\n")
        parts += [section(package, name, command) for name in task_names(package)]
    return "\n".join([*parts, "## prng\n", *map(generator_section, KINDS)])


def section(package: str, name: str, command: str) -> str:
    kind = task_class(package, name)
    task, call = shown(kind)
    summary, *_ = re.split(r"\n\n", (kind.__doc__ or "").strip())
    rows = [f"| `{key}` | `{f.default}` | {domain(f)} | {f.description} |" for key, f in kind.model_fields.items()]
    presets = f"Presets: {', '.join(kind.presets)}.\n" if issubclass(kind, ExampleTask) and kind.presets else ""
    return "\n".join(
        [
            f"### {name}\n",
            " ".join(summary.split()) + "\n",
            f"`{command.format(name=name)}`\n",
            "| parameter | default | domain | meaning |\n|---|---|---|---|",
            *rows,
            f"\n{presets}\n```\n{call}" if presets else f"\n```\n{call}",
            *examples(View.of_task(task, SEED)),
            "```\n",
        ]
    )


def shown(kind: type[Task]) -> tuple[Task, str]:
    """The task of the example in the docstring, which is short, and how it is made."""
    match = re.search(rf"^ *({kind.__name__}\(.*\))$", kind.__doc__ or "", re.MULTILINE)
    if match is None:
        raise ValueError(f"the docstring of {kind.__name__} shows no example such as {kind.__name__}(...)")
    call = ast.parse(match[1], mode="eval").body
    assert isinstance(call, ast.Call)
    return kind(**{word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}), match[1]


def examples(view: View) -> Iterator[str]:
    for tokens, labels in view.rows(view.batch("train", 0, 2)):
        yield from lines_of(tokens[:MOST_TOKENS], labels[:MOST_TOKENS], view.token_name, False, WIDTH)
        if len(tokens) > MOST_TOKENS:
            yield f"  ... {len(tokens) - MOST_TOKENS} more"


def generator_section(kind: str) -> str:
    sizes = {"m": 2**16, "seq_len": 12, "n_a": 2, "n_c": 2, "n_test_a": 2, "n_test_c": 2}
    config = TrainConfig(type=kind, control_bits=[] if kind in TRUNCATED else [2], **sizes)
    bits = "" if kind in TRUNCATED else " --control_bits 2"
    command = f"python -m prng.cli inspect --type {kind} --m 2**16{bits} --seq_len 12"
    return "\n".join([f"### {kind}\n", f"`{command}`\n", "```", *examples(view(config)), "```\n"])


if __name__ == "__main__":
    text = gallery()
    if "--check" in sys.argv[1:]:
        sys.exit(int(not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text))
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
