"""The commands of the synthetic tasks: training, measuring, curves, and what the documentation shows."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from transformers import Olmo3ForCausalLM

from core import hf
from core.config import resolve
from core.model import GPT, GPTConfig
from core.source import Verdict
from synthetic_tasks import _hydra, cli
from synthetic_tasks._curve_config import CurveConfig, FromPretrained, RecurrentModel, TinyGPT2
from synthetic_tasks.config import schema
from synthetic_tasks.models.olmo3_config import Olmo3Shape, Recurrence
from synthetic_tasks.models.recurrent_olmo3 import RecurrentOLMo3

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "synthetic_tasks"
SMALL = """
    --gpt2_size 1_2_16 --max_steps 4 --batch_size 8 --eval_examples 16 --exam_examples 8 --lr 1e-2 --device cpu
""".split()  # noqa: SIM905, words of a command line
TASKS = {
    "depo": "--N 5 --K 2 --M 2 --mini_vocab 4 --query_token_base 20 --answer_token_id 30 --separator_token_id 31",
    "brevo": "--N 5 --bos_token_id 50 --eos_token_id 51 --query_token_id 52 --answer_token_id 53",
    "mano": "--L 3 --value_mod 5",
    "capo": "--num_people 20 --exposures 5 --held_out_templates 4",
    "lano": "--config_name cfg3b",
}
CURVE = """
    dataset.N=5 dataset.K=4 dataset.M=2 dataset.mini_vocab=4 dataset.query_token_base=20 dataset.answer_token_id=30
    dataset.separator_token_id=31 train.batch_size=2 train.eval_every_steps=2 train.save_every_steps=2 train.device=cpu
    eval.num_examples_per_hop=3
""".split()  # noqa: SIM905
TINY = "model.vocab_size=40 model.n_positions=64 model.n_embd=16 model.n_layer=1 model.n_head=2".split()  # noqa: SIM905
TINY_OLMO = """
    model.hf.vocab_size=40 model.hf.hidden_size=16 model.hf.intermediate_size=16 model.hf.num_attention_heads=2
    model.hf.num_key_value_heads=2 model.hf.max_position_embeddings=64
