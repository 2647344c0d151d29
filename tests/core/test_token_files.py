"""Token files: what is in them, that nothing half-done looks complete, and that what is not right is refused."""

import json
import os
import random
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import files, token_writer, tokenizer
from core.digests import Digests
from core.documents import Document, Documents
from core.errors import UserError
from core.token_files import PARTS, TokenFile, part
from core.token_writer import divide, write

BYTES = tokenizer.load("bytes")
SILENT = {"say": lambda text: None}


class Given(Documents):
    """A list of texts as a source; None is a document without text."""

    def __init__(self, texts, version=""):
        self.texts, self._version = texts, version

    def identity(self):
        return {"kind": "given"}

    def version(self):
        return self._version

    def documents(self, start=0):
        for number, text in enumerate(self.texts[start:], start=start):
            yield Document(text or "", f"item {number}", "" if text is not None else "unreadable")


def contents(path):
    """Every file of a token file by its suffix."""
    return {suffix: part(path, suffix).read_bytes() for suffix in (*PARTS, ".meta.json")}


def test_the_file_is_the_documents_with_an_end_after_each_as_plain_numpy_reads_them(tmp_path):
    path = tmp_path / "train_a_b.bin"
    meta = write(path, Given(["ab", "ü", "cde"]), BYTES, settings={"key": 1}, **SILENT)
    ids = np.memmap(path, np.uint16, mode="r")
    assert ids.tolist() == [*b"ab", 256, *"ü".encode(), 256, *b"cde", 256]
    assert np.fromfile(part(path, ".idx"), np.uint64).tolist() == [0, 3, 6]
    counts = {name: meta[name] for name in ("documents", "tokens", "characters", "bytes", "consumed", "dropped")}
    assert counts == {"documents": 3, "tokens": 10, "characters": 6, "bytes": 7, "consumed": 3, "dropped": {}}
    assert meta["settings"] == {"key": 1, "limit": None, "excluded": []}
    assert (meta["dtype"], meta["end_of_text"], meta["tokenizer"]["name"]) == ("uint16", 256, "bytes")
    assert json.loads(part(path, ".meta.json").read_text()) == meta
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(part(path, s).name for s in (*PARTS, ".meta.json"))
    assert TokenFile(path, BYTES).documents["bytes"].tolist() == [2, 2, 3]


def test_documents_may_follow_each_other_without_an_end(tmp_path):
    path = tmp_path / "x.bin"
    meta = write(path, Given(["ab", "c"]), BYTES, ends=False, **SILENT)
    assert np.memmap(path, np.uint16, mode="r").tolist() == [*b"abc"]
    assert np.fromfile(part(path, ".idx"), np.uint64).tolist() == [0, 2]
    assert (meta["tokens"], meta["end_of_text_placement"]) == (3, "nowhere")
    assert write(tmp_path / "y.bin", Given(["ab"]), BYTES, **SILENT)["end_of_text_placement"] == "after each document"


def test_a_vocabulary_that_does_not_fit_into_two_bytes_gets_four(tmp_path):
    class Large(tokenizer.Bytes):
        num_tokens, end_of_text = 100_000, 99_999

    write(tmp_path / "x.bin", Given(["a"]), Large(), **SILENT)
    assert np.fromfile(tmp_path / "x.bin", np.uint32).tolist() == [97, 99_999]
    assert TokenFile(tmp_path / "x.bin", Large()).tokens.tolist() == [97, 99_999]


def test_what_is_dropped_is_counted_and_said(tmp_path):
    said = []
    texts = ["a b", None, "a\n b ", " \n", "cafe\u0301", "caf\u00e9", "A b"]
    meta = write(tmp_path / "x.bin", Given(texts), BYTES, say=said.append)
    assert meta["dropped"] == {"unreadable": 1, "duplicate": 2, "blank": 1}
    assert (
        BYTES.decode(TokenFile(tmp_path / "x.bin").tokens) == "a b<|endoftext|>caf\u00e9<|endoftext|>A b<|endoftext|>"
    )
    assert said == [
        "item 1: dropped: unreadable",
        "x: 1 of 7 documents dropped: unreadable",
        "x: 2 of 7 documents dropped: duplicate",
        "x: 1 of 7 documents dropped: blank",
    ]


def test_documents_of_other_files_are_left_out(tmp_path):
    write(tmp_path / "x.bin", Given(["a", "b"]), BYTES, **SILENT)
    other = TokenFile(tmp_path / "x.bin")
    meta = write(tmp_path / "y.bin", Given(["b", "c", "a ", "d"]), BYTES, exclude=[other], **SILENT)
    assert (meta["documents"], meta["dropped"]) == (2, {"duplicate": 2})
    assert meta["settings"]["excluded"] == [other.digest]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("ab \n", max_size=30), max_size=30), st.integers(0, 35), st.integers(1, 60))
