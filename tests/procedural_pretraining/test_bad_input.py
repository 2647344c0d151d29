"""Whatever a person gets wrong is answered in lines, before any work, and nothing is written."""

import errno
import os
import sys
from pathlib import Path

import pytest
from small_runs import SMALL, flags

from procedural_pretraining import cli

# On the command line: changed flags (None takes one away), and words that the message must hold.
FLAGS = [
    ({"lrr": 1}, ["--lrr: no such key", "Did you mean lr?"]),
    ({"gpt_size": "2_2_16"}, ["--gpt_size: no such key", "gpt2_size"]),
    ({"k": 4}, ["--k: no such key"]),
    ({"curriculum_mastery": 0.9}, ["--curriculum_mastery: no such key"]),
    ({"lr": "fast"}, ["--lr: 'fast' is not allowed", "number > 0"]),
    ({"lr": 0}, ["--lr: 0 ", "number > 0"]),
    ({"lr": -1e-3}, ["--lr: -0.001 ", "number > 0"]),
    ({"lr": ".nan"}, ["--lr: nan "]),
    ({"lr": ".inf"}, ["--lr: inf "]),
    ({"lr": "true"}, ["--lr: True "]),
    ({"batch_size": 0}, ["--batch_size: 0 ", "integer >= 1"]),
    ({"batch_size": 2.5}, ["--batch_size: 2.5 ", "integer >= 1"]),
    ({"batch_size": "true"}, ["--batch_size: True "]),
    ({"batch_size": "null"}, ["--batch_size: None "]),
    ({"gradient_accumulation_steps": 0}, ["--gradient_accumulation_steps: 0 "]),
    ({"max_steps": -1}, ["--max_steps: -1 ", "integer >= 1 or null"]),
    ({"max_steps": "null"}, ["max_steps and epochs are both null"]),
    ({"epochs": 0}, ["--epochs: 0 "]),
    ({"steps_per_epoch": 0}, ["--steps_per_epoch: 0 "]),
    ({"warmup_steps": 20}, ["warmup_steps is 20", "20 updates"]),
    ({"lr_schedule": "cosin"}, ["--lr_schedule: 'cosin' ", "constant, cosine, linear"]),
    ({"min_lr_ratio": 1.1}, ["--min_lr_ratio: 1.1 ", "[0, 1]"]),
    ({"weight_decay": -0.1}, ["--weight_decay: -0.1 ", ">= 0"]),
    ({"max_grad_norm": 0}, ["--max_grad_norm: 0 ", "> 0"]),
    ({"dropout": 1}, ["--dropout: 1 ", "[0, 1)"]),
    ({"seed": -1}, ["--seed: -1 "]),
    ({"seed": 2**64}, ["--seed: 18446744073709551616 ", "in [0, 18446744073709551615]"]),
    ({"device": "cuda:7"}, ["device: 'cuda:7' is not there"]),
    ({"device": "abacus"}, ["device: 'abacus' is no device"]),
    ({"device": 9}, ["device: '9' is not there"]),
    ({"precision": "fp16"}, ["--precision: 'fp16' ", "fp32, bf16"]),
    ({"num_workers": -1}, ["--num_workers: -1 "]),
    ({"gpt2_size": "big"}, ["--gpt2_size: 'big' is not a size", "12_12_768"]),
    ({"gpt2_size": "2_3_16"}, ["--gpt2_size", "cannot be split over 3 heads"]),
    ({"gpt2_size": "0_1_16"}, ["--gpt2_size: '0_1_16' is not a size"]),
    ({"gpt2_size": "1_8_8", "positions": "rope"}, ["RoPE", "odd"]),
    ({"positions": "alibi"}, ["--positions: 'alibi' ", "learned, rope"]),
    ({"task": "srot"}, ["--task: no task 'srot'", "Did you mean 'sort'?"]),
    ({"task": "_brackets"}, ["--task: no task '_brackets'"]),
    ({"task": "../core/task"}, ["--task: no task"]),
    ({"task": None}, ["task: is missing"]),
    ({"save_dir": None}, ["save_dir: is missing"]),
    ({"save_dir": ""}, ["--save_dir: '' "]),
    ({"seq_length": 0}, ["--seq_length: 0 ", "in [1,"]),
    ({"vocab_size": 1}, ["--vocab_size: 1 ", "in [2,"]),
    ({"seq_length": 1, "vocab_size": 2}, ["too few distinct prompts"]),
    (
        {"task": "mixture", "vocab_size": None, "seq_length": None}
        | {"parts": "{task: set}, {task: sort, seq_length: 1, vocab_size: 2}"},
        ["task sort: ", "'seq_length': 1", "too few distinct prompts"],
    ),
    ({"task": "stack", "seq_length": 2}, ["--seq_length: 2 ", "in [3,"]),
    ({"task": "stack", "vocab_size": 2}, ["--vocab_size: 2 ", "in [3,"]),
    ({"task": "stack", "use_curriculum": True, "curriculum_start": 2}, ["task stack: seq_length: 2 "]),
    ({"task": "union", "seq_length": 1}, ["--seq_length: 1 ", "in [2,"]),
    ({"task": "delete", "present_probability": 1.5}, ["--present_probability: 1.5 "]),
    ({"task": "delete", "present_probability": 0.5, "vocab_size": 5}, ["present_probability", "vocab_size"]),
    ({"task": "dyck", "vocab_size": None, "seq_length": 7}, ["seq_length", "a multiple of 2"]),
    ({"task": "dyck", "vocab_size": None, "p_open": -1}, ["--p_open: -1 "]),
    ({"task": "dyck", "vocab_size": None, "max_depth": 0}, ["--max_depth: 0 "]),
    ({"task": "dyck", "vocab_size": None, "k": 0}, ["--k: 0 "]),
    (
        {"task": "dyck", "vocab_size": None, "use_curriculum": True, "curriculum_step_size": 1},
        ["seq_length", "a multiple of 2"],
    ),
    ({"task": "dyck", "vocab_size": None, "k": 1, "seq_length": 2}, ["too few distinct prompts"]),
    ({"task": "dyck_shuffle", "vocab_size": None, "balanced": True, "seq_length": 5}, ["even"]),
    ({"use_curriculum": True, "curriculum_start": 7}, ["curriculum_start is 7", "seq_length 6"]),
    ({"use_curriculum": True, "curriculum_mastery_threshold": 2}, ["--curriculum_mastery_threshold: 2 "]),
    ({"use_curriculum": "maybe"}, ["--use_curriculum: 'maybe' ", "true or false"]),
    ({"eval_lengths": "[4, 0]"}, ["--eval_lengths: [4, 0] ", "list of integer >= 1"]),
    ({"eval_lengths": "4,x"}, ["--eval_lengths: [4, 'x'] "]),
    ({"task": "stack", "eval_lengths": "2"}, ["eval_lengths: task stack: seq_length: 2 ", "in [3,"]),
    ({"eval_examples": 0}, ["--eval_examples: 0 "]),
    ({"save_every_steps": 0}, ["--save_every_steps: 0 "]),
    ({"save_total_limit": 0}, ["--save_total_limit: 0 "]),
    ({"save_steps": "[0]"}, ["--save_steps: [0] "]),
    ({"patience": -1}, ["--patience: -1 "]),
    (
        {"task": "sort", "seq_length": 2**20},
        ["task sort: 256 examples", "536,871,168 tokens", "Make the examples shorter"],
    ),
    ({"seeds": "0-1", "dropout": 0.1}, ["seeds: ", "set dropout to 0"]),
    ({"seeds": "0-1", "profile": "true"}, ["seeds: ", "profile is for one run"]),
    ({"lr": 0, "batch_size": 0, "seq_length": 0}, ["--lr: 0 ", "--batch_size: 0 ", "--seq_length: 0 "]),
]

