"""Runs on English text and source code, small: what is held out, what they leave, resuming, what is refused."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from small_runs import metrics

from core.config import resolve
from core.documents import Document, Documents
from core.token_files import TokenFile
from core.token_writer import write
from core.tokenizer import Tokenizer
from core.windows import evaluation_windows
from downstream import cli
from downstream.semantic.config import C4Config, CodeParrotConfig
from downstream.semantic.text_sources import held_out, sources

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "downstream" / "semantic" / "configs"
SMALL = {
    "tokenizer": "bytes",
    "gpt2_size": "2_4_16",
    "seq_length": 32,
    "batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_steps": 12,
    "passes": "null",
    "learning_rate": 1e-2,
    "eval_steps": 6,
    "save_steps": 3,
    "log_every_steps": 2,
    "device": "cpu",
}
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def words(**keys) -> list[str]:
    return [f"--{key}={value}" for key, value in keys.items()]


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def prose(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length)) + ".\n"


@pytest.fixture(scope="session")
def english(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("english")
    for number in range(20):
        (folder / f"{number}.txt").write_text(prose(number))
    return folder


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> Path:
    """Six packages of a few files, one of which stands in all of them."""
    folder = tmp_path_factory.mktemp("packages")
    for package in range(6):
        (folder / f"package{package}" / "sub").mkdir(parents=True)
        for number, place in enumerate((".", "sub")):
            lines = "".join(f"def {word}(): return {package}{number}\n" for word in WORDS)
            (folder / f"package{package}" / place / f"code{number}.py").write_text(lines)
        (folder / f"package{package}" / "licence.py").write_text("# Everybody may do anything with this.\n" * 5)
    return folder


@pytest.fixture
def train(tmp_path, english):
    def train(name: str = "run", verb: str = "c4", **changes) -> Path:
        keys = {"data": english, "prepared_dir": tmp_path / "prepared", **SMALL, **changes}
        given = {key: value for key, value in keys.items() if value is not None}
        assert cli.main([verb, *words(**given, save_dir=tmp_path / name)]) == 0
        return tmp_path / name

    return train


def test_a_run_reports_perplexity_and_bits_per_byte(train, capsys):
    result = summary(train())
    (row,) = result["evaluation"]
    assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
    data = result["data"]
    per_byte = data["validation"]["tokens"] / data["validation"]["bytes"]
    assert row["bits_per_byte"] == pytest.approx(row["loss"] / np.log(2) * per_byte)
    assert data["tokenizer"] == "bytes (257 tokens)"
    assert data["passes"] == pytest.approx(12 * 4 / (data["training"]["tokens"] // 32))
    assert "bits_per_byte" in capsys.readouterr().out


def test_the_loss_falls(train):
    losses = [row["loss"] for row in metrics(train(max_steps=80)) if row["split"] == "train"]
    assert losses[-1] < losses[0] - 1.5


@pytest.mark.parametrize("form", [{"isolated": "true"}, {"positions": "rope"}, {"eval_windows": 3}])
def test_other_forms_train(train, form):
    assert summary(train(**form))["step"] == 12


def test_the_logged_loss_does_not_depend_on_how_a_batch_is_cut(train):
    whole, cut = train("whole", dropout=0), train("cut", dropout=0, batch_size=2, gradient_accumulation_steps=2)
    for one, other in zip(metrics(whole), metrics(cut), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_what_is_ready_is_not_made_again(train, tmp_path, capsys):
    train("one")
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*.bin")}
    assert len(before) == 2
    train("other", seed=7, max_steps=3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*.bin")} == before


def test_documents_need_no_end_between_them(train, tmp_path):
    train("with")
    without = summary(train("without", separate_documents="false"))["data"]["training"]
    files = sorted((tmp_path / "prepared").rglob("train.bin"), key=lambda path: path.stat().st_size)
    assert len(files) == 2
    less, more = (TokenFile(path) for path in files)
    assert len(more) - len(less) == without["documents"]
    assert 256 not in less.tokens
    assert (more.tokens[:] == 256).sum() == without["documents"]


def test_what_was_given_by_another_name_is_refused_by_that(tmp_path, english, capsys):
    keys = {"data": english, "prepared_dir": tmp_path / "prepared", "save_dir": tmp_path / "run", **SMALL}
    (tmp_path / "c4.yaml").write_text(f"pretrained_path: {tmp_path}/none\n")
    for given in (["--config", str(tmp_path / "c4.yaml")], words(pretrained_model=tmp_path / "none")):
        name = "pretrained_path" if "--config" in given else "pretrained_model"
        for how in ([], ["--dry_run"]):
            assert cli.main(["c4", *given, *words(**keys), *how]) == 2
            assert f"error: {name}: {tmp_path}/none does not exist\n" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["c4", "math"])
def test_a_folder_for_data_that_cannot_be_made_is_said(english, archive, tmp_path, capsys, verb):
    (tmp_path / "file").write_text("")
    keys = {"data": archive if verb == "math" else english, "tokenizer": None if verb == "math" else "bytes"}
    keys |= {"prepared_dir": tmp_path / "file" / "prepared", "save_dir": tmp_path / "run"}
    assert cli.main([verb, *words(**{key: value for key, value in keys.items() if value is not None})]) == 2
    assert f"error: prepared_dir: {tmp_path}/file/prepared" in capsys.readouterr().err


def test_seeds_with_dropout_are_refused_before_anything_is_written(english, tmp_path, capsys):
    folders = {"prepared_dir": tmp_path / "prepared", "save_dir": tmp_path / "run"}
    assert cli.main(["c4", *words(data=english, **{**SMALL, **folders, "dropout": 0.1, "seeds": "0-1"})]) == 2
    assert "cannot be drawn for all at once; set dropout to 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["c4", "math"])
def test_a_model_that_is_not_there_is_said_before_data_are_made_ready(english, archive, tmp_path, capsys, verb):
    keys = {"data": archive if verb == "math" else english, "pretrained_path": tmp_path / "nowhere"}
    assert cli.main([verb, *words(**keys, prepared_dir=tmp_path / "prepared", save_dir=tmp_path / "run")]) == 2
    assert f"error: pretrained_path: {tmp_path}/nowhere does not exist" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_ends_below_a_perplexity(train):
    result = summary(train(early_stopping_perplexity=500))
    assert (result["stopped"], result["step"]) == ("perplexity", 6)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_bit_identical(train, tmp_path, english):
    changes = {**SMALL, "max_steps": 40, "dropout": 0.1, "isolated": "true"}
    whole = train("whole", **changes)
    keys = {"data": english, "prepared_dir": tmp_path / "other", **changes, "save_dir": tmp_path / "killed"}
    command = [sys.executable, ROOT / "tests" / "support" / "kill_and_resume.py", "5", "4", "downstream.cli", "c4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *words(**keys), "--resume"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "killed 4 times" in done.stdout
    for file in ("metrics.jsonl", "checkpoint-40/model.safetensors", "checkpoint-40/optimizer.safetensors"):
        assert (whole / file).read_bytes() == (tmp_path / "killed" / file).read_bytes(), file


# What is held out


def texts(file: Path) -> list[str]:
    tokens = TokenFile(file)
    assert tokens.starts is not None
    ends = [*tokens.starts[1:], len(tokens)]
    return [
        bytes(tokens.tokens[start : end - 1].astype(np.uint8)).decode()
        for start, end in zip(tokens.starts, ends, strict=True)
    ]


def prepared(folder: Path) -> tuple[list[str], list[str]]:
    (ready,) = (path for path in folder.iterdir() if path.is_dir())
    return texts(ready / "train.bin"), texts(ready / "validation.bin")


def test_packages_are_held_out_whole_and_no_text_is_on_both_sides(train, packages, tmp_path):
    folder = train(verb="codeparrot", data=packages, validation_share=0.3)
    trained, measured = prepared(tmp_path / "prepared")
    assert not set(trained) & set(measured)
    sides = {path.name: set() for path in packages.iterdir()}
    for path in packages.rglob("code*.py"):
        package = path.relative_to(packages).parts[0]
        sides[package] |= {name for name, side in (("t", trained), ("v", measured)) if path.read_text() in side}
    assert set(map(tuple, sides.values())) == {("t",), ("v",)}
    data = summary(folder)["data"]
    held = [name for name, side in sides.items() if side == {"v"}]
    assert data["held_out"] == f"{len(held)} of 6 packages: {', '.join(sorted(held))}"
    assert data["training"]["dropped_as_duplicate"] == 6 - len(held), "the licence is in the validation set"
    assert data["validation"]["dropped_as_duplicate"] == len(held) - 1


def test_several_paths_are_packages(packages):
    named = ",".join(str(packages / f"package{n}") for n in range(3))
    config = resolve(lambda values: CodeParrotConfig, None, {"data": named, "validation_share": "0.4"})
    found = sources(config)
    assert found.held_out.startswith("1 of 3 packages: package")


def test_documents_of_a_single_file_are_held_out(train, tmp_path):
    rows = [json.dumps({"text": prose(seed)}) for seed in range(100)]
    (tmp_path / "one.jsonl").write_text("\n".join([*rows, rows[0], rows[1]]))
    train(data=tmp_path / "one.jsonl", validation_share=0.2)
    trained, measured = prepared(tmp_path / "prepared")
    assert sorted(trained + measured) == sorted(prose(seed) for seed in range(100))
    assert 8 < len(measured) < 35


def test_a_validation_set_of_its_own_is_taken_as_it_is(train, english, tmp_path):
    (tmp_path / "mine.txt").write_text((english / "3.txt").read_text() + prose(99))
    (tmp_path / "same.txt").write_text((english / "4.txt").read_text())
    folder = train(validation_data=f"{tmp_path / 'mine.txt'},{tmp_path / 'same.txt'}")
    trained, measured = prepared(tmp_path / "prepared")
    assert len(measured) == 2
    assert len(trained) == 19, "what equals a validation document is left out"
    assert summary(folder)["data"]["training"]["dropped_as_duplicate"] == 1


def test_an_empty_file_is_not_what_is_measured_on(train, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "empty.txt").touch()
    for names in (["one"], ["one", "two"]):
        for name in names:
            rows = [json.dumps({"text": f"{name} {prose(seed)}"}) for seed in range(40)]
            (data / f"{name}.jsonl").write_text("\n".join(rows))
        result = summary(train(name=names[-1], data=data, validation_share=0.2))["data"]
        assert result["validation"]["documents"] > 0
        assert ("1 of 2 files: " in result["held_out"]) == (len(names) == 2)


def test_about_the_share_is_held_out_and_never_all():
    config = resolve(lambda values: C4Config, None, {"data": "x", "validation_share": "0.1"})
    for seed in range(50):
        draw = random.Random(seed)
        sizes = {f"p{n}": draw.randint(1, 100) for n in range(draw.randint(2, 60))}
        names = held_out(sizes, config)
        assert 1 <= len(names) < len(sizes)
        if len(names) > 1:
            assert sum(sizes[name] for name in names) <= 0.15 * sum(sizes.values())


def test_files_whose_names_are_not_utf8_are_held_out_like_others(tmp_path):
    for name in (b"caf\xe9.txt", b"plain.txt"):
        (tmp_path / os.fsdecode(name)).write_text("text")
    found = sources(resolve(lambda values: C4Config, None, {"data": str(tmp_path)}))
    assert len(found.train.files) == len(found.validation.files) == 1


# Tokens and the hub


class Letters(Tokenizer):
    name, digest, num_tokens, end_of_text = "letters", "letters", 27, 0

    def encode(self, texts):
        return [np.array([ord(c) - 96 for c in text], np.uint32) for text in texts]

    def decode(self, ids):
        return "".join(chr(96 + token) for token in ids)


class Given(Documents):
    def __init__(self, texts):
        self.texts = texts

    def identity(self):
        return {"texts": self.texts}

    def documents(self, start=0):
        return iter([Document(text, "here") for text in self.texts[start:]])


def test_rows_are_the_documented_ones_without_the_gaps(tmp_path):
    """The earlier system dropped what was left at the end of each buffer of two rows."""
    write(tmp_path / "x.bin", Given(["ga", "b", "adabg", "bdbgab"]), Letters(), say=lambda text: None)
    rows = [row for batch in evaluation_windows(TokenFile(tmp_path / "x.bin"), 5, None, 8) for row in batch.input_ids]
    assert [row.tolist() for row in rows] == [[7, 1, 0, 2, 0], [1, 4, 1, 2, 7], [0, 2, 4, 2, 7]]


def test_a_tokenizer_is_trained_on_training_documents_alone(train, packages, tmp_path):
    folder = train(verb="codeparrot", data=packages, tokenizer="train", vocab_size=300, validation_share=0.3)
    assert summary(folder)["data"]["tokenizer"] == "trained (300 tokens)"
    (ready,) = (tmp_path / "prepared").iterdir()
    assert (ready / "trained.json").exists()


def test_a_tokenizer_is_trained_on_no_more_documents_than_are_read(train, tmp_path):
    lines = ["zqx" * 20 if number else "the first of them all, and the only one to be read" for number in range(40)]
    for side in ("train", "validation"):
        rows = "".join(json.dumps({"text": f"{number} {line}"}) + "\n" for number, line in enumerate(lines))
        (tmp_path / f"{side}.jsonl").write_text(rows if side == "train" else rows.replace('": "', '": "other '))
    files = {"data": tmp_path / "train.jsonl", "validation_data": tmp_path / "validation.jsonl"}
    train(tokenizer="train", vocab_size=300, max_documents=1, seq_length=8, **files)
    (path,) = (tmp_path / "prepared").rglob("trained.json")
    assert "zqx" not in path.read_text()


def test_a_tokenizer_learns_nothing_of_a_training_document_that_equals_a_validation_document(train, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": prose(1)}) + "\n" + json.dumps({"text": "zqx  " * 200}))
    (tmp_path / "validation.txt").write_text("zqx " * 200)
    files = {"data": tmp_path / "train.jsonl", "validation_data": tmp_path / "validation.txt"}
    folder = train(tokenizer="train", vocab_size=300, seq_length=8, **files)
    assert summary(folder)["data"]["training"]["dropped_as_duplicate"] == 1
    (path,) = (tmp_path / "prepared").rglob("trained.json")
    assert "zqx" not in path.read_text()


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    """A folder that stands for a data set of the hub."""
    folder = tmp_path_factory.mktemp("hub")
    for split, count in (("train", 3000), ("validation", 5)):
        rows = (json.dumps({"text": prose(seed + 10_000 * (split == "train"))}) for seed in range(count))
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    return folder


def test_a_data_set_of_the_hub_is_read_no_further_than_needed(train, hub, tmp_path, capsys):
    keys = {"dataset": hub, "dataset_config": "null", "revision": "null", "passes": 1, "max_steps": 6}
    data = summary(train(data=None, **keys, validation_documents=4))["data"]
    assert data["validation"]["documents"] == 4
    assert data["passes"] <= 1
    assert data["training"]["documents"] < 600
    assert data["held_out"] == "a split of its own"
    more = {**SMALL, **keys, "max_steps": 9, "validation_documents": 4, "resume": "true"}
    assert cli.main(["c4", *words(**more, prepared_dir=tmp_path / "prepared", save_dir=tmp_path / "run")]) == 2
    assert "max_steps: the run" in capsys.readouterr().err, "whose rows would be others"


def test_a_rehearsal_writes_nothing_and_uses_what_is_ready(train, english, tmp_path, capsys):
    keys = {**SMALL, "data": english, "save_dir": tmp_path / "other", "prepared_dir": tmp_path / "prepared"}
    assert cli.main(["c4", "--dry_run", *words(**keys)]) == 0
    assert "prepared: for this rehearsal alone" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    train()
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert cli.main(["c4", "--dry_run", *words(**keys)]) == 0
    assert f"prepared: {tmp_path}/prepared/c4-" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_files_for_validation_are_measured_on_whole_beside_a_data_set_of_the_hub(train, hub, english):
    keys = {"dataset": hub, "dataset_config": "null", "revision": "null", "validation_documents": 4}
    data = summary(train(data=None, **keys, validation_data=english))["data"]
    assert data["validation"]["documents"] == 20
    assert data["held_out"] == "files of their own"


def test_a_rehearsal_reads_no_more_of_the_hub_than_an_update_takes(hub, tmp_path, capsys):
    keys = {**SMALL, "dataset": hub, "dataset_config": "null", "max_steps": 100_000, "passes": 1}
    assert cli.main(["c4", "--dry_run", *words(**keys, prepared_dir=tmp_path / "prepared", save_dir=tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "of the hub no more is read here than one update takes" in said
    assert re.search(r"updates +100,000\n", said)
    assert not list(tmp_path.iterdir())


# Keys


@pytest.mark.parametrize(
    ("kind", "file", "tokens"),
    [
        (C4Config, "c4.yaml", 655_360_000),
        (CodeParrotConfig, "codeparrot.yaml", 409_600_000),
        (CodeParrotConfig, "codeparrot_paper.yaml", 983_040_000),
    ],
)
def test_shipped_configurations_have_the_documented_budget(kind, file, tokens):
    config = resolve(lambda values: kind, str(CONFIGS / file), {})
    assert config.rows(1) * config.seq_length == tokens
    assert config.model_dump(exclude={"max_steps", "batch_size", "save_dir", "save_steps", "eval_batch_size"}) == kind(
        **{name: getattr(config, name) for name in ("max_steps", "batch_size", "weights_to_be_trained")}
    ).model_dump(exclude={"max_steps", "batch_size", "save_dir", "save_steps", "eval_batch_size"})


def test_documented_keys_of_c4_mean_what_they_meant():
    given = {
        "model_name": "gpt2-medium",
        "weights_to_transfer": "everything",
        "pretrained_path": "somewhere",
        "initialization_strategy": "partial_matching",
        "bsz": "16",
        "lr": "1e-3",
        "min_lr_rate": "0.2",
        "logging_steps": "7",
        "output_dir": "out",
    }
    config = resolve(lambda values: C4Config, None, given)
    assert config.shape(None, 50257).n_layer == 24
    assert config.sources == [("pretrained_model_path", "somewhere", ["everything"])]
    assert config.embedding_init_strategy == "partial_matching"
    assert (config.batch_size, config.learning_rate, config.min_lr_ratio) == (16, 1e-3, 0.2)
    assert (config.log_every_steps, str(config.run_dir)) == (7, "out")


def test_a_size_is_said_once():
    with pytest.raises(ValidationError, match="write one of them"):
        C4Config(model_name="gpt2", gpt2_size="2_4_16")


# What is refused

REFUSED = [
    ({"data": "{tmp}/none"}, ["{tmp}/none does not exist"]),
    ({"data": "{tmp}/empty"}, ["{tmp}/empty: holds no files of .txt"]),
    ({"data": "{tmp}/blank"}, ["data: there are no documents for"]),
    ({"data": "{tmp}/one.txt"}, ["data: there are no documents for"]),
    ({"validation_data": "{tmp}/short.txt"}, ["seq_length: ", "validation.bin has", "too few"]),
    ({"data": "{tmp}/two", "validation_data": "{english}"}, ["seq_length: ", "train.bin has", "too few"]),
    ({"text_column": "content", "data": "{tmp}/table.parquet"}, ["there is no column 'content'; it has text"]),
    ({"tokenizer": "{tmp}/none"}, ["tokenizer: {tmp}/none does not exist"]),
    ({"tokenizer": "{tmp}/blank"}, ["tokenizer: {tmp}/blank holds neither tokenizer.json nor"]),
    ({"passes": 1, "max_steps": 99}, ["passes: 99 updates go 2.26 times", "1 allowed; set max_steps 43 or passes 3"]),
    ({"max_step": 5}, ["--max_step: no such key. Did you mean max_steps?"]),
    ({"reinit": "true"}, ["--reinit: is no key any more; weights are new unless"]),
    ({"use_c4_1m": "true"}, ["--use_c4_1m: is no key any more"]),
    ({"report_to": "wandb"}, ["--report_to: is no key any more; write wandb_enable"]),
    ({"wandb_mode": "disabled"}, ["--wandb_mode: 'disabled' is not allowed; it takes one of online, offline"]),
    ({"gpt2_size": "2_4_15"}, ["--gpt2_size: '2_4_15': width 15 cannot be split over 4 heads"]),
    ({"seq_length": 1}, ["--seq_length: 1 is not allowed"]),
    ({"validation_share": 1}, ["--validation_share: 1 is not allowed"]),
    ({"isolated": "true", "seeds": "0-1"}, ["seeds: ", "documents that see themselves alone"]),
    ({"pretrained_path": "{tmp}/one.txt"}, ["pretrained_path: {tmp}/one.txt holds no readable model"]),
    ({"weights_to_train": "[]"}, ["nothing is left to be trained"]),
    ({"further_saves": "0,3"}, ["--further_saves: [0, 3] is not allowed; it takes list of integer >= 1"]),
]


@pytest.fixture
def broken(tmp_path):
    import pyarrow
    from pyarrow import parquet

    for name, files in {
        "empty": {},
        "blank": {"a.txt": " \n", "b.txt": "\n"},
        "two": {"a.txt": "1", "b.txt": "2"},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    (tmp_path / "one.txt").write_text("a single document")
    (tmp_path / "short.txt").write_text("short")
    parquet.write_table(pyarrow.table({"text": ["a", "b"]}), tmp_path / "table.parquet")
    return tmp_path


@pytest.mark.parametrize(("changes", "parts"), REFUSED, ids=[str(changes) for changes, _ in REFUSED])
def test_a_wrong_key_is_refused_in_one_line(broken, english, capsys, changes, parts):
    keys = {"data": english, "prepared_dir": broken / "prepared", **SMALL, **changes}
    keys = {key: str(value).format(tmp=broken, english=english) for key, value in keys.items()}
    assert cli.main(["c4", *words(**keys, save_dir=broken / "run")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1, lines
    assert all(part.format(tmp=broken) in lines[0] for part in parts), lines
    assert not (broken / "run").exists()


@pytest.fixture
def offline(monkeypatch):
    def unreachable(*arguments, **keywords):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)


def test_the_hub_out_of_reach_is_said_in_one_line(tmp_path, capsys, offline):
    assert cli.main(["c4", *words(**SMALL, prepared_dir=tmp_path / "p", save_dir=tmp_path / "r")]) == 2
    said = "error: allenai/c4: is no folder, and the hub gave no such data set: no route to the hub"
    assert capsys.readouterr().err.splitlines()[-1] == said


def test_a_tokenizer_that_the_hub_does_not_give_is_never_replaced(tmp_path, packages, capsys, offline):
    keys = {**SMALL, "tokenizer": "codeparrot/codeparrot", "data": packages}
    assert cli.main(["codeparrot", *words(**keys, prepared_dir=tmp_path / "p", save_dir=tmp_path / "r")]) == 2
    assert "error: tokenizer: codeparrot/codeparrot is no path, and the hub does not give it" in capsys.readouterr().err


def test_the_documented_script_runs_from_anywhere(tmp_path, english, pretrained):
    command = [sys.executable, str(ROOT / "downstream/semantic/c4.py"), "--config", str(CONFIGS / "c4.yaml")]
    command += ["--pretrained_path", str(pretrained()), *words(data=english, tokenizer="bytes", seq_length=32)]
    done = subprocess.run(
        [*command, "--max_steps=2", "--bsz=2", "--passes=null", "--device=cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = summary(tmp_path / "results/semantic/c4")
    assert result["evaluation"][0]["perplexity"] > 1
    assert {row["group"]: row["became"] for row in result["transfer"]}["mlp.up"] == "copied"


@pytest.mark.parametrize("verb", ["c4", "codeparrot", "math"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step: 5", "file.yaml: max_step: no such key. Did you mean max_steps?"),
        ("lr: [1", "file.yaml: line 1, column 7: expected"),
        ("- lr", "file.yaml: holds list"),
        ("lr: fast", "file.yaml: lr: 'fast' is not allowed; it takes number > 0"),
        ("lr: 1\nlr: 2", "file.yaml: line 1, column 1: the key 'lr' stands twice"),
        ("lr: 1\nlearning_rate: 2", "file.yaml: learning_rate: stands twice, also as lr"),
        ("mixed_precision: fp16", "file.yaml: mixed_precision: is no key any more; write precision"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, capsys, verb, text, message):
    (tmp_path / "file.yaml").write_text(text)
    assert cli.main([verb, "--config", str(tmp_path / "file.yaml"), "--save_dir", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