def test_limit_and_pieces_of_any_size(tmp_path_factory, texts, limit, at_once):
    path = tmp_path_factory.mktemp("limit") / "x.bin"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_writer, "AT_ONCE", at_once)
        meta = write(path, Given(texts), BYTES, limit=limit, **SILENT)
    kept = {" ".join(t.split()): t for t in reversed([t for t in texts[:limit] if t.strip()])}
    assert meta["consumed"] == min(limit, len(texts))
    expected = [t for t in texts[:limit] if t.strip() and kept.get(" ".join(t.split())) is not None]
    first = list(dict.fromkeys(" ".join(t.split()) for t in expected))
    assert BYTES.decode(TokenFile(path).tokens) == "".join(kept[key] + "<|endoftext|>" for key in first)


@pytest.mark.parametrize("seed", range(3))
def test_a_file_whose_writer_is_killed_again_and_again_is_the_same(tmp_path, monkeypatch, seed):
    """Killed as it flushes a file, renames one, or encodes; nothing looks complete meanwhile."""
    monkeypatch.setattr(token_writer, "AT_ONCE", 300)
    monkeypatch.setattr(token_writer, "DURABLE_EVERY", 1000)
    source = Given([f"{n} " * (n % 40) for n in range(400)] * 2)
    write(tmp_path / "whole" / "x.bin", source, BYTES, **SILENT)
    path, choice, kills = tmp_path / "killed" / "x.bin", random.Random(seed), 0
    for _ in range(60):
        left = choice.randint(1, 25)
        child = os.fork()
        if child == 0:
            die_at_call(left, choice.choice(["flush", "replace", "encode"]))
            write(path, source, BYTES, **SILENT)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        kills += 1
        assert os.WTERMSIG(status) == signal.SIGKILL
        if part(path, ".meta.json").exists():
            TokenFile(path, BYTES)  # then it is complete, and verified
    else:
        write(path, source, BYTES, **SILENT)
    assert kills > 2
    assert contents(path) == contents(tmp_path / "whole" / "x.bin")
    assert {p.name for p in path.parent.iterdir()} == {part(path, s).name for s in (*PARTS, ".meta.json")}


def die_at_call(left, where):
    def dying(function):
        def call(*arguments):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return call

    if where == "flush":
        token_writer.flush = files.flush = dying(files.flush)
    elif where == "replace":
        token_writer.part = dying(token_writer.part)
    else:
        BYTES.encode = dying(BYTES.encode)


def begun(path, source, monkeypatch):
    """Leaves a file half written."""

    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(token_writer.Writer, "finish", fail)
        patch.setattr(token_writer, "AT_ONCE", 1)
        patch.setattr(token_writer, "DURABLE_EVERY", 1)
        with pytest.raises(KeyboardInterrupt):
            write(path, source, BYTES, **SILENT)


def test_what_was_begun_from_something_else_is_not_gone_on_with(tmp_path, monkeypatch):
    path, said = tmp_path / "x.bin", []
    begun(path, Given(["old", "older"]), monkeypatch)
    write(path, Given(["new"], version="2"), BYTES, say=said.append)
    assert BYTES.decode(TokenFile(path).tokens) == "new<|endoftext|>"
    assert "starting over" in said[0]


@pytest.mark.parametrize("what", ["short", "garbled"])
def test_what_was_begun_and_is_damaged_is_not_gone_on_with(tmp_path, monkeypatch, what):
    path, said = tmp_path / "x.bin", []
    begun(path, Given(["a", "b"]), monkeypatch)
    if what == "short":
        (tmp_path / ".x.bin.partial").write_bytes(b"\0")
    else:
        (tmp_path / ".x.progress.json").write_text("{")
    write(path, Given(["a", "b"]), BYTES, say=said.append)
    assert BYTES.decode(TokenFile(path).tokens) == "a<|endoftext|>b<|endoftext|>"
    assert "cannot be used" in said[0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=20, unique=True), st.data())
def test_dividing_copies_whole_documents(tmp_path_factory, texts, data):
    folder = tmp_path_factory.mktemp("divide")
    write(folder / "whole.bin", Given(texts), BYTES, **SILENT)
    whole = TokenFile(folder / "whole.bin")
    goes_right = np.array(data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts))))
    left, right = np.flatnonzero(~goes_right), np.flatnonzero(goes_right)
    divide(whole, {folder / "left.bin": left, folder / "right.bin": right})
    for name, numbers in (("left", left), ("right", right)):
        write(folder / f"expected_{name}.bin", Given([texts[n] for n in numbers]), BYTES, **SILENT)
        expected = contents(folder / f"expected_{name}.bin")
        found = contents(folder / f"{name}.bin")
        assert all(found[suffix] == expected[suffix] for suffix in PARTS)
        counts = ("documents", "tokens", "characters", "bytes", "sha256", "dtype", "end_of_text")
        metas = [json.loads(meta[".meta.json"]) for meta in (found, expected)]
        assert all(metas[0][key] == metas[1][key] for key in counts)


