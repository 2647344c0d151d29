"""Files that are not what they were: named and passed over, or refused; never believed."""

import json
import random
import shutil
from pathlib import Path

import pytest
from fault_trials import assert_same_end, in_words

CHECKPOINT_FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json", "manifest.json"]


def cut(path: Path, choice: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: choice.randrange(path.stat().st_size)])


def flip(path: Path, choice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(choice.choice([1, 1, 10])):
        content[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
    path.write_bytes(content)


def blank(path: Path, choice: random.Random) -> None:
    """As a power cut leaves it: the size is right, a block of it was never written."""
    content, at = bytearray(path.read_bytes()), choice.randrange(path.stat().st_size)
    content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    path.write_bytes(content)


def lengthen(path: Path, choice: random.Random) -> None:
    path.write_bytes(path.read_bytes() + choice.randbytes(choice.randrange(1, 100)))


def random_bytes(path: Path, choice: random.Random) -> None:
    path.write_bytes(choice.randbytes(path.stat().st_size))


def remove(path: Path, choice: random.Random) -> None:
    path.unlink()


def into_folder(path: Path, choice: random.Random) -> None:
    path.unlink()
    path.mkdir()


def into_dangling_link(path: Path, choice: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def exchange(path: Path, choice: random.Random) -> None:
    """The same file of another run, or of another step."""
    path.write_bytes((path.parents[1] / "checkpoint-4" / path.name).read_bytes())


HARMS = [cut, flip, blank, lengthen, random_bytes, remove, into_folder, into_dangling_link, exchange]


@pytest.fixture
def copy(trial, tmp_path):
    """A copy of a finished run, to be harmed."""

    def copy() -> Path:
        shutil.copytree(trial.whole, tmp_path / "run", symlinks=True, dirs_exist_ok=False)
        return tmp_path / "run"

    return copy


def harmed_and_resumed(trial, run: Path, seed: int) -> None:
    choice = random.Random(seed)
    number = choice.choice([1, 1, 1, 3])
    harmed = [(choice.choice(HARMS), run / "checkpoint-6" / choice.choice(CHECKPOINT_FILES)) for _ in range(number)]
    told = f"seed {seed}: {[(harm.__name__, path.name) for harm, path in harmed]}"
    before = [path.read_bytes() for path in sorted((run / "checkpoint-6").iterdir())]
    for harm, path in harmed:
        if path.is_file() and path.stat().st_size:
            harm(path, choice)
    files = sorted((run / "checkpoint-6").iterdir())
    is_harmed = not all(path.is_file() for path in files) or [path.read_bytes() for path in files] != before
    outcome = trial.run(run)
    assert outcome.status == 0, (told, outcome.said)
    assert is_harmed == ("checkpoint-6 is damaged and skipped: " in outcome.said), (told, outcome.said)
    assert (run / "checkpoint-6.damaged1").is_dir() == is_harmed, told
    assert_same_end(trial.whole, run, told)
    shutil.rmtree(run)


def test_a_harmed_checkpoint_is_passed_over(trial, copy):
    for seed in range(30):
        harmed_and_resumed(trial, copy(), seed)


@pytest.mark.slow
def test_many_harmed_checkpoints_are_passed_over(trial, copy):
    for seed in range(30, 150):
        harmed_and_resumed(trial, copy(), seed)


@pytest.mark.parametrize("harm", [cut, random_bytes, remove, into_folder])
def test_with_no_intact_checkpoint_nothing_is_touched(trial, copy, harm):
    run, choice = copy(), random.Random(0)
    for step in (4, 6):
        harm(run / f"checkpoint-{step}" / choice.choice(CHECKPOINT_FILES), choice)
    before = {path: path.is_file() and path.read_bytes() for path in run.rglob("*")}
    in_words(trial.run(run), 2, str(run), "none of its 2 checkpoints is intact")
    assert {path: path.is_file() and path.read_bytes() for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    "manifest", ["{}", "[]", "null", "5", '{"files": {}}', '{"files": [], "sha256": 1}', "\x00", "{"]
)
def test_a_manifest_of_another_kind_is_damage(trial, copy, manifest):
    run = copy()
    (run / "checkpoint-6" / "manifest.json").write_text(manifest)
    trial.goes_on(run)
    assert (run / "checkpoint-6.damaged1").is_dir()


@pytest.mark.parametrize("harm", [cut, flip, blank, lengthen, random_bytes, remove])
def test_metrics_that_cannot_be_read_are_dropped_and_counted(trial, copy, harm):
    run = copy()
    shutil.rmtree(run / "checkpoint-6")
    known = (run / "metrics.jsonl").read_bytes().splitlines()
    harm(run / "metrics.jsonl", random.Random(5))
    outcome = trial.run(run)
    assert outcome.status == 0, outcome.said
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    is_known = [json.loads(line) for line in known]
    changed = [row for row in rows if row not in is_known]
    assert len(changed) <= (harm is flip), "a digit may have become another, which nothing can tell"
    if len(rows) < len(known) and harm in (flip, random_bytes):  # else it ends as after any kill
        assert "metrics.jsonl: " in outcome.said
        assert "cannot be read and are dropped" in outcome.said
    for name in ("model.safetensors", "optimizer.safetensors", "trainer_state.json"):
        assert (run / "checkpoint-6" / name).read_bytes() == (trial.whole / "checkpoint-6" / name).read_bytes()


@pytest.mark.parametrize("harm", [cut, random_bytes, remove, into_dangling_link])
@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "best", ".lock", "plots/curves.png"])
def test_what_a_run_can_make_again_it_does(trial, copy, name, harm):
    run = copy()
    path = run / name
    if name == "best":
        path.unlink()
        if harm is not remove:
            path.symlink_to("checkpoint-99" if harm is into_dangling_link else "checkpoint-4")
    elif path.stat().st_size or harm in (remove, into_dangling_link):
        harm(path, random.Random(1))
    outcome = trial.run(run)
    if outcome.status:  # a lock and a picture are written through a link that leads nowhere
        in_words(outcome, 1 if name.startswith("plots") else 2, str(run))
        path.unlink()
    trial.goes_on(run)
