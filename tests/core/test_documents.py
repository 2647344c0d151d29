"""Documents come in a fixed order, from any number on, and what is no text is named."""

import json
import os

import pyarrow as pa
import pytest
from pyarrow import parquet

from core.documents import HubDataset, LocalFiles
from core.errors import UserError


@pytest.fixture
def corpus(tmp_path):
    """A folder with every kind of file, two of them broken, and files that are none of ours."""
    (tmp_path / "b" / "inner").mkdir(parents=True)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\r\nfile\n")
    (tmp_path / "b" / "inner" / "c.md").write_text("# Zwölf\n")
    (tmp_path / "b" / "bad.txt").write_bytes(b"caf\xe9")
    rows = [{"text": "one"}, {"other": "?"}, {"text": 5}, {"text": "\ud800"}]
    lines = [json.dumps(row) for row in rows] + ["", "{", "[1]"]
    (tmp_path / "d.jsonl").write_text("\n".join(lines) + "\n")
    parquet.write_table(pa.table({"text": ["p", None, "q"], "n": [1, 2, 3]}), tmp_path / "e.parquet")
    (tmp_path / "f.py").write_text("x = 1\n")
    (tmp_path / "g.csv").write_text("1,2\n")
    (tmp_path / ".hidden.txt").write_text("no")
    return tmp_path


def test_every_kind_of_file_is_read_and_what_is_no_text_is_named(corpus):
    found = [(d.text, d.problem) for d in LocalFiles([str(corpus)]).documents()]
    column = "no text in column 'text'"
    assert found == [
        ("first\nfile\n", ""),
        ("", "not UTF-8"),
        ("# Zwölf\n", ""),
        ("one", ""),
        ("", column),
        ("", column),
        ("", "not Unicode"),
        ("", "not JSON"),
        ("", column),
        ("p", ""),
        ("", column),
        ("q", ""),
        ("x = 1\n", ""),
    ]
    places = {d.where for d in LocalFiles([str(corpus)]).documents() if d.problem}
    assert f"{corpus}/b/bad.txt, byte 3" in places
    assert f"{corpus}/d.jsonl:6" in places


def test_a_line_of_brackets_without_end_is_not_json(tmp_path):
    (tmp_path / "deep.jsonl").write_text("[" * 100_000 + "\n" + '{"text": "a"}\n')
    found = [(d.text, d.problem) for d in LocalFiles([str(tmp_path)]).documents()]
    assert found == [("", "not JSON"), ("a", "")]


def test_any_document_can_be_gone_on_from(corpus):
    (corpus / "z.txt").write_text("1\n\n\n2\n \n3")
    for separator in (None, ""):
        source = LocalFiles([str(corpus)], separator=separator)
        everything = list(source.documents())
        for start in range(len(everything) + 2):
            assert list(source.documents(start)) == everything[start:]


def test_a_separator_may_stand_behind_a_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf***\r\none\r\n***\r\ntwo")
    found = [d.text for d in LocalFiles([str(tmp_path)], separator="***").documents()]
    assert found == ["one\n", "two"]


def test_a_separator_divides_text_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"<|endoftext|>\r\nOnce\r\n\r\nupon\n<|endoftext|>\n \n<|endoftext|>\na time")
    parts = list(LocalFiles([str(tmp_path)], separator="<|endoftext|>").documents())
    assert [part.text for part in parts] == ["Once\n\nupon\n", "a time"]
    assert parts[1].where.endswith("a.txt:8")
    blank = LocalFiles([str(tmp_path / "a.txt")], separator="")
    assert [part.text.split()[-1] for part in blank.documents()] == ["Once", "<|endoftext|>", "time"]


def test_the_version_follows_names_and_contents(corpus):
    source = LocalFiles([str(corpus)])
    before = source.version()
    assert LocalFiles([str(corpus)]).version() == before
    (corpus / "a.txt").write_text("first\nFile\n")
    assert source.version() != before
    (corpus / "h.txt").write_text("x")
    assert len({before, source.version(), LocalFiles([str(corpus)]).version()}) == 3


