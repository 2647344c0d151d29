"""Training through stages: the order of lengths, what checkpoints say, kills at any moment, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models

from core import checkpoint, files, trainer
from core.tracking import read_metrics
from curriculum import cli, run

SUPPORT = Path(__file__).parents[1] / "support"
ROOT = Path(__file__).parents[2]


def begin(file: str, *flags: str) -> int:
    assert cli.main(["initialize", "--type", file]) == 0
    return cli.main(["start", "curriculum", "--type", file, *flags])


def weights(run_dir: str) -> dict[str, torch.Tensor]:
    step = checkpoint.list_steps(Path(run_dir))[-1]
    return load_file(Path(run_dir) / f"checkpoint-{step}" / "model.safetensors")


def ends(run_dir: str) -> list[int]:
    """The last update of each stage, from the metrics."""
    training = [row for row in read_metrics(Path(run_dir)) if row["split"] == "train"]
    return [
        max(row["step"] for row in training if row["phase"] == name) for name in ("warmup", "foundation", "pretrain")
    ]


def test_stages_train_in_order_at_their_own_length_on_equal_numbers_of_tokens(curriculum):
    assert begin(curriculum()) == 0
    rows = [row for row in read_metrics(Path("run")) if row["split"] == "train"]
    lengths = [row["block_size"] for row in rows]
    assert lengths == sorted(lengths)
    assert set(lengths) == {8, 16, 32}
    tokens, examples = [[0, *(row[key] for row in rows)] for key in ("tokens", "examples")]
    for number, row in enumerate(rows):  # what the model was given, not what the line says
        shown = tokens[number + 1] - tokens[number], examples[number + 1] - examples[number]
        assert shown == (32, 32 // row["block_size"])


def test_every_evaluation_measures_every_stage_the_last_one_first(curriculum):
    assert begin(curriculum()) == 0
    rows = [row for row in read_metrics(Path("run")) if row["split"] == "validation"]
    assert {row["step"] for row in rows} >= {0, 5, 10, *ends("run")}
    for first, second, third in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert [(row["stage"], row["block_size"]) for row in (first, second, third)] == [
            ("pretrain", 32),
            ("warmup", 8),
            ("foundation", 16),
        ]
        assert first["step"] == third["step"]
    assert rows[-1]["loss"] < rows[2]["loss"] - 0.5


@pytest.mark.pictures
def test_a_stage_has_one_colour_in_all_panels_of_the_curves(curriculum, monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.pyplot.close", figures.append)
    assert begin(curriculum()) == 0
    training, validation = (
        {line.get_label().split(" ")[0]: line.get_color() for line in axis.get_lines() if line.get_label()[0] != "_"}
        for axis in figures[0].axes[:2]
    )
    assert training == validation
    assert len(set(training.values())) == 3


def test_checkpoints_say_where_the_run_stands_and_one_follows_each_transition(curriculum):
    assert begin(curriculum()) == 0
    first, second, third = ends("run")
    state = checkpoint.read_state(Path("run") / f"checkpoint-{first}")
    assert (state["curriculum_stage_idx"], state["curriculum_stage"], state["epoch"]) == (1, "foundation", 0)
    assert (state["iter_num"], state["stage_iter_num"], state["block_size"]) == (first, 0, 16)
    rows = read_metrics(Path("run"))
    for step in (first, second):  # what was measured there is of the stage that ended
        assert {row["split"] for row in rows if row["step"] == step} == {"train", "validation"}
        assert len({row["phase"] for row in rows if row["step"] == step}) == 1
    state = checkpoint.read_state(Path("run") / "checkpoint-4")
    assert (state["curriculum_stage_idx"], state["iter_num"], state["stage_iter_num"]) == (0, 4, 4)
    assert (Path("run") / f"checkpoint-{second}").is_dir()
    assert checkpoint.read_state(Path("run") / f"checkpoint-{third}")["curriculum_stage"] == "pretrain"


def test_the_model_is_built_for_the_longest_stage_with_rotary_positions(curriculum):
    assert begin(curriculum()) == 0
    shape = json.loads((Path("run") / "checkpoint-4" / "config.json").read_text())
    assert (shape["model_type"], shape["max_position_embeddings"]) == ("gpt_neox", 32)


MASKED = {"document_mask": True, "lr_schedule": "continuous"}


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"optimizer": "muon"}, {}, MASKED])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights(curriculum, keys):
    """Kills come within milliseconds after random updates and in saves; some fall on each transition (below)."""
    file = curriculum(training=keys)
    assert begin(file, "--save_dir", "whole") == 0
    command = [sys.executable, str(SUPPORT / "kill_and_resume.py"), "3", "6", "curriculum.cli"]
    first = ["start", "--type", file, "--save_every_steps", "1"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(ends("whole")[0] - 1), *first], env=environment(), capture_output=True
    )
    assert killed.returncode == -9, killed.stderr
    done = subprocess.run(
        [*command, "resume", *first[1:]], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "killed 6 times" in done.stdout
    assert_same_run("run", "whole")


KILLED_AT = """
import os, signal, sys
from core import trainer
from curriculum import cli
update = trainer.Run.update
def kill(self, *arguments):
    if self.state.step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, *arguments)
