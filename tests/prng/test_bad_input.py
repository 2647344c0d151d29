"""Whatever a person gets wrong is answered in lines, before any work, and nothing is written."""

import json
import sys

import numpy as np
import pytest

from prng import cli

TRAIN = {"m": "2**16", "seq_len": 9, "n_embd": 8, "num_steps": 20, "batch_size": 2, "device": "cpu"}
CURRICULUM = {"moduli": "256,512", "seq_len": 9, "n_embd": 8, "batch_size": 2, "device": "cpu"}

# Changed flags of a run on one modulus (None takes one away), and words that the message must hold.
FLAGS = [
    ({"type": "XSLR"}, ["--type: 'XSLR' is no generator", "XSLRR"]),
    ({"type": "LCG+XSLR"}, ["'XSLR' is no generator"]),
    ({"type": "PCGs"}, ["'PCGS' is no generator"]),
    ({"type": "LCG+LCG"}, ["twice"]),
    ({"type": "XSLRR"}, ["control_bits is missing", "XSLRR"]),
    ({"type": "xslrr", "control_bits": 17}, ["0 <= control_bits <= L", "cb=17"]),
    ({"type": "XSLRR", "control_bits": -1}, ["--control_bits: [-1] "]),
    ({"type": "XSLRR", "control_bits": "3,3"}, ["name a number twice"]),
    ({"type": "XSLRR", "control_bits": "three"}, ["--control_bits: ['three'] "]),
    ({"type": "XSLRR", "control_bits": 3, "bits_to_keep": 9}, ["XSLRR keeps 8 bits of a state of 16"]),
    ({"type": "RS", "control_bits": 3, "bits_to_keep": 8}, ["RS with L = 16", "2**control_bits - 1 <= L"]),
    ({"type": "RR", "control_bits": 3, "bits_to_keep": 14}, ["control_bits + bits_to_keep <= L"]),
    ({"type": "XSHRR", "control_bits": 5, "bits_to_keep": 4}, ["bits_to_keep >= control_bits"]),
    ({"type": "XSHRS", "control_bits": 3, "bits_to_keep": 8}, ["bits_to_keep >= control_bits + 2**control_bits"]),
    ({"type": "LCG", "control_bits": 3}, ["control_bits is [3], but LCG has none"]),
    ({"type": "LCG", "bits_to_keep": 8}, ["LCG keeps 16 bits"]),
    ({"type": "LCG+XSLRR", "control_bits": 3, "bits_to_keep": 8}, ["neither type of LCG+XSLRR has a choice"]),
    ({"m": "2**128"}, ["too many for a model", "more digits"]),
    ({"vocab_size": "2**30"}, ["1073741824 tokens are too many"]),
    ({"type": "TLCG", "bits_to_keep": 17}, ["1 <= bits_to_keep <= L"]),
    ({"m": 1}, ["--m: 1 is not allowed", ">= 2"]),
    ({"m": "2**x"}, ["--m: '2**x' is not allowed"]),
    ({"m": "__import__('os')"}, ["is not allowed"]),
    ({"m": 1009}, ["the a that give modulus 1009"]),
    ({"m": str(2**127 - 1), "digits": 8}, ["too large to be factorised"]),
    ({"m": 64}, ["n_test_a: 16 asked for, but 15 of the a"]),
    ({"seq_len": 0}, ["--seq_len: 0 ", "integer >= 2"]),
    ({"seq_len": 1}, ["--seq_len: 1 "]),
    ({"base": 256}, ["1 digit to base 256", "the outputs reach 65535"]),
    ({"base": 40, "digits": 3}, ["3 digits to base 40", "64000"]),
    ({"base": 1}, ["--base: 1 "]),
    ({"digits": 0}, ["--digits: 0 "]),
    ({"vocab_size": 256}, ["vocab_size is 256, too small"]),
    ({"n_a": 0}, ["--n_a: 0 "]),
    ({"n_c": 40_000}, ["n_c: 40000 asked for"]),
    ({"n_test_a": 0}, ["--n_test_a: 0 "]),
    ({"n_example": 0}, ["--n_example: 0 "]),
    ({"n_example": "2**63"}, ["--n_example: 9223372036854775808 "]),
    ({"n_head": 3}, ["cannot be split over 3 heads"]),
    ({"n_head": 8}, ["RoPE", "odd"]),
    ({"num_steps": 0}, ["--num_steps: 0 "]),
    ({"warm_steps": 20}, ["warm_steps is 20", "20 updates"]),
    ({"warm_steps": 21}, ["warm_steps is 21", "20 updates"]),
    ({"lr_trgt": "fast"}, ["--lr_trgt: 'fast' "]),
    ({"lr_min": 1}, ["lr_min is 1.0, above lr_trgt"]),
    ({"beta1": 1}, ["--beta1: 1 ", "[0, 1)"]),
    ({"grad_acc_steps": 0}, ["--grad_acc_steps: 0 "]),
    ({"weight_decay": -1}, ["--weight_decay: -1 "]),
    ({"eval_interval": 0}, ["--eval_interval: 0 "]),
    ({"main_seed": "2**64"}, ["--main_seed: ", "[0, 18446744073709551615]"]),
    ({"lr": 1}, ["--lr: no such key"]),
    ({"moduli": "256"}, ["--moduli: no such key"]),
    ({"checkpoint_intervall": 5}, ["Did you mean checkpoint_interval?"]),
    ({"exclude_ac_paths": "nowhere.npz"}, ["exclude_ac_paths: nowhere.npz", "No such file"]),
    ({"exclude_ac_paths": "nowhere*.npz,{folder}/empty.npz"}, ["no file matches nowhere*.npz", "holds no values"]),
    ({"exclude_ac_paths": ""}, ["--exclude_ac_paths: '' is not allowed"]),
    ({"pretrained_path": "nowhere"}, ["pretrained_path: nowhere does not exist"]),
    ({"pretrain_m": 256}, ["there is no pretrained_path"]),
    ({"device": "cuda:7"}, ["device: 'cuda:7' is not there"]),
    ({"results_dir": "{folder}/empty.npz"}, ["results_dir: ", "cannot be written"]),
    ({"lr_trgt": 0, "batch_size": 0, "digits": 0}, ["--lr_trgt: 0 ", "--batch_size: 0 ", "--digits: 0 "]),
]

