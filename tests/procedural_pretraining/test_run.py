"""What a run does on its way: guards, patience, mastery, best, limits, and what its commands print."""

import errno
import json
import math
import subprocess
import sys
import weakref
from contextlib import nullcontext

import matplotlib.image
import pytest
import torch
import yaml
from small_runs import flags, metrics

from core import checkpoint, evaluate, files, rehearsal, trainer
from core.config import resolve
from core.distributed import World
from core.model import GPT
from core.schedule import factor
from core.tracking import read_metrics
from procedural_data.set import Set
from procedural_pretraining import cli
from procedural_pretraining import run as pretraining
from procedural_pretraining.config import schema
from procedural_pretraining.length_curriculum import LengthCurriculum
from procedural_pretraining.run import LengthTable


def spoil(monkeypatch, at_call: int, value: float) -> None:
    """Makes the loss of the given micro-batch wrong."""
    calls, right = 0, trainer.loss_sum

    def wrong(model, batch):
        nonlocal calls
        calls += 1
        return right(model, batch) * (value if calls == at_call else 1.0)

    monkeypatch.setattr(trainer, "loss_sum", wrong)


def test_a_damaged_checkpoint_is_not_called_the_last_good_one(train, monkeypatch, capsys):
    run = train()
    (run / "checkpoint-20" / "model.safetensors").write_bytes(b"")
    spoil(monkeypatch, 3, math.nan)
    train(status=1, resume=True)
    error = capsys.readouterr().err
    assert "at step 18" in error
    assert f"last good checkpoint: {run}/checkpoint-15." in error


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_with_step_and_last_good_checkpoint(train, monkeypatch, capsys, value):
    spoil(monkeypatch, 13, value)
    run = train(status=1)
    error = capsys.readouterr().err
    assert "at step 13" in error
    assert f"last good checkpoint: {run}/checkpoint-10" in error
    assert checkpoint.list_steps(run) == [5, 10]
    assert checkpoint.damage(run / "checkpoint-10") is None


def test_an_absurd_first_loss_stops_the_run(train, monkeypatch, capsys):
    spoil(monkeypatch, 1, 10.0)
    run = train(status=1)
    assert "far above ln(vocabulary)" in capsys.readouterr().err
    assert checkpoint.list_steps(run) == []


def test_weights_that_an_update_ruined_are_noticed_by_the_evaluation_after_it(train, capsys):
    run = train(status=1, lr=1e30, eval_every_steps=1)
    assert "validation loss is nan after step 1; no checkpoint yet" in capsys.readouterr().err
    assert [row["step"] for row in metrics(run)] == [0]


def test_a_full_disk_ends_the_run_in_words_and_loses_nothing(train, monkeypatch, capsys):
    write_tensors, calls = files.write_tensors, 0

    def save_until_full(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_tensors(*arguments)

    monkeypatch.setattr(files, "write_tensors", save_until_full)
    run = train(status=1)
    error = capsys.readouterr().err
    assert "after step 15: [Errno 28] No space left on device" in error
    assert f"last good checkpoint: {run}/checkpoint-10" in error
    assert checkpoint.list_steps(run) == [5, 10]
    assert not list(run.glob(".checkpoint*"))
    train(resume=True)
    assert checkpoint.list_steps(run) == [5, 10, 15, 20]


def test_no_training_loss_is_lost_when_an_evaluation_ends_the_run(train):
    run = train(lr=1e-12, patience=1, max_steps=100, weight_decay=0, eval_every_steps=5, log_every_steps=7)
    assert [row["step"] for row in metrics(run) if row["split"] == "train"] == [7, 10]


def test_a_model_too_large_for_the_memory_ends_in_a_line(train, tmp_path, capsys):
    train(status=1, gpt2_size="1_1_4000000")
    assert "error: out of memory" in capsys.readouterr().err


def test_a_duration_beyond_all_bounds_is_told():
    assert rehearsal.duration(3725) == "1:02:05 (h:mm:ss)"
    assert rehearsal.duration(1e18) == "centuries"


def test_patience_ends_a_run_that_does_not_improve(train):
    run = train(lr=1e-12, patience=2, max_steps=100, weight_decay=0)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stopped"] == "patience"
    assert summary["step"] < 100
    train(lr=1e-12, patience=2, max_steps=100, weight_decay=0, resume=True)
    assert checkpoint.list_steps(run)[-1] == summary["step"], "a run that was given up stays so"


def test_only_the_examples_of_lengths_still_measured_are_kept_in_memory():
    keys = dict(zip(*[iter(word.removeprefix("--") for word in flags(save_dir="x"))] * 2, strict=True))
    config = resolve(schema, None, keys | {"use_curriculum": "true", "eval_lengths": "3"})
    model = GPT(config.model_shape)
    source = LengthCurriculum(config.task_at, 42, [2, 4, 6], 0.0, 0, False, lambda text: None)
    table, kept = LengthTable(config, source, World()), weakref.WeakSet()

    def by_group(*arguments):
        made = evaluate.by_group(*arguments)
        kept.update(made.values())
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "by_group", by_group)
        for step in (1, 2, 3):
            evaluate.answered(table(model, 0), model)
            source.on_evaluation(step, {"accuracy": 1.0})
    assert len(kept) == 2, "the present length, and that of eval_lengths"