trainer.Run.update = kill
cli.main(sys.argv[2:])
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{SUPPORT}", "OMP_NUM_THREADS": "1"}


def assert_same_run(one: str, other: str) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (Path(one) / "metrics.jsonl").read_bytes() == (Path(other) / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(("where", "stage"), [("before", 0), ("after", 0), ("in the save", 0), ("after", 1)])
def test_killed_around_a_transition_it_ends_the_same(curriculum, monkeypatch, where, stage):
    file = curriculum()
    assert begin(file, "--save_dir", "whole") == 0
    border = ends("whole")[stage]

    class Killed(BaseException):
        pass

    update, flush, saving = trainer.Run.update, files.flush, []

    def stop_at(self, *arguments):
        if self.state.step == border + {"before": -1, "after": 0}.get(where, 99):
            raise Killed
        saving.append(self.state.step)
        return update(self, *arguments)

    def stop_in_save(path):
        if where == "in the save" and saving and saving[-1] == border - 1 and "partial" in str(path):
            raise Killed
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Run, "update", stop_at)
        patch.setattr(files, "flush", stop_in_save)
        with pytest.raises(Killed):
            cli.main(["start", "--type", file])
    assert cli.main(["resume", "--type", file]) == 0
    assert_same_run("run", "whole")


def error_of(capsys, *words: str) -> str:
    capsys.readouterr()
    assert cli.main(list(words)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_resume_without_a_checkpoint_is_an_error(curriculum, capsys):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    error = error_of(capsys, "resume", "--type", file)
    assert (
        error == f"error: run has no checkpoint to resume; begin with: python -m curriculum.cli start --type {file}\n"
    )


def test_start_with_resume_begins_or_goes_on_as_a_requeued_job_needs_it(curriculum, capsys):
    file = curriculum()
    assert begin(file, "--resume", "true", "--save_dir", "whole") == 0
    assert begin(file, "--resume", "true") == 0
    shutil.rmtree(f"run/checkpoint-{checkpoint.list_steps(Path('run'))[-1]}")
    assert "go on with: python -m curriculum.cli resume" in error_of(capsys, "start", "--type", file)
    assert cli.main(["start", "--type", file, "--resume", "true"]) == 0
    assert_same_run("run", "whole")
    Path("other.yaml").write_text(Path(file).read_text())
    error = error_of(capsys, "start", "--type", "other.yaml", "--resume", "true")
    assert "was started with 'curriculum', now it is 'other'" in error


def test_seeds_killed_while_only_the_first_had_saved_are_resumed(curriculum, monkeypatch):
    file = curriculum()
    assert begin(file, "--save_dir", "whole", "--seeds", "0,1") == 0
    save = checkpoint.save

    class Killed(BaseException):
        pass

    def stop_at_the_second(run_dir, *arguments):
        if run_dir.name == "seed1":
            raise Killed
        return save(run_dir, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop_at_the_second)
        with pytest.raises(Killed):
            cli.main(["start", "--type", file, "--seeds", "0,1"])
    assert [checkpoint.list_steps(Path(f"run/seed{seed}")) for seed in (0, 1)] == [[4], []]
    assert cli.main(["resume", "--type", file, "--seeds", "0,1"]) == 0
    for seed in (0, 1):
        losses = [[row["loss"] for row in read_metrics(Path(f"{name}/seed{seed}"))] for name in ("whole", "run")]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_start_and_resume_do_not_send_each_other_to_checkpoints_that_are_all_damaged(curriculum, capsys):
    file = curriculum()
    assert begin(file, "--save_total_limit", "1") == 0
    for state in Path("run").glob("checkpoint-*/trainer_state.json"):
        state.write_text("{")
    error = error_of(capsys, "resume", "--type", file)
    assert error.startswith(
        "error: run has no intact checkpoint to resume; move its checkpoint-* away and begin with: "
    )


def test_another_type_and_changed_data_are_refused_with_both_names(curriculum, capsys):
    file = curriculum()
    assert begin(file) == 0
    Path("other.yaml").write_text(Path(file).read_text())
    error = error_of(capsys, "resume", "--type", "other.yaml")
    assert error == "error: type: the run in run was started with 'curriculum', now it is 'other'\n"
    Path("text/a/00.txt").write_text("changed\n")
    assert cli.main(["initialize", "--type", file]) == 0
    error = error_of(capsys, "resume", "--type", file)
    assert "train_warmup_pretrain.bin: the run in run was started with '" in error
    error = error_of(capsys, "start", "--type", file)
    assert "run already holds a run (checkpoint-" in error
    assert f"go on with: python -m curriculum.cli resume --type {file}" in error


def test_files_made_with_other_keys_are_refused_until_they_are_made_anew(curriculum, capsys):
    assert cli.main(["initialize", "--type", curriculum()]) == 0
    shutil.copytree("text/a", "text/d")
    for changes, key in [
        ({"val_share": 0.3}, "val_share 0.2, which is now 0.3"),
        ({"stages": {"warmup": {"n_items": 29}}}, "n_items None, which is now 29"),
        ({"stages": {"warmup": {"source_path": ["text/d"]}}}, "source {"),
    ]:
        file = curriculum(**changes)
        error = error_of(capsys, "start", "--type", file)
        assert f"train_warmup_pretrain.bin: was made with {key}" in error
        assert f"make it with: python -m curriculum.cli initialize --type {file}" in error
        assert not Path("run").exists()


def test_files_may_be_trained_on_where_their_source_is_not(curriculum):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    shutil.rmtree("text")
    assert cli.main(["start", "--type", file]) == 0


def test_data_that_moved_may_be_resumed_with(curriculum):
    file = curriculum()
    assert begin(file) == 0
    Path("data").rename("elsewhere")
    assert cli.main(["resume", "--type", file, "--data_dir", "elsewhere"]) == 0


def test_a_missing_file_gives_the_command_that_makes_it(curriculum, capsys):
    file = curriculum()
    error = error_of(capsys, "start", "--type", file)
    assert len(error.splitlines()) == 6
    make = f"python -m curriculum.cli initialize --type {file}"
    assert error.splitlines()[0] == f"error: data/train_warmup_pretrain.bin: does not exist; make it with: {make}"
    assert not Path("run").exists()


def test_files_of_another_tokenizer_are_refused(curriculum, capsys):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    error = error_of(capsys, "start", "--type", file, "--tokenizer", "gpt2")
    assert "train_warmup_pretrain.bin: was made with the tokenizer bytes, not with gpt2; make it" in error


def test_a_bare_file_of_somebody_else_is_trained_on(curriculum, capsys):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    for suffix in (".idx", ".doc", ".meta.json"):
        Path(f"data/train_pretrain_pretrain{suffix}").unlink()
    assert cli.main(["start", "--type", file]) == 0
    assert "without train_pretrain_pretrain.meta.json: taken for uint16 ids" in capsys.readouterr().out
    error = error_of(capsys, "start", "--type", file, "--document_mask", "--save_dir", "masked")
    assert "train_pretrain_pretrain.bin does not say where its documents begin" in error


ONE_STEM = {"warmup": {"name": "a", "dataset_suffix": "b_c"}, "foundation": {"name": "a_b", "dataset_suffix": "c"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": {"foundation": {"name": "warmup"}}}, "stages: two are named 'warmup'"),
        ({"stages": {"warmup": {"name": "../x"}}}, "stages[0].name: '../x' is not allowed"),
        ({"stages": {"warmup": {"name": ""}}}, "stages[0].name: '' is not allowed"),
        ({"stages": {"warmup": {"dataset_suffix": "a/b"}}}, "stages[0].dataset_suffix: 'a/b' is not allowed"),
        ({"stages": {"warmup": {"blocksize": 3}}}, "stages[0].blocksize: no such key. Did you mean block_size?"),
        ({"stages": {"warmup": {"block_size": 0}}}, "stages[0].block_size: 0 is not allowed; it takes integer in [2,"),
        ({"stages": {"warmup": {"n_epochs": 1.5}}}, "stages[0].n_epochs: 1.5 is not allowed; it takes integer >= 1"),
        ({"stages": {"warmup": {"replay": 0.5}}}, "warmup is the first, so it has nothing to replay"),
        ({"stages": ONE_STEM}, "stages: a and a_b would both have files named a_b_c"),
        ({"stages": {"warmup": {"source_path": ["text/b"]}}}, "warmup and foundation read the same text"),
        ({"stages": {"warmup": {"source_path": ["text/x"]}}}, "text/x does not exist"),
        ({"stages": {"pretrain": {"source_path": ["text/c", "text/b/../b/01.txt"]}}}, "01.txt, as foundation does"),
        ({"stages": {"pretrain": {"source_path": None}}, "local_files": "text"}, "00.txt, as warmup does"),
        ({"stages": {"warmup": {"source_path": []}}}, "stages[0].source_path: [] is not allowed"),
        ({"stages": {"warmup": {"dataset_key": "simple-sentences"}}}, "stages[0]: source_path: is read for"),
        (
            {"stages": {"warmup": {"dataset_key": "custom-scrape", "source_path": ["a.yaml", "b.yaml"]}}},
            "stages[0]: source_path: custom-scrape takes one file of addresses",
        ),
        ({"stages": {"warmup": {"document_separator": "\n\n"}}}, "document_separator: '\\n\\n' is no line"),
        ({"stages": {"warmup": {"document_separator": "a\nb"}}}, "document_separator: 'a\\nb' is no line"),
        ({"stages": {"pretrain": {"block_size": 512}}}, "pretrain: 30 documents with"),
        ({"training": {"learning_rate": 3}}, "training.learning_rate: no such key"),
        ({"training": {"gpt2_size": "1_3_8"}}, "cannot be split over 3 heads"),
        ({"training": {"optimizer": "sgd"}}, "training.optimizer: 'sgd' is not allowed; it takes one of adamw, muon"),
        ({"tokenizer": "nowhere"}, "tokenizer: nowhere does not exist"),
        ({"color": "red"}, "color: no such key"),
        ({"stages": []}, None),
    ],
)
def test_bad_input_is_a_line_and_status_2_before_any_training(curriculum, capsys, change, message):
    if change == {"stages": []}:
        Path("curriculum.yaml").write_text("tokenizer: bytes\n")
        file, message = "curriculum.yaml", "type 'curriculum.yaml' is none of simple, default and no file with stages"
    else:
        file = curriculum(**change)
    statuses = [cli.main([verb, "--type", file]) for verb in ("initialize", "start")]
    assert statuses[1] == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start", "--type", "medium"], "type 'medium' is none of simple, default"),
        (["start", "--type", "missing.yaml"], "missing.yaml: No such file"),
        (["start", "--type", "simple", "--lr", "-1"], "--lr: -1 is not allowed"),
        (["initialize", "pretraining"], "'pretraining': expected --key value"),
        (["generate"], "prompt: is missing"),
        (["generate", "x"], "runs/curriculum has no checkpoint; give the save_dir of your run"),
        (["generate", "x", "--type", "missing.yaml"], "--type: no such key"),
        (["begin"], "no such verb; there are initialize, start, resume"),
    ],
)
def test_bad_commands(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(capsys, *words)


def test_validation_that_is_too_small_is_found_before_training(curriculum, capsys):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    longer = curriculum({"foundation": {"block_size": 200}, "pretrain": {"block_size": 200}})
    error = error_of(capsys, "start", "--type", longer)
    assert "fewer than 8 windows of foundation's block_size 200" in error
    assert "val_foundation_pretrain.bin" in error


def test_samples_are_shown_and_text_is_generated(curriculum, capsys):
    file = curriculum(training={"sample_prompts": ["sun ", "moon"], "sample_tokens": 4})
    assert begin(file) == 0
    out = capsys.readouterr().out
    assert "step 5 writes\n  'sun ' -> '" in out
    assert cli.main(["generate", "sun moon", "--save_dir", "run", "--tokens", "10", "--temperature", "0"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("sun moon")
    assert cli.main(["generate", "sun moon", "--save_dir", "run", "--tokens", "10", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == text
    assert "has 40 tokens, but the model has 32 positions" in error_of(
        capsys, "generate", "x" * 40, "--save_dir", "run"
    )


def test_a_prompt_without_any_token_is_refused(curriculum, capsys):
    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz .\n")}
    Tokenizer(models.BPE({**letters, "<eos>": len(letters)}, [])).save(str(Path("letters.json").absolute()))
    file = curriculum(tokenizer="letters.json")
    assert begin(file) == 0
    told = "the tokenizer letters has no token for '???'"
    assert f"prompt: {told}" in error_of(capsys, "generate", "???", "--save_dir", "run")
    prompts = ["--sample_prompts", '["sun", "???"]', "--save_dir", "other"]
    assert f"sample_prompts: {told}" in error_of(capsys, "start", "--type", file, *prompts)


def test_status_says_what_there_is(curriculum, capsys):
    file = curriculum()
    assert cli.main(["status", "--type", file]) == 0
    out = capsys.readouterr().out
    assert out.count("does not exist") == 6
    assert "run: no run yet" in out
    assert begin(file) == 0
    capsys.readouterr()
    assert cli.main(["status", "--type", file]) == 0
    out = capsys.readouterr().out
    assert out.count("complete") == 6
    assert "curriculum_stage_idx 2, curriculum_stage pretrain, epoch 0" in out


def test_status_says_how_far_each_seed_is(curriculum, capsys):
    file = curriculum(training={"seeds": [2, 10]})
    assert begin(file) == 0
    capsys.readouterr()
    assert cli.main(["status", "--type", file]) == 0
    out = capsys.readouterr().out
    assert out.index("run/seed2: step 45") < out.index("run/seed10: step 45")
    assert "no run yet" not in out
    error = error_of(capsys, "generate", "sun", "--save_dir", "run")  # it has checkpoints: of which seed is to be said
    assert error == "error: save_dir: run holds a run of each seed; take one of them, such as run/seed2\n"


def test_status_finds_a_named_run_and_refuses_one_of_an_ablation(curriculum, capsys):
    file = curriculum(training={"run_name": "named"})
    assert begin(file) == 0
    assert cli.main(["status", "--type", file]) == 0
    assert "run/named: step " in capsys.readouterr().out
    file = curriculum()
    flags = ["--arms", "curriculum", "--seeds", "0", "--budgets", "tokens", "--save_dir", "arms"]
    assert cli.main(["ablate", "--type", file, *flags]) == 0
    error = error_of(capsys, "status", "--type", file, "--save_dir", "arms/curriculum/seed0")
    assert error.startswith("error: save_dir: the run in arms/curriculum/seed0 was not made by `start`")


def test_python_can_do_what_the_commands_do(curriculum):
    from curriculum.config import TrainingConfig
    from curriculum.data import initialize
    from curriculum.stages import Curriculum, CurriculumStage, InitializeConfig

    made = Curriculum(
        stages=[
            CurriculumStage(
                name="warmup",
                dataset_key="text/a",
                block_size=8,
                n_epochs=1,
                dataset_suffix="pretrain",
                n_items=20,
            ),
            CurriculumStage(name="main", dataset_key="local-files", source_path=["text/c"], block_size=16, n_epochs=1),
        ]
    )
    for path in Path("text/a").iterdir():
        path.unlink()
    lines = [json.dumps({"text": f"story {number} of many"}) for number in range(50)]
    Path("text/a/train.jsonl").write_text("\n".join(lines) + "\n")
    data = {"type": "mine", "stages": made.stages, "tokenizer": "bytes", "val_share": 0.3}
    assert [row["documents"] for row in initialize(InitializeConfig(**data))] == [20, 30]
    small = {"gpt2_size": "1_2_8", "batch_size": 1, "gradient_accumulation_steps": 1, "device": "cpu"}
    (summary,) = run.start(TrainingConfig(**data, **small, save_dir="python"))
    assert [row["stage"] for row in summary["evaluation"]] == ["main", "warmup"]
