"""The arms differ in order and length, and cost the same."""

import json
from pathlib import Path

import pytest

from core.distributed import World
from core.model import GPT
from core.tokenizer import load
from curriculum import ablation, cli
from curriculum.config import ARMS, AblationConfig
from curriculum.data import open_files

BYTES = load("bytes")


@pytest.fixture
def prepared(curriculum):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    return file


def config_of(file: str, **keys) -> AblationConfig:
    from core.config import resolve

    return resolve(lambda values: AblationConfig, file, {"type": file, "seeds": "0", **keys})


def parts_of_arm(file, arm, budget):
    config = config_of(file)
    data = open_files(config, BYTES)
    model = GPT(config.shape(BYTES.num_tokens), seed=0)
    return ablation.arm_parts(config, arm, budget, data, model, World()), model


def test_all_arms_train_on_equally_many_tokens(prepared):
    tokens = {arm: sum(part.tokens for part in parts_of_arm(prepared, arm, "tokens")[0]) for arm in ARMS}
    assert len(set(tokens.values())) == 1


def test_with_equal_operations_longer_windows_get_fewer_tokens(prepared):
    own, model = parts_of_arm(prepared, "curriculum", "flops")
    longer, _ = parts_of_arm(prepared, "fixed_block", "flops")
    assert sum(part.tokens for part in longer) < sum(part.tokens for part in own)
    ratio = ablation.flops_of(model, longer) / ablation.flops_of(model, own)
    assert abs(ratio - 1) < 0.05  # whole updates


def test_operations_are_counted_by_the_formula(prepared):
    parts, model = parts_of_arm(prepared, "curriculum", "tokens")
    C, L, V = 8, 1, 257
    weights = 12 * L * C * C + V * C
    assert ablation.flops_of(model, parts) == sum(p.tokens * (6 * weights + 6 * L * C * p.length) for p in parts)


