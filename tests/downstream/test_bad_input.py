"""Whatever a person gets wrong is answered in lines, before any work, and nothing is written."""

import pytest

from core import files, hf
from downstream import cli

SMALL = {"task": "forwardaddition_2", "max_steps": 3, "batch_size": 4, "device": "cpu"}

FLAGS = [  # changed flags (None takes one away), and words that the message must hold
    ({"task": "additionstream_"}, ["--task: 'additionstream_' is no task", "FAMILY_N"]),
    ({"task": "addition_5"}, ["--task: 'addition_5' is no task", "Did you mean additionstream_5?"]),
    ({"task": "sorting_9_3"}, ["--task: 'sorting_9_3': min_len is 9, above max_len 3"]),
    ({"task": None}, ["task: is missing"]),
    ({"learning_rat": 1}, ["--learning_rat: no such key", "learning_rate"]),
    ({"learning_rate": "fast"}, ["--learning_rate: 'fast' is not allowed", "number > 0"]),
    ({"mask": "earlier"}, ["--mask: 'earlier' is not allowed", "answer, documented"]),
    ({"weights_to_be_transferred": "mlp"}, ["--weights_to_be_transferred: ['mlp'] is not allowed", "ffn"]),
    ({"weights_to_be_transferred": "attn"}, ["weights_to_be_transferred", "pretrained_model_path does not say where"]),
    ({"second_weights_to_be_transferred": "ffn"}, ["second_model_path does not say where"]),
    ({"weights_to_be_trained": "body"}, ["--weights_to_be_trained: ['body'] is not allowed"]),
    ({"weights_to_be_trained": "[]"}, ["nothing is left to be trained"]),
    ({"transfer_control": "reinit"}, ["transfer_control is reinit", "pretrained_model_path"]),
    ({"embedding_init_strategy": "mean"}, ["--embedding_init_strategy: 'mean' ", "average_noise"]),
    ({"warmup_steps": 3}, ["warmup_steps is 3", "3 updates"]),
    ({"n_positions": 5}, ["n_positions: 5 are too few, forwardaddition_2 has 10 tokens"]),
    ({"n_head": 3}, ["width 16 cannot be split over 3 heads"]),
    ({"device": "cuda:7"}, ["device: 'cuda:7' is not there"]),
    ({"seed": 2**64}, ["--seed: 18446744073709551616 is not allowed; it takes integer in"]),
    ({"eval_size": 0}, ["--eval_size: 0 "]),
    ({"train_steps": -1}, ["--train_steps: -1 "]),
    ({"pretrained_model_path": "{tmp}/none"}, ["pretrained_model_path: {tmp}/none does not exist"]),
    ({"pretrained_model_path": "{tmp}/garbage.pth"}, ["{tmp}/garbage.pth holds no readable model"]),
    ({"pretrained_model_path": "{tmp}"}, ["{tmp} holds no config.json"]),
    ({"pretrained_model_path": "{tmp}/cut"}, ["{tmp}/cut holds no readable model"]),
    ({"pretrained_model_path": "{tmp}/good", "n_embd": 32}, ["n_embd is 16 there and 32 here"]),
    ({"pretrained_model_path": "{tmp}/good", "n_head": 2}, ["n_head is 4 there and 2 here"]),
    ({"pretrained_model_path": "{tmp}/good", "weights_to_be_transferred": "[]"}, ["nothing was copied"]),
    ({"pretrained_model_path": "{tmp}/good", "embedding_init_strategy": "retain"}, ["102 tokens and the model 31"]),
    ({"pretrained_model_path": "{tmp}/good", "second_model_path": "{tmp}/good"}, ["would be taken from", "too"]),
    ({"pretrained_model_path": "{tmp}/headless.safetensors"}, ["does not say how many heads", "set n_head"]),
]


@pytest.fixture
def refused(tmp_path, pretrained, capsys):
    (tmp_path / "garbage.pth").write_bytes(b"no weights")
    pretrained("good")
    cut = pretrained("cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    files.write_tensors(hf.weights_to_hf(hf.load(tmp_path / "good")), tmp_path / "headless.safetensors")

    def refused(words, **keys) -> list[str]:
        flags = [w for key, v in keys.items() if v is not None for w in (f"--{key}", str(v).format(tmp=tmp_path))]
        before = sorted(tmp_path.rglob("*"))
        assert cli.main(["algorithmic", *words, *flags, "--save_dir", str(tmp_path / "runs")]) == 2
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        lines = capsys.readouterr().err.splitlines()
        assert all(line.startswith("error: ") for line in lines), lines
        return lines

    return refused


@pytest.mark.parametrize(("changes", "words"), FLAGS, ids=[str(changes) for changes, _ in FLAGS])
def test_a_wrong_flag_is_refused_in_one_line(refused, tmp_path, changes, words):
    (line,) = refused([], **{**SMALL, **changes})
    assert all(word.format(tmp=tmp_path) in line for word in words), line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: sorting_5", "tasks: no such key. Did you mean task?"),
        ("task: 5", "task: 5 is not allowed; it takes text"),
        ("weights_to_be_transferred: attn,x", "weights_to_be_transferred: ['attn', 'x'] is not allowed"),
        ("task: [sorting_5", "line 1"),
        ("- task", "holds list"),
    ],
)
def test_a_wrong_file_is_refused_by_name(refused, tmp_path, text, words):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    given = {key: value for key, value in SMALL.items() if not text.startswith("task")}
    lines = refused(["--config", str(path)], **{**given, "task": None if "task: " in text else "sorting_5"})
    assert any(str(path) in line and words in line for line in lines), lines