PHASE = {"phase_steps": 10}
PHASES = [  # of a curriculum, and words that the message must hold
    ([], ["--phases: [] "]),
    ([{}], ["--phases[0].phase_steps: is missing"]),
    ([PHASE, {**PHASE, "warmup_steps": 11}], ["--phases[1]: warmup_steps is 11, but the phase has 10 updates"]),
    ([{**PHASE, "warmup_steps": 10}], ["warmup_steps is 10"]),
    ([{**PHASE, "transition_steps": 11}], ["transition_steps is 11"]),
    ([{**PHASE, "phase_steps": -1}], ["--phases[0].phase_steps: -1 "]),
    ([{**PHASE, "start_weights": [1]}], ["phases[0].start_weights has 1 numbers for 2 moduli"]),
    ([PHASE, {**PHASE, "end_weights": [1, 2, 3]}], ["phases[1].end_weights has 3 numbers for 2 moduli"]),
    ([{**PHASE, "end_weights": [0, 0]}], ["--phases[0]: end_weights [0.0, 0.0] sum to 0"]),
    ([{**PHASE, "end_weights": [-1, 2]}], ["--phases[0].end_weights: [-1, 2] ", "list of number >= 0"]),
    ([{**PHASE, "end_weights": "equal"}], ["--phases[0].end_weights: 'equal' "]),
    ([{**PHASE, "lr_decay": "linear"}], ["--phases[0].lr_decay: 'linear' ", "constant, cosine"]),
    ([{**PHASE, "transition": "sudden"}], ["--phases[0].transition: 'sudden' "]),
    ([{**PHASE, "warmup": 3}], ["--phases[0].warmup: no such key. Did you mean warmup_steps?"]),
    ([{**PHASE, "name": "x"}, {**PHASE, "name": "x"}], ["two have the same name"]),
    (5, ["--phases: [5] "]),
]

