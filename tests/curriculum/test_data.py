"""Token files of a curriculum: documented names, whole documents for validation, nothing twice, nothing half-done."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from core import token_writer, tokenizer
from core.token_files import PARTS, TokenFile
from curriculum import cli, data

BYTES = tokenizer.load("bytes")


def texts(path: str) -> list[str]:
    return BYTES.decode(np.fromfile(path, np.uint16)).split("<|endoftext|>")[:-1]


def contents(folder: str = "data") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != ".lock"}


def test_files_have_the_documented_names_and_hold_every_document_once(curriculum, capsys):
    file = curriculum()
    assert cli.main(["initialize", "curriculum", "--type", file]) == 0
    names = [f"{side}_{stage}_pretrain" for stage in ("warmup", "foundation", "pretrain") for side in ("train", "val")]
    assert set(contents()) == {name + suffix for name in names for suffix in (*PARTS, ".meta.json")}
    for folder, stage in (("a", "warmup"), ("b", "foundation"), ("c", "pretrain")):
        train, val = texts(f"data/train_{stage}_pretrain.bin"), texts(f"data/val_{stage}_pretrain.bin")
        assert sorted(train + val) == sorted(path.read_text() for path in Path(f"text/{folder}").iterdir())
        assert len(val) >= 6
    out = capsys.readouterr().out
    assert "[Stage 1/3] warmup\n  Dataset: local-files\n  Block size: 8\n  Epochs: 1\n  Items: all" in out
    assert "✓ Stage 'pretrain' dataset created successfully!" in out


def test_what_is_complete_is_left_and_what_has_changed_is_made_again(curriculum, capsys):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("data").glob("*.bin")}
    assert cli.main(["initialize", "--type", file]) == 0
    assert capsys.readouterr().out.count("is complete and unchanged") == 3
    assert {path: path.stat().st_mtime_ns for path in Path("data").glob("*.bin")} == before
    Path("text/b/00.txt").write_text("another text\n")
    assert cli.main(["initialize", "--type", file]) == 0
    out = capsys.readouterr().out
    assert out.count("is complete and unchanged") == 1  # the last one leaves out what the second holds, so it follows
    assert "another text\n" in texts("data/train_foundation_pretrain.bin") + texts("data/val_foundation_pretrain.bin")


def test_a_damaged_file_is_made_again(curriculum, capsys):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    whole = contents()
    with open("data/val_foundation_pretrain.bin", "r+b") as damaged:
        damaged.write(b"\1\1")
    assert cli.main(["initialize", "--type", file]) == 0
    assert "val_foundation_pretrain.bin does not match its hash: making it again" in capsys.readouterr().out
    assert contents() == whole


def test_a_damaged_meta_is_made_again_as_start_advises(curriculum, capsys):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    whole = contents()
    Path("data/train_pretrain_pretrain.meta.json").write_text('{"format": 1, "dtype": "uin')
    assert cli.main(["start", "--type", file]) == 2
    assert "is damaged: train_pretrain_pretrain.meta.json: Unterminated string" in (told := capsys.readouterr().err)
    assert f"make it with: python -m curriculum.cli initialize --type {file}" in told
    assert cli.main(["initialize", "--type", file]) == 0
    assert contents() == whole


def test_a_command_that_is_proposed_can_be_typed_with_any_name(curriculum, capsys):
    Path(curriculum()).rename("my curriculum.yaml")
    assert cli.main(["start", "--type", "my curriculum.yaml"]) == 2
    assert "python -m curriculum.cli initialize --type 'my curriculum.yaml'" in capsys.readouterr().err


def test_a_file_of_somebody_else_is_not_overwritten(curriculum, capsys):
    file = curriculum()
    Path("data").mkdir()
    for name in ("train_warmup_pretrain.bin", "val_pretrain_pretrain.bin"):
        Path("data", name).write_bytes(b"theirs")
    assert cli.main(["initialize", "--type", file]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" was not made here")[0].rpartition("/")[2] for line in lines] == sorted(contents())
    assert set(contents().values()) == {b"theirs"}


def test_a_document_of_an_earlier_stage_is_left_out_of_later_ones(curriculum, capsys):
    Path("text/b/30.txt").write_text("  " + Path("text/a/03.txt").read_text())
    Path("text/c/30.txt").write_text(Path("text/b/04.txt").read_text().replace(" ", "\n"))
    assert cli.main(["initialize", "--type", curriculum()]) == 0
    found = [
        text
        for stage in ("warmup", "foundation", "pretrain")
        for side in ("train", "val")
        for text in texts(f"data/{side}_{stage}_pretrain.bin")
    ]
    words = [tuple(text.split()) for text in found]
    assert len(set(words)) == len(words) == 90
    assert capsys.readouterr().out.count("1 of 31 documents dropped: duplicate") == 2


def test_what_is_held_out_is_all_validation(curriculum):
    Path("text/d").mkdir()
    Path("text/d/0.txt").write_text("x y z " * 60)
    held_out = {"name": "other", "dataset_key": "local-files", "source_path": ["text/d"], "block_size": 32}
    assert cli.main(["initialize", "--type", curriculum(held_out=held_out)]) == 0
    assert texts("data/val_other_pretrain.bin") == ["x y z " * 60]
    assert not Path("data/train_other_pretrain.bin").exists()


def test_fewer_documents_than_asked_for_are_said(curriculum, capsys):
    assert cli.main(["initialize", "--type", curriculum({"warmup": {"n_items": 500}})]) == 0
    assert "The source has 30 items, fewer than the 500 asked for" in capsys.readouterr().out
    assert cli.main(["initialize", "--type", curriculum({"warmup": {"n_items": 12}})]) == 0
    assert len(texts("data/train_warmup_pretrain.bin") + texts("data/val_warmup_pretrain.bin")) == 12


@pytest.mark.parametrize("seed", [0])
def test_killed_again_and_again_the_files_are_the_same(curriculum, monkeypatch, capfd, seed):
    file = curriculum()
    monkeypatch.setattr(token_writer, "AT_ONCE", 400)
    monkeypatch.setattr(token_writer, "DURABLE_EVERY", 50)
    assert cli.main(["initialize", "--type", file]) == 0
    whole = contents()
    Path("data").rename("uninterrupted")
    choice, kills, status = random.Random(seed), 0, 1
    while status:
        left = choice.randint(1, 120) if kills < 25 else 10**9
        child = os.fork()
        if child == 0:
            die_at_call(left)
            os._exit(cli.main(["initialize", "--type", file]))
        _, status = os.waitpid(child, 0)
        kills += status != 0
        assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
        for meta in Path("data").glob("*.meta.json") if Path("data").exists() else ():
            TokenFile(meta.with_name(meta.name.removesuffix(".meta.json") + ".bin"), BYTES)  # looks complete and is
    assert kills > 5
    assert contents() == whole


def test_killed_between_its_two_sides_a_stage_made_again_is_not_half_the_old_one(curriculum, monkeypatch, capsys):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    Path("text/a/00.txt").write_text("another text, so that others are drawn\n")
    Path("text/a/30.txt").write_text("and one more\n")
    publish = token_writer.publish

    def killed(path, *arguments):
        if path.name == "val_warmup_pretrain.bin":
            raise KeyboardInterrupt
        return publish(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(token_writer, "publish", killed)
        assert cli.main(["initialize", "--type", file]) == 130
    assert cli.main(["start", "--type", file]) == 2
    assert "val_warmup_pretrain.bin: is incomplete" in capsys.readouterr().err

    assert cli.main(["initialize", "--type", file]) == 0
    assert len(texts("data/train_warmup_pretrain.bin") + texts("data/val_warmup_pretrain.bin")) == 31


def test_a_stage_that_may_hold_what_an_earlier_one_does_by_now_is_not_trained_on(curriculum, monkeypatch, capsys):
    file = curriculum()
    assert cli.main(["initialize", "--type", file]) == 0
    Path("text/a/30.txt").write_text(Path("text/c/00.txt").read_text())
    make = data.make

    def interrupted(config, text, *rest):
        if text.name == "foundation":
            raise KeyboardInterrupt
        return make(config, text, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(data, "make", interrupted)
        assert cli.main(["initialize", "--type", file]) == 130
    assert cli.main(["start", "--type", file]) == 2
    shared = (
        "train_pretrain_pretrain.bin: may share documents with train_warmup_pretrain.bin, which was made anew since"
    )
    assert f"{shared}; make it" in capsys.readouterr().err
    assert cli.main(["initialize", "--type", file]) == 0
    assert cli.main(["start", "--type", file]) == 0


def test_what_was_tokenized_before_a_kill_is_not_tokenized_again(curriculum, monkeypatch, capsys):
    file, written = curriculum(), []
    divide, write = data.divide, data.write

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "divide", killed)
    assert cli.main(["initialize", "--type", file]) == 130
    monkeypatch.setattr(data, "divide", divide)
    monkeypatch.setattr(
        data, "write", lambda path, *rest, **keys: written.append(path.name) or write(path, *rest, **keys)
    )
    assert cli.main(["initialize", "--type", file]) == 0
    assert written == [".whole_foundation_pretrain.bin", ".whole_pretrain_pretrain.bin"]


def test_a_text_that_is_too_short_leaves_nothing(curriculum, capsys):
    assert cli.main(["initialize", "--type", curriculum({"warmup": {"block_size": 300}})]) == 2
    assert "warmup: 30 documents with" in capsys.readouterr().err
    assert contents() == {}


def test_two_lists_of_addresses_with_one_name_are_refused(curriculum, capsys):
    """Their pages and manifests would lie in one folder, where the second manifest would take the first one's place."""
    for folder in ("text/b", "text/c"):
        Path(folder, "web.yaml").write_text("urls: [http://127.0.0.1/]\ncontact: me@example.org\n")
    of = {"dataset_key": "custom-scrape"}
    stages = {
        "foundation": of | {"source_path": ["text/b/web.yaml"]},
        "pretrain": of | {"source_path": ["text/c/web.yaml"]},
    }
    assert cli.main(["initialize", "--type", curriculum(stages)]) == 2
    assert "error: pretrain: source_path has the name of that of foundation, web" in capsys.readouterr().err
    assert not Path("data").exists()


