"""A curriculum of three stages small enough for a test, of text made here, in bytes."""

import itertools
from pathlib import Path

import pytest
import yaml

WORDS = ["sun", "moon", "river", "stone", "bird", "tree", "wind", "fire", "snow", "road", "hill", "leaf"]


def sentences(count: int, words: int) -> list[str]:
    """Different sentences of so many words."""
    combinations = itertools.product(WORDS, repeat=words)
    step = 7 ** (words - 1)
    return [" ".join(words) + ".\n" for words in itertools.islice(itertools.islice(combinations, 0, None, step), count)]


@pytest.fixture
def curriculum(tmp_path, monkeypatch):
    """Writes `curriculum.yaml` with changed keys, in a folder of its own where commands then run."""
    monkeypatch.chdir(tmp_path)
    for name, words in (("a", 3), ("b", 4), ("c", 5)):
        folder = Path("text") / name
        folder.mkdir(parents=True)
        for number, text in enumerate(sentences(30, words)):
            (folder / f"{number:02d}.txt").write_text(text)

    def written(stages: dict[str, dict] | None = None, training: dict | None = None, **keys) -> str:
        content = {
            "stages": [
                stage("warmup", "a", 8) | (stages or {}).get("warmup", {}),
                stage("foundation", "b", 16) | (stages or {}).get("foundation", {}),
                stage("pretrain", "c", 32) | (stages or {}).get("pretrain", {}),
            ],
            "tokenizer": "bytes",
            "val_share": 0.2,
            "training": {**TRAINING, **(training or {})},
            **keys,
        }
        Path("curriculum.yaml").write_text(yaml.safe_dump(content))
        return "curriculum.yaml"

    return written


TRAINING = {
    "gpt2_size": "1_2_8",
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "lr": 1e-2,
    "warmup_steps": 3,
    "eval_every_steps": 5,
    "eval_tokens": 300,
    "save_every_steps": 4,
    "log_every_steps": 1,
    "device": "cpu",
    "save_dir": "run",
}


def stage(name: str, folder: str, block_size: int) -> dict:
    place = {"dataset_key": "local-files", "source_path": [f"text/{folder}"]}
    return {"name": name, **place, "block_size": block_size, "n_epochs": 1}
