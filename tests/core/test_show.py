"""What `inspect` prints, for every task of every package."""

import io
import re
from collections import Counter

import pytest
from transformers import PreTrainedTokenizerFast

from core.batch import IGNORE
from core.errors import UserError
from core.show import DIM, GREEN, RESET, ShowConfig, View, duplicates, inspect, lines_of, names_of, stats
from core.task import task_class, task_names
from downstream import cli as downstream
from prng import cli as prng
from procedural_data import cli as procedural_data
from procedural_data.set import Set
from procedural_data.sort import Sort
from synthetic_tasks import cli as synthetic_tasks

PACKAGES = ["procedural_data", "downstream.algorithmic_tasks.tasks", "synthetic_tasks"]
TASKS = [task_class(package, name) for package in PACKAGES for name in task_names(package)]
SORT = View.of_task(Sort(seq_length=3, vocab_size=9), seed=0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(view: View = SORT, out: io.StringIO | None = None, **keys) -> str:
    out = io.StringIO() if out is None else out
    inspect(view, ShowConfig(**keys), out)
    return out.getvalue()


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__module__)
def test_every_task_can_be_looked_at(kind):
    task = kind()
    text = printed(View.of_task(task, seed=1), show=2, split="test", text_chars=0)
    assert text.count(", valid") == 2
    assert max(map(len, text.splitlines())) <= 100
    batch = View.of_task(task, seed=1).batch("test", 0, 2)
    for (tokens, labels), block in zip(View.of_task(task, 1).rows(batch), text.split("---")[1:], strict=True):
        words = " ".join(block.splitlines()[1:]).split()
        expected = [
            task.token_name(t) if s == IGNORE else f"[{task.token_name(t)}]"
            for t, s in zip(tokens, labels, strict=True)
        ]
        assert words == expected


def test_rows_are_the_batch_without_pads_and_labels_stand_at_their_tokens():
    view = View.of_task(Set(seq_length=5, vocab_size=4), seed=0)
    batch = view.batch("train", 0, 50)
    rows = list(view.rows(batch))
    assert len({len(tokens) for tokens, _ in rows}) > 1
    for (tokens, labels), ids, targets in zip(rows, batch.input_ids.tolist(), batch.targets.tolist(), strict=True):
        assert tokens == [i for i in ids if i != view.pad_token]
        assert all(label in (IGNORE, token) for token, label in zip(tokens, labels, strict=True))
        assert [label for label in labels if label != IGNORE] == [t for t in targets if t != IGNORE]