""".split()  # noqa: SIM905


def script(name: str, *words: str, folder: Path) -> subprocess.CompletedProcess:
    """A documented script, run by its path from another folder."""
    command = [sys.executable, str(PACKAGE / "examples" / f"{name}.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def rows_of(folder: Path, name: str = "depo_hop_metrics.csv") -> list[dict]:
    with (folder / name).open() as file:
        return list(csv.DictReader(file))


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


# --- train and evaluate


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_is_examined_and_its_checkpoint_gives_the_same_again(task, tmp_path, capsys):
    command = ["train", "--task", task, *TASKS[task].split(), *SMALL, "--save_dir", str(tmp_path / "run")]
    assert cli.main(command) == 0
    exam = summary(tmp_path / "run")["exam"]
    assert exam
    capsys.readouterr()
    checkpoint = str(tmp_path / "run" / "checkpoint-4")
    assert (
        cli.main(["evaluate", "--checkpoint", checkpoint, "--examples", "8", "--batch_size", "8", "--device", "cpu"])
        == 0
    )
    named = ["--task", task, *TASKS[task].split(), "--seed", "42"]
    assert capsys.readouterr().out.strip() in _table(exam)
    assert cli.main(["evaluate", "--checkpoint", checkpoint, "--examples", "8", "--batch_size", "8", *named]) == 0
    assert capsys.readouterr().out.strip() in _table(exam)


def _table(exam: list[dict]) -> str:
    from core.report import table
    from synthetic_tasks._exam import LABELS

    return table(exam, LABELS)


def test_packed_rows_train_like_padded_ones(tmp_path):
    small = [word if word != "8" else "32" for word in SMALL]  # rows that there is room to put together
    command = ["train", "--task", "mano", "--L", "8", "--value_mod", "5", *small, "--save_dir"]
    for name, more in (("padded", []), ("packed", ["--pack_to", "80"])):
        assert cli.main([*command, str(tmp_path / name), *more]) == 0
    one, other = (summary(tmp_path / name)["evaluation"][0]["loss"] for name in ("padded", "packed"))
    assert one == pytest.approx(other, abs=1e-4)
    assert summary(tmp_path / "packed")["tokens"] < summary(tmp_path / "padded")["tokens"]


@pytest.mark.parametrize("name", ["depo_minimal", "mano_small", "capo_50"])
def test_shipped_configurations_are_sound(name):
    config = resolve(schema, str(PACKAGE / "configs" / f"{name}.yaml"), {})
    assert config.model_shape.num_tokens == config.example_task.num_tokens


def test_a_run_whose_grammar_has_changed_is_neither_gone_on_with_nor_examined(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rules = {"S": ["A B A B A B A B C", "B A B C C A A A"], "A": ["1 2", "3 3"], "B": ["1 1 2", "2 3"], "C": ["1", "2"]}
    grammar = Path("grammar.json")
    grammar.write_text(json.dumps({"start": "S", "rules": rules}))
    words = ["train", "--task", "lano", "--config_path", "grammar.json", *SMALL, "--save_dir", "run"]
    assert cli.main(words) == 0
    assert cli.main(["evaluate", "--checkpoint", "run/best", "--examples", "4"]) == 0
    grammar.write_text(json.dumps({"start": "S", "rules": {**rules, "A": ["1 2", "3 3 3"]}}))
    capsys.readouterr()
    assert cli.main([*words, "--resume"]) == 2
    assert "grammar: the run in run was started with" in capsys.readouterr().err
    assert cli.main(["evaluate", "--checkpoint", "run/best", "--examples", "4"]) == 2
    assert "config_path: the grammar in this file has changed since run/best was trained" in capsys.readouterr().err


# --- The documentation's commands


def test_the_inspectors_files_hold_the_defaults_of_the_tasks():
    from core.task import task_class, task_names

    for name in task_names("synthetic_tasks"):
        file = yaml.safe_load((PACKAGE / "conf" / "inspect_dataset" / "dataset" / f"{name}.yaml").read_text())
        assert file == {"name": name, "config": task_class("synthetic_tasks", name)().model_dump()}
    documented = (PACKAGE / "conf" / "depo_curve" / "dataset" / "depo1.yaml").read_text()
    assert yaml.safe_load(documented) == task_class("synthetic_tasks", "depo")().model_dump()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(10_000)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dataset=brevo", "show=2"],
        ["dataset=mano", "show=2"],
        ["dataset=lano", "show=2"],
        ["dataset=capo", "show=2"],
        ["dataset=depo", "tokenizer_name_or_path=TOKENIZER", "show=2"],
        ["dataset=depo", "dataset.config.qa=true", "show=2"],
        ["dataset=depo", "dataset.config.qa=true", "dataset.config.fixed_k=8", "show=2"],
    ],
    ids=" ".join,
)
def test_documented_inspections(words, tokenizer, capsys):
    words = [word.replace("TOKENIZER", str(tokenizer)) for word in words]
    assert cli.main(["inspect", *words]) == 0
    out = capsys.readouterr().out
    shown = 2 if words else 3
    assert out.count("--- example") == out.count(", valid") == shown
    if "dataset.config.fixed_k=8" in words:
        assert "<query_8>" in out
        assert "<query_7>" not in out
    if any("tokenizer" in word for word in words):
        assert "[w9500]" in out


def test_a_task_is_inspected_by_the_words_that_other_packages_take(capsys):
    words = ["dataset.config.L=2", "dataset.config.value_mod=5", "examples=20", "show=0"]
    assert cli.main(["inspect", "mano", "--stats", "--duplicates", *words]) == 0
    out = capsys.readouterr().out
    assert cli.main(["inspect", "dataset=mano", "stats=true", "duplicates=true", *words]) == 0
    assert capsys.readouterr().out == out
    assert "train, 20 examples" in out
    assert "repeat an earlier one" in out


@pytest.mark.slow
def test_the_documented_scripts_run_by_their_paths(tmp_path):
    done = script("inspect_dataset", "dataset=mano", "show=2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--- example 1" in done.stdout

    words = [*SMALL, *TASKS["depo"].split()]
    done = script("train_depo_minimal", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "first_token" in done.stdout
    assert (tmp_path / "outputs" / "train_depo_minimal" / "checkpoint-4").is_dir()

    done = script("train_depo_curve_hydra", *CURVE, *TINY, "train.max_steps=2", "eval.hops=[1,2]", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "depo_curve").iterdir()
    assert {"depo_hop_curve.png", "depo_hop_metrics.csv", "checkpoint-2"} <= {path.name for path in run.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}, "no litter"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    hf.save(GPT(GPTConfig(40, 64, 1, 2, 16), seed=7), folder)
    return folder


@pytest.fixture(scope="module")
def olmo3(tmp_path_factory) -> Path:
    """Plain OLMo 3 weights, as transformers writes them."""
    folder = tmp_path_factory.mktemp("olmo3")
    shape = Olmo3Shape(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_attention_heads=2, max_position_embeddings=64
    )
    RecurrentOLMo3(shape, Recurrence(), seed=9).save_pretrained(folder / "ours")
    Olmo3ForCausalLM.from_pretrained(folder / "ours").save_pretrained(folder / "plain")
    return folder / "plain"


@pytest.mark.pictures
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        [*TINY, "train.max_steps=4", "eval.hops=[1,2,3,4]", "dataset.K=4"],
        ["model=from_pretrained", "model.name_or_path=PRETRAINED"],
        ["model=recurrent_olmo3", *TINY_OLMO],
        [
            "model=recurrent_olmo3", *TINY_OLMO, "model.recurrent.inject_input_each_step=true",
            "model.recurrent.random_init_loop_state=true", "model.recurrent.tbptt_steps=2",
        ],
        [
            "model=recurrent_olmo3", *TINY_OLMO, "model.recurrent.act.enabled=true",
            "model.recurrent.act.kl_weight=0.05",
        ],
        ["model=recurrent_olmo3", "model.init_from_pretrained=OLMO3", "model.recurrent.loop_attention_mode=cross"],
        [*TINY, "logging.wandb.enabled=true", "logging.wandb.project=my-project", "logging.wandb.mode=offline"],
        [*TINY, "eval.resample_each_eval=false", "dataset.separator=true"],
    ],
    ids=lambda words: " ".join(word for word in words if word not in TINY_OLMO),
)  # fmt: skip
def test_documented_curves(words, pretrained, olmo3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = [word.replace("PRETRAINED", str(pretrained)).replace("OLMO3", str(olmo3)) for word in words]
    few = ["train.max_steps=4", "eval.hops=[1,2]", f"output_dir={tmp_path / 'run'}"]
    given = {word.split("=")[0] for word in words}
    assert cli.main(["curve", *CURVE, *(w for w in few if w.split("=")[0] not in given), *words]) == 0
    rows = rows_of(tmp_path / "run")
    hops = {"1", "2", "3", "4"} if "dataset.K=4" in words else {"1", "2"}
    assert {(row["step"], row["hop"]) for row in rows} == {(step, hop) for step in "024" for hop in hops}
    assert {(row["step"], row["examples_seen"]) for row in rows} == {("0", "0"), ("2", "4"), ("4", "8")}
    assert list(rows[0])[:4] == ["step", "examples_seen", "hop", "accuracy"]
    assert (tmp_path / "run" / "depo_hop_curve.png").stat().st_size > 5000
    assert (tmp_path / "run" / "checkpoint-4").is_dir()
    if any("wandb.enabled" in word for word in words):
        assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))


# --- Curves


def test_measured_rows_are_others_each_time_or_stay_as_is_asked(tmp_path, monkeypatch):
    from synthetic_tasks import _curve

    measure, seeds = _curve.hop_accuracy, []

    def noted(task, model, sheet, hops):
        seeds.append(sheet.seed)
        return measure(task, model, sheet, hops)

    monkeypatch.setattr(_curve, "hop_accuracy", noted)
    for again in ("true", "false"):
        words = ["train.max_steps=4", "eval.hops=[1]", f"eval.resample_each_eval={again}"]
        assert cli.main(["curve", *CURVE, *TINY, *words, f"output_dir={tmp_path / again}"]) == 0
    assert seeds == [10042, 12042, 14042, 10042, 10042, 10042]


def test_a_curve_that_was_begun_is_answered_with_the_words_that_go_on_with_it(tmp_path, capsys):
    (tmp_path / "checkpoint-4").mkdir()
    assert cli.main(["curve", *CURVE, *TINY, "eval.hops=[1]", f"output_dir={tmp_path}"]) == 2
    assert "already holds a run (checkpoint-4); go on with train.resume=true, or" in capsys.readouterr().err


def test_few_examples_come_again_and_again():
    from synthetic_tasks._curve import Examples
    from synthetic_tasks.depo import DepoTask

    task = DepoTask(N=5, K=2, M=2, mini_vocab=4)
    source = Examples(task, 0, 7)
    rows = [row["input_ids"] for row in task.take(0, 7)]
    found = [row["input_ids"] for row in task.examples(source.batch("train", 5, 30))]
    assert found == [rows[i % 7] for i in range(5, 30)]
    assert [r["input_ids"] for r in task.examples(source.batch("test", 8, 9))] not in ([row] for row in rows)


def test_hops_grow_as_they_are_mastered():
    from synthetic_tasks._curve import Examples
    from synthetic_tasks.depo import DepoTask

    task = DepoTask(N=6, K=5, M=2, mini_vocab=6)
    source = Examples(task, 0, None, [1, 3, 5])
    for step, (K, mastered) in enumerate([(1, 0), (1, 1), (3, 1), (3, 5)]):
        assert source.task == task.replace(K=K)
        source.on_evaluation(step, {"mastered": mastered})
    assert source.task == task
    assert source.on_evaluation(9, {"mastered": 5}) is Verdict.GO_ON
    again = Examples(task, 0, None, [1, 3, 5])
    again.load_state_dict(source.state_dict())
    assert again.task == task
    assert Examples(task, 0, None).task == task


@pytest.mark.slow
def test_a_curve_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path):
    words = [
        *CURVE,
        *TINY,
        "train.max_steps=60",
        "eval.hops=[1,2]",
        "train.save_every_steps=7",
        "train.eval_every_steps=5",
        "train.grow_hops=0.05",
    ]
    assert cli.main(["curve", *words, f"output_dir={tmp_path / 'whole'}"]) == 0
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["sources"]["depo"]["K"] > 1  # it grew
    kill = ROOT / "tests" / "support" / "kill_and_resume.py"
    command = [sys.executable, str(kill), "1", "3", "synthetic_tasks.cli", "curve", *words, "train.resume=true"]
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, f"output_dir={tmp_path / 'killed'}"], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "killed 3 times" in done.stdout
    for name in ("depo_hop_metrics.csv", "metrics.jsonl", "checkpoint-60/model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_sweep_runs_every_combination_in_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*CURVE, *TINY, "train.max_steps=2", "eval.hops=[1,2]", "train.learning_rate=1e-3,1e-2", "seed=1,2"]
    assert cli.main(["curve", *words, "--multirun"]) == 0
    runs = list((tmp_path / "outputs" / "depo_curve").iterdir())
    assert len(runs) == 4
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs]
    assert {(c["seed"], float(c["learning_rate"])) for c in configs} == {(s, r) for s in (1, 2) for r in (1e-3, 1e-2)}
    assert "run 4 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["output_dir=here train.learning_rate=1e-3,1e-2", "train.log_every_steps=5,10"])
def test_a_sweep_whose_runs_would_share_a_folder_is_refused_before_the_first(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    smaller = [*CURVE, *TINY, "train.max_steps=2", "eval.hops=[1,2]"]
    assert cli.main(["curve", *smaller, *words.split(), "--multirun"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "output_dir: 2 runs would share" in line
    assert not list(tmp_path.iterdir())


def test_a_recurrent_run_that_stopped_is_gone_on_with(tmp_path):
    words = ["curve", *CURVE, "model=recurrent_olmo3", *TINY_OLMO, "eval.hops=[1]"]
    words += ["model.recurrent.train_recursion_mode=poisson", "model.recurrent.act.enabled=true"]
    for name in ("whole", "parts"):
        for steps in [8] if name == "whole" else [4, 8]:
            more = [f"train.max_steps={steps}", f"output_dir={tmp_path / name}", "train.resume=true"]
            assert cli.main([*words, *more]) == 0
    one, other = (load_file(tmp_path / name / "checkpoint-8" / "model.safetensors") for name in ("whole", "parts"))
    assert all((one[key] == other[key]).all() for key in one)
    assert cli.main(["evaluate", "--checkpoint", str(tmp_path / "whole" / "checkpoint-8"), "--examples", "4"]) == 0


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("curve", ["eval.hops", "model=recurrent_olmo3", "model.recurrent.act.kl_weight", "logging.wandb.entity"]),
        ("inspect", ["max_tokens", "dataset.name"]),
    ],
)
def test_help_names_every_group_and_key(name, keys, capsys):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    for key in keys:
        assert key in out, key


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("tiny_gpt2", TinyGPT2),
        ("small", TinyGPT2),
        ("from_pretrained", FromPretrained),
        ("recurrent_olmo3", RecurrentModel),
    ],
)
def test_every_key_that_help_names_has_its_place_in_the_files(model, kind):
    """Hydra refuses to change a key that is in none of them."""
    keys = _hydra.composed("depo_curve", [f"model={model}"])
    assert sorted(CurveConfig.model_fields.keys() - {*keys, *keys["train"]}) == []
    assert sorted(kind.model_fields.keys() - keys["model"].keys()) == []
    if kind is RecurrentModel:
        assert sorted(Olmo3Shape.model_fields.keys() - keys["model"]["hf"].keys()) == []
        assert sorted(Recurrence.model_fields.keys() - keys["model"]["recurrent"].keys()) == []


# --- Bad input


@pytest.mark.parametrize(
    ("task", "hops", "message"),
    [
        ("depo", "1,3", "hops: 3 steps are never asked for by this task, whose K is 2"),
        ("mano", "1", "hops: only Depo asks for them, and this task is mano"),
    ],
)
def test_hops_that_a_checkpoint_cannot_be_asked_for_are_refused(task, hops, message, tmp_path, capsys):
    assert cli.main(["train", "--task", task, *TASKS[task].split(), *SMALL, "--save_dir", str(tmp_path)]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "--checkpoint", str(tmp_path / "best"), "--hops", hops, "--examples", "4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("curve dataset=nope", "Could not find 'dataset/nope'; Available options in 'dataset': depo1"),
        ("curve model=nope", "Could not find 'model/nope'"),
        ("curve model.kind=nope", "model: kind nope is not allowed; it takes one of tiny_gpt2, from_pretrained"),
        ("curve dataset.K=300", "dataset: K 300 steps go around a cycle of N 225"),
        ("curve eval.hops=[16]", "eval.hops: 16 steps are never asked for in training, dataset.K is 8"),
        ("curve eval.hops=[1,1]", "names a number of steps twice"),
        ("curve eval.hops=[]", "eval.hops: [] is not allowed"),
        ("curve dataset.N=2", "dataset.N: 2 is not allowed; it takes integer in [3, 16384]"),
        ("curve train.max_steps=0", "train.max_steps: 0 is not allowed"),
        ("curve train.max_steps=ten", "train.max_steps: 'ten' is not allowed"),
        ("curve train.warmup_steps=200", "train.warmup_steps is 200, the run has 200 updates"),
        ("curve seed=18446744073709551616", "seed: 18446744073709551616 is not allowed; it takes integer in [0, 184"),
        ("curve train.nope=1", "Could not override 'train.nope'; there is no such key"),
        ("curve +train.nope=1", "train.nope: no such key"),
        ("curve +model.recurrent.x=1 model=recurrent_olmo3", "model.recurrent.x: no such key"),
        ("curve model=recurrent_olmo3 model.recurrent.act.halting=word", "model.recurrent.act.halting: 'word' is not"),
        ("curve model=recurrent_olmo3 model.recurrent.loop_layers=3", "they must add up"),
        ("curve model=recurrent_olmo3 model.recurrent.random_init_loop_state=true", "cuts the input off"),
        (
            "curve model=recurrent_olmo3 model.init_from_pretrained=/no/such",
            "model.init_from_pretrained: /no/such is no",
        ),
        ("curve model=from_pretrained model.name_or_path=/no/such", "model.name_or_path: /no/such is no folder"),
        ("curve model.vocab_size=100", "model: has 100 token ids and 2048 positions, but dataset needs 9702 and 961"),
        ("curve model.n_positions=100", "model: has 10064 token ids and 100 positions"),
        ("curve model.n_head=3", "model: width 128 cannot be split over 3 heads"),
        ("curve plot_file=curve.txt", "plot_file: 'curve.txt' is no name of a file that ends in .png or .pdf or .svg"),
        ("curve metrics_file=metrics.jsonl", "metrics_file: 'metrics.jsonl' is no name of a file that ends in .csv"),
        ("curve metrics_file=no/such.csv", "metrics_file: 'no/such.csv' is no name"),
        ("curve dataset=null", "Config group override must be a string or a list"),
        ("curve hydra.run.dir=here", "output_dir says where a curve goes"),
        ("inspect +hydra/launcher=basic", "Hydra only reads the keys here"),
        ("curve train.max_steps", "Error parsing override 'train.max_steps'"),
        ("curve train.max_steps=2,3", "Ambiguous value"),
        ("inspect nope", "Could not find 'dataset/nope'; Available options in 'dataset': brevo"),
        ("curve --stats", "--stats: no such flag"),
        ("curve --nope", "--nope: no such flag"),
        ("curve logging.wandb.mode=never", "logging.wandb.mode: 'never' is not allowed"),
        ("train --task depo", "save_dir: is missing"),
        ("train --task nope --save_dir x", "no task 'nope'"),
        ("train --task mano --L 0 --save_dir x", "--L: 0 is not allowed"),
        ("train --task mano --value_mod 6 --ttype d --save_dir x", "value_mod 6 is not prime"),
        ("train --task depo --K 300 --save_dir x", "K 300 steps go around"),
        ("train --task depo --K 2 --fixed_k 3 --save_dir x", "fixed_k 3 is beyond K 2"),
        ("train --task lano --config_path no.json --save_dir x", "no.json: No such file"),
        ("train --task mano --pack_to 4 --save_dir x", "pack_to is 4, but a row of task mano may have 25 tokens"),
        ("evaluate --checkpoint no/such --seed 18446744073709551616", "--seed: 18446744073709551616 is not allowed"),
        ("evaluate --checkpoint no/such", "no/such does not exist"),
        ("evaluate --checkpoint no/such --task mano", "no/such does not exist"),
        ("evaluate --checkpoint PRETRAINED --task mano", "needs 10001 and 25"),
        ("export mano --L 0 --out x", "--L: 0 is not allowed"),
        ("nope", "'nope': no such verb; there are train"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_and_nothing_is_written(
    words, message, pretrained, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(words.replace("PRETRAINED", str(pretrained)).split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.iterdir())