CURRICULA = [
    ({"moduli": "256,256"}, ["name one twice"]),
    ({"moduli": ""}, ["--moduli: [] "]),
    ({"bits_to_keep": "8"}, ["bits_to_keep has 1 numbers for 2 moduli"]),
    ({"sampler_update_interval": 0}, ["--sampler_update_interval: 0 "]),
    ({"m": 256}, ["--m: no such key"]),
    ({"moduli": "256,2**9,x"}, ["--moduli: "]),
]

FILES = [
    ("trainig:\n  lr_trgt: 1", ["trainig: no such key"]),
    ("training:\n  lr_target: 1", ["training.lr_target: no such key. Did you mean lr_trgt?"]),
    ("training:\n  lr_trgt: x", ["training.lr_trgt: 'x' is not allowed"]),
    ("training:\n  lr_trgt: 1\nlr_trgt: 2", ["lr_trgt: stands twice, also as training.lr_trgt"]),
    ("output:\n  save_params: 3", ["output.save_params: 3 "]),
    ("data: 5", ["data: 5 is not allowed"]),
    ("curriculum:\n  moduli: [2**99999]", ["too large"]),
    ("wandb:\n  projekt: x", ["wandb.projekt: no such key"]),
]


def tree(folder):
    return sorted((path, path.is_file() and path.read_bytes()) for path in folder.rglob("*"))


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a verb that has to be refused, and checks words of its answer."""
    np.savez(tmp_path / "empty.npz", train_a=np.array([], dtype=int))

    def refused(verb, words, expected, **keys):
        keys = {"results_dir": str(tmp_path / "runs"), **keys}
        flags = [
            w for k, v in keys.items() if v is not None for w in (f"--{k}", str(v).replace("{folder}", str(tmp_path)))
        ]
        before = tree(tmp_path)
        assert cli.main([verb, *words, *flags]) == 2
        assert tree(tmp_path) == before, "something was written"
        lines = capsys.readouterr().err.splitlines()
        assert all(line.startswith("error: ") for line in lines), lines
        assert all(any(word in line for line in lines) for word in expected), lines
        return lines

    return refused


@pytest.mark.parametrize(("changes", "words"), FLAGS, ids=[str(changes) for changes, _ in FLAGS])
def test_a_wrong_flag_is_refused(refused, changes, words):
    assert len(refused("train", [], words, **{**TRAIN, **changes})) <= max(1, len(words))


@pytest.mark.parametrize(("phases", "words"), PHASES, ids=[str(phases) for phases, _ in PHASES])
def test_a_wrong_phase_is_refused_in_one_line(refused, phases, words):
    assert len(refused("curriculum", [], words, **CURRICULUM, phases=json.dumps(phases))) == 1


@pytest.mark.parametrize(("changes", "words"), CURRICULA, ids=[str(changes) for changes, _ in CURRICULA])
def test_a_wrong_curriculum_is_refused(refused, changes, words):
    refused("curriculum", [], words, **{**CURRICULUM, "phases": json.dumps([PHASE]), **changes})


@pytest.mark.parametrize(("text", "words"), FILES, ids=[text for text, _ in FILES])
def test_a_wrong_file_is_refused_by_name(refused, tmp_path, text, words):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    keys = {**CURRICULUM, "phases": json.dumps([PHASE])}
    refused("curriculum", ["--config", str(path)], [str(path), *words], **keys)


def test_a_missing_wandb_is_said_before_anything_starts(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused("train", [], ["use_wandb: the package wandb is missing"], **TRAIN, use_wandb="true")


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert cli.main(["evaluate", "--checkpoint", str(tmp_path)]) == 2
    assert cli.main(["plot"]) == 2
    assert cli.main(["plot", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "holds no config.json" in lines[0]
    assert "runs: is missing" in lines[1]
    assert lines[2] == f"error: runs: {tmp_path} holds no checkpoint"


def test_help_explains_every_key(capsys):
    from prng.config import CurriculumConfig, TrainConfig

    for verb, schema in [("train", TrainConfig), ("curriculum", CurriculumConfig)]:
        assert cli.main([verb, "--help"]) == 0
        said = capsys.readouterr().out
        for name, field in schema.model_fields.items():
            assert f"--{name}  (" in said
            assert field.description in said, name
