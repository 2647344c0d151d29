import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prng.generators import Generator
from prng.parameters import Excluded, choose
from prng.source import Format, Grid, Mixture, start_states

MEMBERS = [[("LCG", 256, 0), ("XSLRR", 256, 2)], [("LCG", 1000, 0), ("XSLRR", 2**12, 3)]]
FORM = Format(seq_len=9, base=20, digits=3)


def shares(update: int) -> np.ndarray:
    return np.array([0.25, 0.75]) if update < 3 else np.array([1.0, 0.0])


def mixture(examples_per_update=64, phase=0, seed=1, starts=2, device=None) -> Mixture:
    grids = []
    for members in MEMBERS:
        row = []
        for kind, m, cb in members:
            (p,) = choose([m], (5, 4), (2, 2), 1, Excluded())
            row.append(
                Grid(Generator(kind, m, cb), p.train_a, p.train_c, seed=1, use="train", starts=starts, device=device)
            )
        grids.append(row)
    return Mixture(grids, shares, examples_per_update, FORM, seed=seed, phase=phase)


@settings(deadline=None)
@given(start=st.integers(0, 700), length=st.integers(1, 300))
def test_any_slice_is_that_slice_of_the_whole(start, length):
    source = mixture()
    whole = source.batch("train", 0, 1000)
    part = mixture().batch("train", start, start + length)
    assert torch.equal(part.input_ids, whole.input_ids[start : start + length])
    assert torch.equal(part.targets, whole.targets[start : start + length])


def test_torch_makes_what_numpy_makes():
    """On the CPU, where the tests run; training asks torch for it on a GPU only."""
    one, other = mixture().batch("train", 0, 300), mixture(device=torch.device("cpu")).batch("train", 0, 300)
    assert torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.targets, other.targets)


def test_every_row_is_the_sequence_that_was_drawn():
    source = mixture()
    chosen, batch = source.draw("train", 0, 300), source.batch("train", 0, 300)
    assert batch.input_ids.shape == batch.targets.shape == (300, 26)
    assert torch.equal(batch.input_ids[:, 1:], batch.targets[:, :-1])
    for i in range(300):
        modulus, kind, a, c, start = (int(chosen[name][i]) for name in ("modulus", "kind", "a", "c", "start"))
        grid = source.grids[modulus][kind]
        x0 = int(start_states(grid._key, np.array([(a * 4 + c) * 2 + start]), grid.generator.m)[0])
        one = [np.array([value], dtype=grid.generator.dtype) for value in (x0, grid.a[a], grid.c[c])]
        row = FORM.batch(grid.generator.sequences(*one, 9))
        assert torch.equal(batch.input_ids[i], row.input_ids[0])
        assert torch.equal(batch.targets[i], row.targets[0])


def test_phases_seeds_and_splits_draw_differently_and_the_same_again():
    sources = [mixture(), mixture(phase=1), mixture(seed=2)]
    rows = [source.batch("train", 0, 50).input_ids for source in sources] + [mixture().batch("other", 0, 50).input_ids]
    for i, one in enumerate(rows):
        assert not any(torch.equal(one, other) for other in rows[:i])
    assert torch.equal(rows[0], mixture().batch("train", 0, 50).input_ids)


def test_moduli_come_by_weight_whatever_the_size_of_their_data_and_the_rest_uniformly():
    """4-sigma bounds of binomial shares over 3 updates of 20,000 examples."""
    source = mixture(examples_per_update=20_000)
    chosen = source.draw("train", 0, 60_000)
    assert abs((chosen["modulus"] == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / 60_000) ** 0.5
    for name, values in [("kind", 2), ("a", 5), ("c", 4), ("start", 2)]:
        counts = np.bincount(chosen[name], minlength=values)
        assert len(counts) == values
        assert np.abs(counts / 60_000 - 1 / values).max() < 4 * (1 / values / 60_000) ** 0.5
    assert set(source.draw("train", 60_000, 80_000)["modulus"]) == {0}


def test_weights_follow_the_update_whatever_the_slices():
    source = mixture(examples_per_update=10)
    chosen = np.concatenate([source.draw("train", i, i + 7)["modulus"] for i in range(0, 70, 7)])
    assert chosen[:30].max() == 1
    assert set(chosen[30:]) == {0}


@pytest.mark.parametrize("m", [2, 3, 1000, 2**18, 2**63, 2**63 - 1, 2**64, 2**128, 3**50])
def test_start_states_are_uniform_and_told_apart_by_key_and_number(m):
    """Pearson's statistic over 8 bins exceeds 29.9 (7 degrees of freedom) with probability 1e-4."""
    values = [int(x) for x in start_states(np.uint64(7), np.arange(4000), m)]
    assert all(0 <= x < m for x in values)
    bins = min(m, 8)
    counts = np.bincount([x * bins // m for x in values], minlength=bins)
    expected = np.array(
        [len([x for x in range(m) if x * bins // m == b]) / m if m < 8 else 1 / bins for b in range(bins)]
    )
    assert ((counts - 4000 * expected) ** 2 / (4000 * expected)).sum() < 29.9
    assert values != [int(x) for x in start_states(np.uint64(8), np.arange(4000), m)]
    if m > 2**60:
        assert len(set(values)) == 4000


def test_the_grid_of_1024_by_1024_takes_less_than_5_megabytes():
    tracemalloc.start()
    (p,) = choose([2**18], (1024, 1024), (128, 64), 1, Excluded())
    grid = Grid(Generator("XSLRR", 2**18, 3), p.train_a, p.train_c, seed=1, use="train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grid.pairs == 2**20
    assert peak < 5e6