# In a file, beside what SMALL has: its text, and words that the message must hold beside the file's name.
FILES = [
    ("lr: fast", ["lr: 'fast' is not allowed", "number > 0"]),
    ("learning_rate: 1e-3", ["learning_rate: no such key"]),
    ("sequence_length: 3", ["sequence_length: no such key. Did you mean seq_length?"]),
    ("lr: 1\nlr: 2", ["line 1", "'lr' stands twice"]),
    ("lr: [1", ["line 1"]),
    ("a: b: c", ["line 1", "mapping values"]),
    ("- lr\n- 5", ["holds list"]),
    ("just words", ["holds str"]),
    ("5: 6", ["key: value"]),
    ("!!python/object:os.system {}", ["line 1", "python/object"]),
    ("batch_size: '8'", ["batch_size: '8' is not allowed", "integer >= 1"]),
    ("run_name: 7", ["run_name: 7 is not allowed", "text or null"]),
    ("warmup_steps: 1e4", ["warmup_steps is 10000"]),
]


def tree(folder):
    return sorted((path, path.is_file() and path.read_bytes()) for path in folder.rglob("*"))


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a command that has to be refused; returns the lines of its answer."""

    def refused(*arguments: str) -> list[str]:
        before = tree(tmp_path)
        assert cli.main(list(arguments)) == 2
        assert tree(tmp_path) == before, "something was written"
        lines = capsys.readouterr().err.splitlines()
        assert lines
        assert all(line.startswith("error: ") for line in lines), lines
        return lines

    return refused


@pytest.mark.parametrize(("changes", "words"), FLAGS, ids=[str(changes) for changes, _ in FLAGS])
def test_a_wrong_flag_is_refused(refused, tmp_path, changes, words):
    said = "\n".join(refused(*flags(**{"save_dir": tmp_path / "run", **changes})))
    assert all(word in said for word in words), said


def test_every_problem_is_said_at_once_a_line_each(refused, tmp_path):
    assert len(refused(*flags(save_dir=tmp_path / "run", lr=0, batch_size=0, seq_length=0, foo=1))) == 4


@pytest.mark.parametrize(("text", "words"), FILES, ids=[text for text, _ in FILES])
def test_a_wrong_file_is_refused_by_name(refused, tmp_path, text, words):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    keys = [word.partition(":")[0] for word in text.splitlines()]
    others = flags(save_dir=tmp_path / "run", **{key: None for key in keys if key in SMALL})
    said = "\n".join(refused("--config", str(path), *others))
    assert all(word in said for word in [str(path), *words]), said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "{tmp}/none.yaml"], ["none.yaml: No such file"]),
        (["--config", "{tmp}"], ["Is a directory"]),
        (["--config=", *flags(save_dir="{tmp}/run")], ["--config: is empty"]),
        (["--config", "~no_such_user/a.yaml"], ["~no_such_user/a.yaml: No such file"]),
        (["--config", "{tmp}/binary"], ["is no text file"]),
        (["trian"], ["'trian'", "no such verb", "train"]),
        (["train", "word"], ["'word': expected --key value"]),
        (["--lr", "1", "--lr", "2"], ["--lr: given twice"]),
        (["list", "--lr", "1"], ["list takes no options"]),
        (
            ["--dry_run", "--device", "cuda:7", *flags(device=None, save_dir="{tmp}/run")],
            ["device: 'cuda:7' is not there"],
        ),
        (["--dry_run", "yes"], ["--dry_run: 'yes' is not allowed", "true or false"]),
        (["--config", "{tmp}/nul"], ["nul: special characters"]),
        (flags(save_dir="{tmp}/run", use_curriculum=True, seq_length=1, vocab_size=2), ["too few distinct prompts"]),
        (["evaluate"], ["checkpoint: is missing"]),
        (["evaluate", "--checkpoint", "{tmp}/none"], ["{tmp}/none does not exist"]),
        (["evaluate", "--checkpoint", "{tmp}/none", "--split", "dev"], ["--split: 'dev' ", "train, validation, test"]),
        (["evaluate", "--dry_run", "--checkpoint", "{tmp}/none"], ["--dry_run: evaluate cannot be rehearsed"]),
    ],
)
def test_a_wrong_command_is_refused(refused, tmp_path, arguments, words):
    (tmp_path / "nul").write_bytes(b"lr: 1\x00\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    said = "\n".join(refused(*(word.format(tmp=tmp_path) for word in arguments)))
    assert all(word.format(tmp=tmp_path) in said for word in words), said


def test_a_folder_that_cannot_be_written_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (said,) = refused(*flags(save_dir=tmp_path / "file" / "run"))
    assert f"save_dir: {tmp_path}/file/run cannot be written: Not a directory" in said


def test_a_folder_that_cannot_be_looked_into_is_refused(refused, tmp_path, monkeypatch):
    def exists(path: Path) -> bool:  # as within a folder of somebody else's; tests may run as root, who may do all
        if path == tmp_path / "closed" / "run":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return os.path.exists(path)

    monkeypatch.setattr(Path, "exists", exists)
    (said,) = refused(*flags(save_dir=tmp_path / "closed" / "run"))
    assert f"save_dir: {tmp_path}/closed/run cannot be written: Permission denied" in said


def test_an_environment_of_half_of_torchrun_is_told_in_words(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    (said,) = refused(*flags(save_dir=tmp_path / "run"))
    assert "WORLD_SIZE is 2, but this is no process of torchrun's: " in said


def test_a_missing_wandb_is_said_before_anything_starts(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (said,) = refused(*flags(save_dir=tmp_path / "run", wandb_enable=True))
    assert "wandb_enable: the package wandb is missing" in said
