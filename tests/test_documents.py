"""The commands and keys that users know from the documentation work here."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from core import config, hf
from procedural_pretraining import cli
from procedural_pretraining.config import schema

CONFIGS = Path(__file__).parents[1] / "procedural_pretraining" / "configs"
ITEMS = ["sort", "reverse", "identity", "set", "union", "delete", "stack"]
BRACKETS = ["dyck", "dyck_shuffle"]
DOCUMENTED = {"gpt2_size": "12_12_768", "lr": 5e-4, "lr_schedule": "constant", "warmup_steps": 0, "wandb_enable": False}
DOCUMENTED |= {"weight_decay": 0.1, "save_every_steps": 500, "save_total_limit": 20, "seed": 42, "epochs": 1}
OF_ITEMS = {"seq_length": 64, "vocab_size": 100, "batch_size": 64, "max_steps": 2501, "steps_per_epoch": 2501}
OF_BRACKETS = {"seq_length": 2048, "k": 64, "batch_size": 4, "gradient_accumulation_steps": 8, "max_steps": 501}


@pytest.mark.parametrize("task", ITEMS + BRACKETS)
def test_the_documented_configuration_has_the_documented_values(task):
    resolved = config.resolve(schema, str(CONFIGS / f"{task}.yaml"), {}).model_dump()
    expected = DOCUMENTED | (OF_ITEMS if task in ITEMS else OF_BRACKETS) | {"task": task}
    assert {key: resolved[key] for key in expected} == expected


def test_the_checkpoint_that_the_documentation_names_is_one_that_is_saved():
    resolved = config.resolve(schema, str(CONFIGS / "set.yaml"), {})
    assert resolved.run_dir == Path("pretrained_models/procedural/set")
    assert 2500 % resolved.save_every_steps == 0
    assert resolved.total_steps >= 2500
    assert 250 in resolved.save_steps


@pytest.mark.parametrize("task", [*ITEMS, *BRACKETS, "eca", "set_union"])
def test_every_configuration_trains_and_transformers_loads_the_result(task, tmp_path, monkeypatch):
    smaller = ["--gpt2_size", "2_4_16", "--max_steps", "3", "--batch_size", "2", "--eval_examples", "4"]
    if task in BRACKETS:
        smaller += ["--seq_length", "64"]
    run_dir = tmp_path / "run"
    command = ["--config", str(CONFIGS / f"{task}.yaml"), *smaller, "--save_dir", str(run_dir), "--device", "cpu"]
    assert cli.main(command) == 0

    ours = hf.load(run_dir / "checkpoint-3").eval()
    theirs = AutoModelForCausalLM.from_pretrained(run_dir / "checkpoint-3").eval()
    ids = torch.randint(0, ours.config.num_tokens, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=0)
