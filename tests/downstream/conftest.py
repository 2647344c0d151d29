import random
from pathlib import Path

import pytest
import torch

from core import hf
from core.model import GPT, GPTConfig
from downstream import cli

SMALL = {
    "task": "forwardaddition_2",
    "max_steps": 20,
    "batch_size": 16,
    "eval_steps": 10,
    "save_steps": 5,
    "eval_size": 50,
    "validation_size": 50,
    "log_every_steps": 5,
    "device": "cpu",
}


def flags(**changes) -> list[str]:
    """The command line of a run of a second or less, with some keys changed or added (None takes one away)."""
    keys = {**SMALL, **changes}
    return ["algorithmic", *(word for key, v in keys.items() if v is not None for word in (f"--{key}", str(v)))]


@pytest.fixture
def train(tmp_path):
    """Runs the command in `tmp_path/NAME` and returns the folder; the exit status must be as expected."""

    def train(name: str = "run", status: int = 0, **changes) -> Path:
        assert cli.main(flags(save_dir=tmp_path, run_name=name, **changes)) == status
        return tmp_path / name

    return train


@pytest.fixture
def pretrained(tmp_path):
    """Folder of a model of the family's default shape, away from its initial weights."""

    def pretrained(name: str = "pretrained", **changes) -> Path:
        shape = {"num_tokens": 102, "n_positions": 129, "n_layer": 2, "n_head": 4, "n_embd": 16}
        model = GPT(GPTConfig(**{**shape, **changes}), seed=9)
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        folder = tmp_path / name
        folder.mkdir()
        hf.save(model, folder)
        return folder

    return pretrained


def sums(count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    pairs = [(draw.randrange(100), draw.randrange(1000)) for _ in range(count)]
    return [(f"What is {a} + {b}?", str(a + b)) for a, b in pairs]


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> Path:
    """Problems in the layout of DeepMind mathematics: two modules, and an extrapolated one of another name."""
    root = tmp_path_factory.mktemp("archive")
    sizes = {**dict.fromkeys(("train-easy", "train-medium"), (30, 7)), "train-hard": (11, 4), "interpolate": (9, 6)}
    for number, (folder, modules) in enumerate({**sizes, "extrapolate": (5,)}.items()):
        (root / folder).mkdir()
        for module, size in enumerate(modules):
            name = "add_big" if folder == "extrapolate" else f"add_{module}"
            text = "".join(f"{question}\n{answer}\n" for question, answer in sums(size, 10 * number + module))
            (root / folder / f"{name}.txt").write_text(text)
    return root