def test_colours_are_for_terminals_and_can_be_refused(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = printed(out=Terminal(), show=1)
    assert f"{GREEN}" in coloured
    assert f"{DIM}" in coloured
    assert "[" not in re.sub(r"\x1b\[\d+m", "", coloured.splitlines()[-1])
    assert coloured.count(RESET) == coloured.count(DIM) + coloured.count(GREEN)
    for text in (printed(show=1), printed(out=Terminal(), show=1, colorize_loss_mask=False)):
        assert "\x1b" not in text
        assert "[" in text.splitlines()[-1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed(out=Terminal(), show=1)


def test_lines_are_as_wide_as_they_may_be_whatever_the_colours():
    tokens, labels = list(range(40)), [IGNORE if t % 2 else t for t in range(40)]
    for colour in (False, True):
        lines = [re.sub(r"\x1b\[\d+m", "", line) for line in lines_of(tokens, labels, str, colour, 30)]
        assert 25 < max(map(len, lines)) <= 30
        assert [int(word.strip("[]")) for word in " ".join(lines).split()] == tokens


def test_long_examples_are_cut_where_that_is_asked_for():
    assert "... 3 more tokens" in printed(show=1, max_tokens=4)
    assert printed(show=1, max_tokens=4).splitlines()[-2].split() == printed(show=1).splitlines()[-1].split()[:4]
    assert "example 7" in printed(show=1, first=7)
    assert "---" not in printed(show=0)


def test_a_wrong_example_is_called_wrong():
    def wrong(tokens):
        raise ValueError("not in order")

    assert "WRONG: not in order" in printed(View("it", SORT.batch, str, check=wrong), show=1)
    assert "valid" not in printed(View("it", SORT.batch, str, check=wrong), show=1, validate_examples=False)


def test_stats_count_lengths_scored_tokens_and_answers():
    view = View.of_task(Sort(seq_length=1, vocab_size=12), seed=0)
    text = stats(view, "train", 200, view.token_name)
    rows = list(view.rows(view.batch("train", 0, 200)))
    commonest, share = Counter(labels[-1] for _, labels in rows).most_common(1)[0]
    assert "mean 3.0; least, quartiles, most: 3  3  3  3  3" in text
    assert "mean 1.0, 33.3 % of all" in text
    assert f"{100 * share / 200:6.2f} %  {commonest}" in text


def test_duplicates_are_found_within_and_across_splits():
    def batch(split, start, stop):
        return SORT.batch("train" if split != "test" else "test", start // 2, stop // 2 + 1).rows(slice(stop - start))

    text = duplicates(View("it", batch, str, splits=("train", "validation", "test")), 20)
    assert "train and validation: 11 rows in common" in text
    assert "train and test: 0 rows in common" in text
    assert re.search(r"train +0 repeat", text)
    small = View.of_task(Sort(seq_length=2, vocab_size=9), seed=0)
    found = len({tuple(tokens) for tokens, _ in small.rows(small.batch("train", 0, 100))})
    assert re.search(rf"train +{100 - found} repeat", duplicates(small, 100))


def test_a_tokenizer_writes_the_ids_that_it_has(tmp_path):
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(5)} | {"a\nb": 5}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    name = names_of(str(tmp_path))
    assert [name(t) for t in (0, 4, 5, 6)] == ["w0", "w4", "a\\nb", "<6>"]
    with pytest.raises(UserError, match="'/no/such/folder' holds no tokenizer that can be loaded"):
        names_of("/no/such/folder")


def test_gpt2_needs_no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = names_of("gpt2")
    assert [name(t) for t in (0, 995, 50256, 50257)] == ["!", "\\u0120world", "<|endoftext|>", "<50257>"]


@pytest.mark.parametrize(
    ("cli", "words"),
    [
        (procedural_data, "inspect dyck --k 3 --seq_length 8 --show 1 --stats --duplicates --examples 50"),
        (downstream, "inspect additionstream_3 --show 1"),
        (downstream, "inspect condattendstream_2_4 --show 1 --split validation"),
        (prng, "inspect --type XSLRR --m 2**16 --control_bits 3 --show 1 --stats --duplicates --examples 50"),
        (synthetic_tasks, "inspect"),
        (synthetic_tasks, "inspect dataset=brevo show=2 dataset.config.qa=true dataset.config.N=8"),
    ],
)
def test_the_commands_print_examples(cli, words, capsys):
    assert cli.main(words.split()) == 0
    assert "--- example 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cli", "words", "message"),
    [
        (procedural_data, "inspect dyk", "no task 'dyk'"),
        (procedural_data, "inspect", "task: "),
        (procedural_data, "inspect sort --seq_length 0", "--seq_length: 0 is not allowed"),
        (procedural_data, "inspect sort --shw 1", "Did you mean show?"),
        (procedural_data, "inspect sort --split best", "--split: 'best' is not allowed"),
        (procedural_data, "inspect sort --seq_length 1 --vocab_size 2", "too few distinct prompts"),
        (downstream, "inspect addition_5", "'addition_5' is no task"),
        (prng, "inspect --type LCG --m 64 --split test", "--split: 'test' is not allowed"),
        (synthetic_tasks, "inspect dataset=nope", "Could not find 'dataset/nope'"),
        (synthetic_tasks, "inspect dataset=mano dataset.config.L=0", "config.L: 0 is not allowed"),
        (synthetic_tasks, "inspect dataset=depo dataset.config.K=900", "K 900 steps go around"),
        (synthetic_tasks, "inspect shw=1", "Could not override 'shw'; there is no such key"),
        (synthetic_tasks, "inspect tokenizer_name_or_path=/no/such/folder", "holds no tokenizer that can be loaded"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_line(cli, words, message, capsys):
    assert cli.main(words.split()) == 2
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert message in line
    assert "---" not in said.out