@pytest.mark.pictures
def test_the_command_trains_all_arms_once_and_says_what_came_out(prepared, capsys):
    command = ["ablate", "--type", prepared, "--seeds", "0,1", "--save_dir", "runs"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    result = json.loads(Path("runs/ablation.json").read_text())
    assert len(result["runs"]) == 2 * 5 * 2 * 3  # budgets, arms, seeds, texts
    means = {(row["budget"], row["arm"], row["stage"]): row for row in result["means"]}
    losses = [
        row["loss"]
        for row in result["runs"]
        if (row["budget"], row["arm"]) == ("tokens", "reversed") and row["stage"] == "warmup"
    ]
    assert means["tokens", "reversed", "warmup"]["loss"] == pytest.approx(sum(losses) / 2)
    assert f"{means['tokens', 'reversed', 'warmup']['loss']:.3f} ± " in out
    assert Path("runs/plots/ablation.png").stat().st_size > 10_000
    assert phases_of("runs/reversed/seed0") == [("pretrain", 32), ("foundation", 16), ("warmup", 8)]
    assert phases_of("runs/fixed_block_tokens/seed0") == [("warmup", 32), ("foundation", 32), ("pretrain", 32)]
    assert phases_of("runs/mixture_flops/seed1") == [("shuffled", None)]
    before = Path("runs/reversed/seed0/metrics.jsonl").stat().st_mtime_ns
    assert cli.main(command) == 0
    assert Path("runs/reversed/seed0/metrics.jsonl").stat().st_mtime_ns == before
    assert cli.main([*command, "--lr", "0.5"]) == 2
    assert "runs/curriculum/seed0/arm.json is of other keys or data" in capsys.readouterr().err
    assert cli.main([*command[:-4], "--seeds", "0-2", "--save_dir", "runs", "--lr", "0.5"]) == 2
    assert not Path("runs/curriculum/seed2").exists(), "nothing is trained before that is seen"


@pytest.mark.parametrize("keys", [["--optimizer", "muon", "--document_mask"], ["--dropout", "0.1"], ["--profile"]])
def test_what_cannot_be_trained_side_by_side_is_trained_in_turn(prepared, keys):
    flags = ["--seeds", "0,1", "--arms", "curriculum", *keys]
    assert cli.main(["ablate", "--type", prepared, "--budgets", "tokens", *flags, "--save_dir", "turns"]) == 0
    assert {path.parent.name for path in Path("turns/curriculum").glob("*/arm.json")} == {"seed0", "seed1"}
    assert cli.main(["generate", "sun", "--save_dir", "turns/curriculum/seed0", "--tokens", "3"]) == 0


def phases_of(run_dir: str) -> list[tuple[str, int | None]]:
    """Phases and their lengths, in the order of training."""
    rows = [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]
    return list(dict.fromkeys((row["phase"], row.get("block_size")) for row in rows if row["split"] == "train"))


def test_lengths_that_cannot_take_each_others_place_are_refused(curriculum, capsys):
    file = curriculum({"warmup": {"block_size": 7}})
    assert cli.main(["initialize", "--type", file]) == 0
    assert cli.main(["ablate", "--type", file]) == 2
    assert "use lengths that divide the longest" in capsys.readouterr().err


def test_seeds_side_by_side_come_to_what_each_alone_does(prepared):
    assert cli.main(["ablate", "--type", prepared, "--seeds", "0,1", "--arms", "shuffled", "--save_dir", "two"]) == 0
    assert cli.main(["ablate", "--type", prepared, "--seeds", "1", "--arms", "shuffled", "--save_dir", "one"]) == 0
    two, one = (json.loads(Path(f"{name}/shuffled/seed1/arm.json").read_text()) for name in ("two", "one"))
    for ours, theirs in zip(two["evaluation"], one["evaluation"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)


def test_one_seed_has_no_deviation(prepared, capsys):
    assert cli.main(["ablate", "--type", prepared, "--seeds", "0", "--arms", "curriculum", "--save_dir", "one"]) == 0
    assert "±" not in capsys.readouterr().out
    assert {row["deviation"] for row in json.loads(Path("one/ablation.json").read_text())["means"]} == {None}


def test_every_arm_has_the_same_course_of_the_learning_rate(curriculum):
    """A tenth of the first stage is 1 update, of the last 3."""
    file = curriculum({"warmup": {"n_tokens": 10 * 32}, "pretrain": {"n_tokens": 30 * 32}})
    assert cli.main(["initialize", "--type", file]) == 0
    config = config_of(file)
    data = open_files(config, BYTES)
    courses = []
    for arm in ARMS:
        parts = ablation.arm_parts(config, arm, "tokens", data, GPT(config.shape(BYTES.num_tokens), seed=0), World())
        plan = ablation.arm_plan(config, arm, parts, World())
        courses.append([phase.lr(step) for phase in plan for step in range(phase.steps)])
    for course in courses[1:]:
        assert course == pytest.approx(courses[0])


def test_a_stage_with_a_learning_rate_of_its_own_is_refused(curriculum, capsys):
    file = curriculum({"pretrain": {"lr": 0.5}})
    assert cli.main(["initialize", "--type", file]) == 0
    assert cli.main(["ablate", "--type", file]) == 2
    assert "stages: pretrain has an lr of its own, where all arms are to have one course" in capsys.readouterr().err


def test_several_processes_are_refused_before_anything_is_trained(prepared, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["ablate", "--type", prepared, "--seeds", "0", "--save_dir", "two"]) == 2
    assert "ablate: trains in one process, not under torchrun" in capsys.readouterr().err
    assert not Path("two").exists()


@pytest.mark.parametrize(("key", "names"), [("arms", "curriculum,shuffled,curriculum"), ("budgets", "tokens,tokens")])
def test_an_arm_or_budget_named_twice_would_count_its_runs_twice_and_is_refused(prepared, capsys, key, names):
    assert cli.main(["ablate", "--type", prepared, f"--{key}", names, "--save_dir", "twice"]) == 2
    assert f"--{key}: {names.replace(',', ', ')} names one twice" in capsys.readouterr().err