# --- Reading


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "x.bin", Given(["ab", "cd"]), BYTES, **SILENT)
    return tmp_path / "x.bin"


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(path, **keys):
    file = part(path, ".meta.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.unlink(), "x.bin: does not exist; make it"),
        (lambda p: part(p, ".meta.json").unlink(), "x.bin: is incomplete: x.meta.json is missing; make it"),
        (lambda p: p.write_bytes(b"\0\0"), "x.bin has 2 bytes, not 12; make it"),
        (lambda p: part(p, ".idx").unlink(), "x.idx has 0 bytes, not 16; make it"),
        (flip, "x.bin does not match its hash; make it"),
        (lambda p: flip(part(p, ".doc")), "x.doc does not match its hash; make it"),
        (lambda p: part(p, ".meta.json").write_text("{"), "x.bin: is damaged: x.meta.json: .*; make it"),
        (lambda p: part(p, ".meta.json").write_text("[]"), "x.meta.json has no object of the right type; make it"),
        (lambda p: part(p, ".meta.json").write_text("{}"), "x.meta.json has no format of the right type; make it"),
        (lambda p: edit(p, format=2), "x.meta.json is of format 2 and dtype uint16; make it"),
        (lambda p: edit(p, dtype="uint17"), "x.meta.json is of format 1 and dtype uint17; make it"),
        (lambda p: edit(p, documents="2"), "x.meta.json has no documents of the right type; make it"),
        (lambda p: edit(p, tokenizer={"name": "bytes"}), "x.meta.json has no digest of the right type; make it"),
        (lambda p: edit(p, sha256={"bin": ""}), "x.meta.json has no idx of the right type; make it"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(path, spoil, message):
    spoil(path)
    with pytest.raises(UserError, match=message):
        TokenFile(path, BYTES, advice="make it")


def test_a_file_of_another_tokenizer_is_refused(path):
    with pytest.raises(UserError, match="was made with the tokenizer bytes, not with gpt2"):
        TokenFile(path, tokenizer.load("gpt2"))


def test_a_bare_file_is_taken_and_that_is_said(tmp_path):
    said = []
    np.array([1, 2, 256], np.uint16).tofile(tmp_path / "y.bin")
    file = TokenFile(tmp_path / "y.bin", BYTES, say=said.append)
    assert file.tokens.tolist() == [1, 2, 256]
    assert file.starts is None
    assert len(file.digest) == 64
    assert said == [f"{tmp_path}/y.bin: without y.meta.json: taken for uint16 ids of the tokenizer in use"]


def test_a_bare_file_of_a_large_vocabulary_is_taken_for_what_one_of_ours_is(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer.Bytes, "num_tokens", 65_536)
    write(tmp_path / "x.bin", Given(["ab", "c"]), BYTES, **SILENT)
    part(tmp_path / "x.bin", ".bin").rename(tmp_path / "y.bin")
    said = []
    assert TokenFile(tmp_path / "y.bin", BYTES, say=said.append).tokens.tolist() == [*b"ab", 256, *b"c", 256]
    assert "taken for uint32 ids" in said[0]
    (tmp_path / "y.bin").write_bytes(b"\0\0")
    with pytest.raises(UserError, match="has 2 bytes, not a multiple of 4"):
        TokenFile(tmp_path / "y.bin", BYTES, **SILENT)


@pytest.mark.parametrize(("ids", "message"), [([1, 257], "holds the id 257, but bytes has 257 tokens"), ([], None)])
def test_ids_that_the_tokenizer_does_not_have_are_found(tmp_path, ids, message):
    np.array(ids, np.uint16).tofile(tmp_path / "y.bin")
    if message is None:
        assert len(TokenFile(tmp_path / "y.bin", BYTES, **SILENT)) == 0
    else:
        with pytest.raises(UserError, match=message):
            TokenFile(tmp_path / "y.bin", BYTES, **SILENT)
    (tmp_path / "y.bin").write_bytes(b"\0\0\0")
    with pytest.raises(UserError, match="has 3 bytes, not a multiple of 2"):
        TokenFile(tmp_path / "y.bin", BYTES, **SILENT)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=200), st.integers(1, 9))
def test_digests_are_a_set(numbers, new):
    digests = [n.to_bytes(1, "big") + bytes(14) + (n % 3).to_bytes(1, "big") for n in numbers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digests, "NEW", new)
        ours, seen = Digests([np.array(digests[:5], "S16"), np.array(digests[3:7], "S16")]), set(digests[:7])
        for digest in digests:
            assert ours.add(digest) is (digest not in seen)
            seen.add(digest)


def test_no_more_is_read_than_the_tokens_that_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(token_writer, "AT_ONCE", 1)
    read = []

    class Endless(Given):
        def documents(self, start=0):
            while True:
                read.append(start)
                yield Document(f"text {len(read)}", "here")

    meta = write(tmp_path / "x.bin", Endless([]), BYTES, most_tokens=50, **SILENT)
    assert 50 <= meta["tokens"] < 60
    assert len(read) == meta["documents"] + 1