def test_training_stops_at_mastery_of_the_final_length_if_asked(train):
    changes = {"use_curriculum": True, "curriculum_mastery_threshold": 0.1, "curriculum_step_size": 2}
    run = train(max_steps=100, stop_at_mastery=True, **changes)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stopped"] == "mastery"
    assert [length for _, length in summary["sources"]["set"]["history"]] == [2, 4, 6]
    assert train("on", max_steps=40, **changes).joinpath("checkpoint-40").is_dir()


def test_training_stops_at_mastery_without_a_curriculum_as_well(train):
    run = train(max_steps=40, stop_at_mastery=True, curriculum_mastery_threshold=0.05)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["stopped"], summary["step"] < 40) == ("mastery", True)


def test_a_length_is_kept_for_the_epochs_asked(train):
    changes = {"use_curriculum": True, "curriculum_mastery_threshold": 0.1, "steps_per_epoch": 10}
    run = train(max_steps=40, curriculum_step_epochs=2, **changes)
    history = json.loads((run / "summary.json").read_text())["sources"]["set"]["history"]
    assert history == [[0, 2], [20, 4], [40, 6]]


def test_best_is_the_last_checkpoint_where_the_last_evaluation_lets_the_length_grow(train):
    run = train(max_steps=10, use_curriculum=True, curriculum_mastery_threshold=0.01)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["sources"]["set"]["history"][-1][0] == 10
    assert summary["best"] == str((run / "best").resolve()) == str(run / "checkpoint-10")


def test_best_is_the_saved_checkpoint_with_the_lowest_validation_loss_and_is_never_deleted(train):
    rising = {"lr": 0.5, "warmup_steps": 39, "max_steps": 40}  # diverges after a good start
    run = train(save_total_limit=1, save_steps="[7]", **rising)
    losses = {row["step"]: row["loss"] for row in metrics(run) if row["split"] == "validation" and row["step"] > 0}
    best = min(losses, key=losses.get)
    assert 7 < best < 40
    assert (run / "best").resolve().name == f"checkpoint-{best}"
    assert set(checkpoint.list_steps(run)) == {7, best, 40}


def test_the_learning_rate_follows_the_schedule_over_the_real_number_of_updates(train):
    run = train(lr_schedule="cosine", warmup_steps=4, min_lr_ratio=0.2, log_every_steps=1, epochs=3, steps_per_epoch=5)
    rates = [row["lr"] for row in metrics(run) if row["split"] == "train"]
    assert rates == [1e-2 * factor(step, shape="cosine", steps=15, warmup=4, floor=0.2) for step in range(15)]


def test_accumulated_micro_batches_train_like_one_batch(train):
    one = metrics(train("one", batch_size=16, log_every_steps=1))
    many = metrics(train("many", batch_size=4, gradient_accumulation_steps=4, log_every_steps=1))
    for left, right in zip(one, many, strict=True):
        assert (left["step"], left["examples"]) == (right["step"], right["examples"])
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)


@pytest.mark.parametrize("workers", [0, 3])
def test_the_number_of_workers_changes_nothing(train, workers):
    one, other = train("one"), train("other", num_workers=workers)
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def test_bf16_and_compile_train(train):
    run = train(precision="bf16", max_steps=4)
    assert metrics(run)[-1]["loss"] < 3