def test_names_of_files_need_not_be_utf8(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    assert [document.text for document in LocalFiles([str(tmp_path)]).documents()] == ["text"]
    assert LocalFiles([str(tmp_path)]).version()
    assert HubDataset(str(tmp_path)).version()


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["missing"], "missing does not exist"),
        (["g.csv"], r"g.csv: cannot be read as text; it takes files of \.txt"),
        (["empty"], r"empty: holds no files of \.txt"),
        (["a.txt", "."], r"a.txt: is named twice"),
    ],
)
def test_paths_without_documents_are_refused(corpus, paths, message):
    (corpus / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        LocalFiles([str(corpus / path) for path in paths])


def test_a_missing_column_and_a_broken_file_are_refused(corpus):
    with pytest.raises(UserError, match="there is no column 'body'; it has text, n"):
        list(LocalFiles([str(corpus / "e.parquet")], text_column="body").documents())
    (corpus / "e.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"e.parquet: is no intact Parquet file"):
        list(LocalFiles([str(corpus / "e.parquet")]).documents())


def test_a_row_of_parquet_that_is_not_utf8_is_named(tmp_path):
    encoded = pa.array([b"caf\xe9", b"tea"])
    parquet.write_table(
        pa.table({"text": pa.Array.from_buffers(pa.string(), 2, encoded.buffers())}), tmp_path / "a.parquet"
    )
    found = [(d.text, d.problem) for d in LocalFiles([str(tmp_path)]).documents()]
    assert found == [("", "not UTF-8"), ("tea", "")]


@pytest.fixture
def dataset(tmp_path):
    """A folder in the layout of a data set of the hub."""
    for split, rows in {"train": 50, "validation": 5}.items():
        lines = [json.dumps({"text": f"{split} {n}", "story": f"s{n}"}) for n in range(rows)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_data_set_is_streamed_and_gone_on_from(dataset):
    source = HubDataset(str(dataset))
    assert [d.text for d in source.documents()] == [f"train {n}" for n in range(50)]
    assert [d.text for d in source.documents(47)] == ["train 47", "train 48", "train 49"]
    validation = HubDataset(str(dataset), split="validation", text_column="story")
    assert [d.text for d in validation.documents()] == ["s0", "s1", "s2", "s3", "s4"]


def test_a_shuffled_data_set_is_the_same_each_time_and_gone_on_from(dataset):
    source = HubDataset(str(dataset), shuffle_buffer=20, seed=3)
    texts = [d.text for d in source.documents()]
    assert texts != sorted(texts)
    assert len(set(texts)) == 50
    assert [d.text for d in source.documents(10)] == texts[10:]
    assert [d.text for d in HubDataset(str(dataset), shuffle_buffer=20, seed=4).documents()] != texts


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text_column": "body"}, "no column 'body'; it has text, story"),
        ({"split": "test"}, "test"),
        ({"subset": "x"}, "x"),
    ],
)
def test_what_a_data_set_does_not_have_is_said(dataset, keys, message):
    with pytest.raises(UserError, match=f"{dataset}: .*{message}"):
        list(HubDataset(str(dataset), **keys).documents())


def test_the_version_of_a_folder_follows_its_contents(dataset):
    before = HubDataset(str(dataset)).version()
    assert HubDataset(str(dataset)).version() == before
    (dataset / "train.jsonl").write_text('{"text": "x"}\n')
    assert HubDataset(str(dataset)).version() != before


def test_a_hub_that_cannot_be_reached_is_a_line(monkeypatch):
    def fail(self, *arguments, **keywords):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    with pytest.raises(
        UserError, match=r"^someone/stories: is no folder, and the hub gave no such data set: no route$"
    ):
        list(HubDataset("someone/stories").documents())
