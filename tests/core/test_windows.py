"""Windows over token files: every epoch is a permutation, targets are the next tokens, documents see themselves."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import rng
from core.batch import IGNORE
from core.distributed import World
from core.documents import LocalFiles
from core.evaluate import Evaluation
from core.model import GPT, GPTConfig, loss_sum
from core.token_files import TokenFile
from core.token_writer import write
from core.tokenizer import load
from core.windows import Permutation, Windows, bits_per_byte, cut, evaluation_windows


class File:
    """A token file in memory."""

    def __init__(self, lengths, name="x"):
        """Documents of so many tokens, the end of text, 0, included; the other tokens are all different."""
        self.tokens = np.arange(1, sum(lengths) + 1)
        self.tokens[np.cumsum(lengths) - 1] = 0
        self.starts = (np.cumsum(lengths) - lengths).astype(np.uint64)
        self.path = name

    def __len__(self):
        return len(self.tokens)


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 5))
def test_a_permutation_reaches_every_number_once(size, seed):
    order = Permutation(size, np.random.default_rng(seed))
    assert sorted(order(np.arange(size))) == list(range(size))


def test_a_permutation_looks_random():
    """Each value is equally likely at each place, and neighbours are in either order."""
    rows = np.array([Permutation(6, rng.generator("test", 0, "", n))(np.arange(6)) for n in range(3000)])
    counts = np.array([[(rows[:, place] == value).sum() for value in range(6)] for place in range(6)])
    chi = ((counts - 500) ** 2 / 500).sum()
    assert chi < 60  # 25 degrees of freedom: p = 1e-4
    rises = np.diff(Permutation(100_000, np.random.default_rng(0))(np.arange(100_000))) > 0
    assert abs(rises.mean() - 0.5) < 0.01


def test_a_permutation_of_a_billion_costs_nothing():
    assert 0 <= Permutation(10**9, np.random.default_rng(0))(np.array([10**9 - 1]))[0] < 10**9


@settings(max_examples=80, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=3), st.integers(1, 6), st.integers(0, 3), st.integers(1, 7))
def test_every_epoch_shows_all_but_less_than_a_window_of_each_file_once(lengths, length, epoch, size):
    files = [File(one) for one in lengths if sum(one) > length]
    if not files:
        return
    for file, offset in zip(files, np.cumsum([0, *map(len, files)]), strict=False):
        file.tokens = np.arange(len(file)) + offset  # each token of all files is another
    source = Windows(files, length, seed=1)
    N = len(source)
    assert sum(len(file) // length for file in files) == N
    batches = [
        source.batch("train", n, min(n + size, (epoch + 1) * N)) for n in range(epoch * N, (epoch + 1) * N, size)
    ]
    ids = torch.cat([batch.input_ids for batch in batches])
    targets = torch.cat([batch.targets for batch in batches])
    assert ids.shape == (N, length)
    seen = ids.flatten().tolist()
    assert len(set(seen)) == len(seen) == N * length
    following = np.concatenate([np.roll(file.tokens, -1) for file in files])
    assert targets.tolist() == following[ids].tolist()


def test_windows_are_a_function_of_their_numbers():
    source, other = Windows([File([500])], 7, seed=3), Windows([File([500])], 7, seed=3)
    whole = source.batch("train", 0, 200)  # almost three epochs
    for start, stop in [(0, 1), (60, 80), (141, 200)]:
        assert torch.equal(other.batch("train", start, stop).input_ids, whole.input_ids[start:stop])


def test_epochs_names_and_seeds_differ_in_offset_and_order():
    def first_tokens(epoch=0, **keys):
        source = Windows([File([1000])], 10, **{"seed": 3, **keys})
        return source.batch("train", epoch * 100, epoch * 100 + 100).input_ids[:, 0]

    ways = [first_tokens(), first_tokens(1), first_tokens(seed=4), first_tokens(name="other")]
    assert len({tuple(way.tolist()) for way in ways}) == 4
    assert len({int(way.min()) for way in ways}) > 1


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(0, 40))
def test_document_mask_knows_the_document_of_every_token(lengths, length, begin):
    """Against the slow way: walk over the ring, token by token."""
    file = File(lengths)
    if len(file) <= length:
        return
    batch = cut([file], np.array([0]), np.array([begin]), length, document_mask=True)
    starts, targets = [], []
    ring = [*file.tokens, *file.tokens, *file.tokens]
    begin %= len(file)
    window, start = ring[begin : begin + length + 1], 0
    for column in range(length):
        starts.append(start)
        targets.append(IGNORE if window[column] == 0 else window[column + 1])
        start = column + 1 if window[column] == 0 else start
    assert batch.input_ids[0].tolist() == window[:-1]
    assert batch.rows.starts[0].tolist() == starts
    scored = [(place, target) for place, target in enumerate(targets) if target != IGNORE]
    assert list(zip(batch.positions.tolist(), batch.labels.tolist(), strict=True)) == scored


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_with_document_mask_a_document_is_read_as_if_alone(positions):
    file = File([6, 5, 9, 12])
    model = GPT(GPTConfig(len(file) + 1, 16, 2, 2, 16, positions=positions), seed=0)
    packed = cut([file], np.array([0]), np.array([0]), 16, document_mask=True)
    parts = [file.tokens[a:b] for a, b in [(0, 6), (6, 11), (11, 17)]]  # the last document is cut by the window
    alone = sum(
        model(torch.tensor(part[None, :-1]), labels=torch.tensor(part[1:]), positions=torch.arange(len(part) - 1))
        for part in parts
    )
    torch.testing.assert_close(loss_sum(model, packed), alone)
    plain = cut([file], np.array([0]), np.array([0]), 16).supervised()
    assert len(plain.labels) == 16
    assert len(packed.labels) == 14


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="x has 5 tokens, too few for a window of 5 and the next"):
        Windows([File([5])], 5, seed=0)
    bare = File([9])
    bare.starts = None
    with pytest.raises(ValueError, match="does not say where its documents begin"):
        Windows([bare], 5, seed=0, document_mask=True)


@pytest.mark.parametrize("document_mask", [False, True])
def test_evaluation_is_the_mean_over_the_tokens_of_its_windows(document_mask):
    file = File([10, 20, 3, 30])
    model = GPT(GPTConfig(64, 8, 1, 1, 8, positions="rope"), seed=0)
    windows = evaluation_windows(file, 8, None, batch_size=3, document_mask=document_mask)
    found = Evaluation(windows, World())(model)["loss"]
    losses = []
    for begin in range(0, 56, 8):
        batch = cut([file], np.array([0]), np.array([begin]), 8, document_mask).supervised()
        losses += [(loss_sum(model, batch).item(), len(batch.labels))]
    assert len(losses) == 7  # 62 // 8
    assert math.isclose(found, sum(a for a, _ in losses) / sum(b for _, b in losses), rel_tol=1e-5)
    assert sum(b for _, b in losses) == 56 - 3 * document_mask


def test_evaluation_windows_are_spread_evenly_and_always_the_same():
    file = File([101])
    chosen = torch.cat([batch.input_ids for batch in evaluation_windows(file, 10, 4, batch_size=3)])
    assert chosen[:, 0].tolist() == [1, 21, 51, 71]
    assert evaluation_windows(File([10]), 10, 4, batch_size=3) == []


def test_bits_per_byte_is_about_the_whole_text(tmp_path):
    (tmp_path / "a.txt").write_text("äb")
    write(tmp_path / "x.bin", LocalFiles([str(tmp_path / "a.txt")]), load("bytes"), say=print)
    file = TokenFile(tmp_path / "x.bin")
    assert math.isclose(bits_per_byte(math.log(2), file), 4 / 3)  # three bytes and the end, a bit each


def test_a_window_of_documents_is_cut_without_a_copy_of_where_all_begin():
    file = File([2] * 200_000)
    tracemalloc.start()
    cut([file], np.zeros(2, np.int64), np.array([101, 399_997]), 5, document_mask=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000  # bytes; they take 1.6 million
