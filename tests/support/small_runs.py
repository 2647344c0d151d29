"""Runs of a second or less, for the tests of what surrounds training."""

import json
from pathlib import Path

SMALL = {
    "task": "set",
    "seq_length": 6,
    "vocab_size": 12,
    "gpt2_size": "2_2_16",
    "batch_size": 8,
    "max_steps": 20,
    "save_every_steps": 5,
    "eval_examples": 32,
    "log_every_steps": 3,
    "lr": 1e-2,
    "device": "cpu",
}


def flags(**changes) -> list[str]:
    """The command line of a run of a second or less, with some keys changed or added (None takes one away)."""
    keys = {**SMALL, **changes}
    return [word for key, value in keys.items() if value is not None for word in (f"--{key}", str(value))]


def metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
