"""A model learns a generator: it predicts sequences of multipliers and increments that it has never seen."""

import json

import pytest
import torch

from prng import cli


@pytest.mark.slow
def test_a_small_lcg_is_learned(tmp_path):
    torch.set_num_threads(1)
    words = ["--m", "2**6", "--n_a", "11", "--n_c", "24", "--n_test_a", "4", "--n_test_c", "8", "--n_example", "64"]
    words += ["--seq_len", "33", "--n_layer", "2", "--n_head", "4", "--n_embd", "64", "--batch_size", "64"]
    words += [
        "--lr_trgt",
        "4e-3",
        "--weight_decay",
        "0.1",
        "--beta2",
        "0.98",
        "--num_steps",
        "3000",
        "--warm_steps",
        "200",
    ]
    words += ["--eval_interval", "1000", "--device", "cpu", "--results_dir", str(tmp_path), "--experiment_name", "run"]
    assert cli.main(["train", *words]) == 0
    (row, *_) = json.loads((tmp_path / "run" / "summary.json").read_text())["evaluation"]
    assert row["cell"] == "unseen a, unseen c"
    assert row["last_accuracy"] > 0.95