@pytest.mark.parametrize("seed", [0, 4])  # which would draw the long document late, and first
def test_a_document_of_more_than_half_of_a_text_is_trained_on(curriculum, seed):
    Path("text/a/long.txt").write_text("moon " * 1000)
    assert cli.main(["initialize", "--type", curriculum(val_share=0.01, data_seed=seed)]) == 0
    assert len(texts("data/val_warmup_pretrain.bin")) < 8
    assert "moon " * 1000 in texts("data/train_warmup_pretrain.bin")


def die_at_call(left: int) -> None:
    """SIGKILL at some call that opens, renames, removes or shortens a file."""

    def count(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.truncate"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


PEAK = """
import re, sys
from curriculum import cli, data
status = cli.main(["initialize", "--type", sys.argv[1]])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())  # getrusage knows the parent's, too
print(status, "torch" in sys.modules, int(peak[1]) // 1024)
"""


def test_a_text_of_some_size_takes_little_memory_and_no_torch(curriculum):
    lines = (f"{n} is a number, and {n * n} its square.\n\n" for n in range(70_000))
    Path("text/a/00.txt").write_text("".join(lines))  # a file of 3 MB with 70,000 documents
    place = {"dataset_key": "local-files", "source_path": ["text/a/00.txt"], "document_separator": ""}
    file = curriculum()
    Path(file).write_text(yaml.safe_dump({"stages": [{"name": "warmup", "block_size": 64, **place}]}))
    command = [sys.executable, "-c", PEAK, file]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    status, has_torch, peak = done.stdout.split()[-3:]
    assert (status, has_torch) == ("0", "False")
    assert int(peak) < 200  # MiB


@pytest.mark.slow
def test_a_hundred_million_tokens_take_less_than_300_mib(tmp_path):
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "benchmarks.text_writing", "--json", tmp_path / "x"], cwd=root, check=True)
    (result,) = json.loads((tmp_path / "x").read_text())["results"]
    assert result["peak memory, MiB"] < 300