def test_two_runs_on_one_folder_are_refused(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    with files.lock(run):
        held = subprocess.run(
            [sys.executable, "-m", "procedural_pretraining.cli", *flags(save_dir=run)], capture_output=True, text=True
        )
    assert held.returncode == 2
    assert "another run is writing here" in held.stderr


class FakeWandb:
    def __init__(self, broken: bool):
        self.broken, self.logged, self.settings = broken, [], None

    def init(self, **settings):
        self.settings = settings
        return self

    def log(self, values, step):
        if self.broken:
            raise ConnectionError("the server is gone")
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.exit_code = exit_code


def test_weights_and_biases_gets_every_number(train, monkeypatch):
    fake = FakeWandb(broken=False)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = train(wandb_enable=True, wandb_project="p", wandb_name="n", resume_run_id="abc", wandb_mode="offline")
    assert len(fake.logged) == len(metrics(run))
    assert fake.exit_code == 0
    wanted = {"project": "p", "name": "n", "id": "abc", "resume": "must", "mode": "offline"}
    assert wanted.items() <= fake.settings.items()
    assert any("validation/6/exact_match" in values for _, values in fake.logged)


def test_a_run_survives_the_end_of_weights_and_biases(train, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(broken=True))
    run = train(wandb_enable=True)
    assert "Weights & Biases is off from here on: ConnectionError" in capsys.readouterr().err
    assert checkpoint.list_steps(run)[-1] == 20


def test_a_line_that_a_crash_cut_off_is_left_out(train):
    run = train()
    rows = read_metrics(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "lo')
    assert read_metrics(run) == rows


@pytest.mark.parametrize("spoiled", [b"\0" * 50 + b"\n", b'{"step": 21, "lo{"step": 24}\n', b"\xff\xfe\n"])
def test_lines_that_a_power_cut_spoiled_do_not_keep_a_run_from_going_on(train, spoiled):
    run = train(max_steps=10)
    rows = metrics(run)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(spoiled)
    train(max_steps=20, resume=True)
    assert metrics(run)[: len(rows)] == rows


@pytest.mark.pictures
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"task": "dyck", "vocab_size": None, "k": 2},
        {"use_curriculum": True, "curriculum_mastery_threshold": 0.1, "eval_lengths": "[3, 9]"},
    ],
)
def test_curves_are_drawn(train, changes):
    picture = matplotlib.image.imread(train(**changes) / "plots" / "curves.png")
    assert picture.shape[0] > 300
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.02, "an empty page"


@pytest.mark.pictures
def test_curves_are_drawn_for_a_folder_whose_name_looks_like_a_formula(train):
    assert (train("a $x^$ run") / "plots" / "curves.png").exists()


def test_a_tilde_in_a_path_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(flags(save_dir="~/run")) == 0
    assert checkpoint.list_steps(tmp_path / "run")[-1] == 20
    assert cli.main(["evaluate", "--checkpoint=~/run/best"]) == 0


# --- Commands


def test_evaluate_measures_what_the_run_measured(train, capsys):
    run = train(eval_lengths="[3]")
    expected = [row for row in metrics(run) if row["split"] == "validation"][-2:]
    capsys.readouterr()
    command = ["evaluate", "--checkpoint", str(run / "best"), "--split", "validation", "--examples", "32"]
    assert (run / "best").resolve().name == "checkpoint-20"
    assert cli.main([*command, "--eval_lengths", "3"]) == 0
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == ["seq_length", "loss", "accuracy", "exact_match"]
    for row, known in zip(rows, expected, strict=True):
        assert row == [str(known["seq_length"]), *(f"{known[name]:.4f}" for name in header[1:])]
    assert cli.main([*command, "--eval_lengths", "30"]) == 2
    assert "eval_lengths: 30 needs 61 positions" in capsys.readouterr().err


def test_evaluate_follows_links_to_a_checkpoint_and_from_its_run(train, tmp_path, capsys):
    run = train()
    (tmp_path / "disk").mkdir()
    (run / "checkpoint-15").rename(tmp_path / "disk" / "moved")  # where there is more room
    (run / "checkpoint-15").symlink_to(tmp_path / "disk" / "moved")
    (tmp_path / "link").symlink_to(run / "checkpoint-10")
    for path in (run / "checkpoint-15", tmp_path / "link"):
        assert cli.main(["evaluate", "--checkpoint", str(path), "--examples", "32"]) == 0
    assert cli.main(["evaluate", "--checkpoint", str(tmp_path / "disk" / "moved")]) == 2
    assert f"{tmp_path}/disk/config.yaml does not exist" in capsys.readouterr().err


