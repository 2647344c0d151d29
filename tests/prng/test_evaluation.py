from itertools import pairwise

import numpy as np
import pytest
import torch

from core.distributed import World
from core.model import GPT, GPTConfig
from prng.evaluation import CELLS, Table, cells, measure, save_correctness
from prng.generators import Generator
from prng.parameters import Excluded, choose
from prng.source import Format

GENERATORS = [[Generator("LCG", 64)], [Generator("LCG", 128)]]
FORM = Format(seq_len=9, base=8, digits=3)
CHOSEN = choose([64, 128], (7, 6), (3, 2), 1, Excluded())


class Knows(torch.nn.Module):
    """Predicts what `know` says of the row so far, with certainty, as a model that has learned it would."""

    number = 1

    def __init__(self, know, tokens):
        super().__init__()
        self.know, self.tokens, self.head = know, tokens, torch.nn.Identity()

    def hidden(self, input_ids, positions, rows, first):
        logits = torch.zeros(*input_ids.shape, self.tokens)
        for b, row in enumerate(input_ids.tolist()):
            for t in range(len(row)):
                logits[b, t, self.know(row, t)] = 50.0
        return logits.flatten(0, 1)[positions]


def table(**changes):
    made = cells(GENERATORS, CHOSEN, 1)
    return Table(made, FORM, np.array([0.25, 0.75]), **{"examples": None, "batch_size": 4, "world": World(), **changes})


def test_cells_hold_what_their_names_say():
    for cell in table().cells:
        p = CHOSEN[cell.modulus]
        for kind, values, words in [
            ("a", cell.grid.a, cell.name.split(", ")[0]),
            ("c", cell.grid.c, cell.name.split(", ")[1]),
        ]:
            pool = getattr(p, f"{'test' if words.startswith('unseen') else 'train'}_{kind}")
            assert set(values.tolist()) <= set(pool)
        assert len(cell.grid.a) == 3
        assert len(cell.grid.c) == 2
    assert [cell.name for cell in table().cells] == 2 * list(CELLS)


def test_scores_count_numbers_whose_every_digit_is_right():
    """The model knows the lowest digit of each number (period 8 in an LCG), and takes the others for 0."""
    cell = table().cells[0]

    def lowest(row, t):
        place = (t + 1) % 3
        if place:
            return 0
        seen = [row[i] for i in range(0, t + 1, 3)]
        steps = [(b - a) % 8 for a, b in pairwise(seen)]
        return (seen[-1] + steps[-1]) % 8 if steps else 0

    scores = measure(Knows(lowest, 8), cell.grid, FORM, None, 4, World())
    rows = []
    for a in range(3):
        for c in range(2):
            index = [np.array([i]) for i in (a, c, 0)]
            rows.append(cell.grid.numbers(*index, 9)[0].tolist())
    right = np.zeros((6, 8))
    tokens = 0
    for i, row in enumerate(rows):
        flat = [(number // 8**j) % 8 for number in row for j in range(3)]
        guesses = [lowest(flat[:-1], t) for t in range(26)]
        hits = [guess == token for guess, token in zip(guesses, flat[1:], strict=True)]
        tokens += sum(hits)
        for j in range(8):
            right[i, j] = all(hits[2 + 3 * j : 5 + 3 * j])
    assert 0 < right.sum() < right.size
    np.testing.assert_allclose(scores.by_number, right.mean(axis=0))
    np.testing.assert_allclose(scores.by_pair, right.mean(axis=1).reshape(3, 2))
    assert scores.accuracy == pytest.approx(tokens / (6 * 26))
    assert scores.metrics["last_accuracy"] == right[:, -1].mean()
    assert scores.metrics["accuracy_at_4"] == right[:, 2].mean()
    assert set(scores.metrics) == {
        "loss",
        "accuracy",
        "last_accuracy",
        "accuracy_at_2",
        "accuracy_at_4",
        "accuracy_at_8",
    }


def model(length=26, tokens=8):
    return GPT(GPTConfig(tokens, length, 1, 2, 16, positions="rope"))


def test_batches_and_ranks_do_not_change_the_scores():
    whole = table(batch_size=100)
    whole(model())
    small = table(batch_size=1)
    small(model())
    for one, other in zip(whole.scores, small.scores, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-6)
        np.testing.assert_allclose(one.by_number, other.by_number)
        np.testing.assert_allclose(one.by_pair, other.by_pair)


def test_logits_of_a_batch_never_exist_all_at_once():
    """A vocabulary of 2^16 would else take gigabytes where training, which never has them either, takes little."""
    lengths = []
    long, small = Format(seq_len=301, base=128), model(300, 128)
    small.head.register_forward_hook(lambda head, inputs, logits: lengths.append(logits.numel() // 128))
    scores = measure(small, table().cells[0].grid, long, None, 6, World())
    assert sum(lengths) == 6 * 300
    assert max(lengths) <= 256
    assert len(scores.by_number) == 300


def test_fewer_examples_are_pairs_of_the_grid_and_the_rest_is_marked():
    some = table(examples=4)
    some(model())
    every = table()
    every(model())
    for one, other in zip(some.scores, every.scores, strict=True):
        known = ~np.isnan(one.by_pair)
        assert known.sum() == 4
        np.testing.assert_allclose(one.by_pair[known], other.by_pair[known])


def test_the_first_row_is_the_mean_of_unseen_by_the_last_shares():
    rows = table()(model())
    assert rows[0][0]["cell"] == "unseen a, unseen c"
    small, large = rows[1], rows[1 + len(CELLS)]
    assert (small[0]["m"], large[0]["m"]) == (64, 128)
    for name, value in rows[0][1].items():
        assert value == pytest.approx(0.25 * small[1][name] + 0.75 * large[1][name])


def test_correctness_has_its_documented_shapes(tmp_path):
    measured = table(keep=tmp_path / "correctness.npz")
    measured(model())
    with np.load(tmp_path / "correctness.npz", allow_pickle=False) as arrays:
        assert arrays["by_number"].shape == (8, 8)
        assert arrays["generator"].tolist() == 4 * ["LCG m=2^6"] + 4 * ["LCG m=2^7"]
        assert arrays["cell"].tolist() == 2 * list(CELLS)
        for r in range(8):
            assert arrays[f"by_pair_{r}"].shape == (3, 2)
            assert arrays[f"a_{r}"].tolist() == measured.cells[r].grid.a.tolist()
            assert arrays[f"by_pair_{r}"].mean() == pytest.approx(arrays["by_number"][r].mean())
    assert not list(tmp_path.glob("*.partial"))
    save_correctness(tmp_path / "correctness.npz", measured.cells, measured.scores)
