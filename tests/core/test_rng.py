import itertools

import numpy as np

from core.rng import generator


def numbers(*arguments) -> list[int]:
    return generator(*arguments).integers(2**62, size=4).tolist()


def test_the_same_arguments_give_the_same_numbers():
    assert numbers("sort", 1, "train", 2) == numbers("sort", 1, "train", 2)


def test_every_argument_matters_and_neighbours_share_nothing():
    streams = itertools.product(["sort", "sor", "sort1"], [-1, 0, 1, 11], ["train", "test"], [0, 1, 11])
    drawn = [number for arguments in streams for number in numbers(*arguments)]
    assert len(set(drawn)) == 3 * 4 * 2 * 3 * 4


def test_streams_do_not_change_from_version_to_version():
    """Data that was once trained on can be drawn again only as long as this holds."""
    drawn = generator("sort", 42, "train", 7)
    assert drawn.integers(1, 100, size=6).tolist() == [71, 34, 88, 97, 17, 27]
    assert drawn.random(2).tolist() == [0.43357426341498684, 0.36564679145326606]


def test_streams_of_neighbouring_blocks_are_uncorrelated():
    rows = np.stack([generator("sort", 0, "train", block).random(10_000) for block in range(20)])
    correlation = np.corrcoef(rows) - np.eye(20)
    assert np.abs(correlation).max() < 5 / np.sqrt(10_000)