def test_a_path_beside_the_checkpoints_is_answered_with_one_of_them(train, capsys):
    run = train()
    for path, problem in ((run, "is a run's folder"), (run / "checkpoint-2500", "does not exist")):
        assert cli.main(["evaluate", "--checkpoint", str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert line.startswith(f"error: checkpoint: {path} {problem}")
        assert line.endswith(f"{run}/checkpoint-20")


def test_evaluate_measures_rotary_positions_beyond_those_trained_on(train, capsys):
    longer, run = train("longer", positions="rope", eval_lengths="30"), train(positions="rope")
    expected = [row for row in metrics(longer) if row["split"] == "validation"][-1]
    capsys.readouterr()
    command = ["evaluate", "--checkpoint", str(run / "checkpoint-20"), "--split", "validation", "--examples", "32"]
    assert cli.main([*command, "--eval_lengths", "30"]) == 0
    assert capsys.readouterr().out.split()[-3:] == [f"{expected[k]:.4f}" for k in ("loss", "accuracy", "exact_match")]


def test_evaluate_reads_a_run_whose_name_looks_like_a_number(train):
    run = train(run_name="08") / "08"
    assert cli.main(["evaluate", "--checkpoint", str(run / "checkpoint-20")]) == 0


def test_evaluate_refuses_a_length_whose_split_has_no_prompt(train, capsys):
    command = ["evaluate", "--checkpoint", str(train(vocab_size=8) / "best"), "--split", "validation"]
    assert cli.main([*command, "--eval_lengths", "1"]) == 2
    assert "examples of the validation split" in capsys.readouterr().err


def test_dry_run_says_what_it_would_take_and_writes_nothing(tmp_path, capsys):
    assert cli.main([*flags(save_dir=tmp_path / "run"), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    task = Set(seq_length=6, vocab_size=12)
    for words in ("parameters", f" {8 * (task.block_size - 1)}, of which", "MiB", "expected duration"):
        assert words in said, said


def test_dry_run_of_seeds_says_that_it_tried_one_of_them(tmp_path, capsys):
    assert cli.main([*flags(save_dir=tmp_path / "run", seeds="0-2"), "--dry_run"]) == 0
    assert "seeds at once               3; the above is of one of them" in capsys.readouterr().out


def test_dry_run_of_a_length_curriculum_measures_its_longest_sequences(tmp_path, capsys):
    assert cli.main([*flags(save_dir=tmp_path / "run"), "--use_curriculum", "--dry_run"]) == 0
    assert f" {8 * (Set(seq_length=6, vocab_size=12).block_size - 1)}, of which" in capsys.readouterr().out


def test_only_the_main_process_prints_what_a_rehearsal_or_an_evaluation_found(train, tmp_path, monkeypatch, capsys):
    run = train()
    capsys.readouterr()
    for module in ("procedural_pretraining.run", "core.run_config"):
        monkeypatch.setattr(f"{module}.join", lambda *_: nullcontext(World(rank=1)))
    assert cli.main([*flags(save_dir=tmp_path / "other"), "--dry_run"]) == 0
    assert cli.main(["evaluate", "--checkpoint", str(run / "best"), "--examples", "100"]) == 0
    assert capsys.readouterr().out == ""


def test_print_config_prints_what_resolves_to_itself(tmp_path, capsys):
    assert cli.main([*flags(save_dir=tmp_path / "run", lr="5e-4"), "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["lr"] == 5e-4
    (tmp_path / "again.yaml").write_text(printed)
    assert cli.main(["--config", str(tmp_path / "again.yaml"), "--print_config"]) == 0
    assert capsys.readouterr().out == printed


def test_help_explains_every_key_of_the_task(capsys):
    assert cli.main(["--task", "dyck", "--help"]) == 0
    said = capsys.readouterr().out

    for name, field in schema({"task": "dyck"}).model_fields.items():
        assert f"--{name}  (" in said
        assert field.description, name
        assert field.description in said


def test_list_shows_every_task_with_its_parameters(capsys):
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    for words in ("dyck_shuffle:", "present_probability", "balanced", "union:", "p_open"):
        assert words in said


def test_the_run_folder_holds_no_pickle(train):
    for path in train().rglob("*"):
        assert path.suffix not in (".pth", ".pt", ".pkl", ".bin"), path


def test_training_loss_is_the_mean_over_targets(train):
    run = train(lr=1e-12, weight_decay=0, log_every_steps=20)
    from core import hf
    from core.source import TaskSource

    model = hf.load(run / "checkpoint-20")
    batch = TaskSource(Set(seq_length=6, vocab_size=12), seed=42).batch("train", 0, 160).supervised()
    with torch.no_grad():
        expected = trainer.loss_sum(model, batch).item() / len(batch.labels)
    (row,) = [row for row in metrics(run) if row["split"] == "train"]
    assert row["loss"] == pytest.approx(expected, abs=1e-5)
