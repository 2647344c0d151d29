import numpy as np
import pytest

from prng.plots import (
    draw_embedding,
    draw_moduli,
    fitted_exponent,
    needed_context,
    principal_components,
    rotation_class,
    zero_bits,
)


def test_the_needed_context_is_the_first_number_that_reaches_the_threshold():
    assert needed_context(np.array([0.1, 0.5, 0.9, 0.8]), 0.9) == 4
    assert needed_context(np.array([0.95, 0.5]), 0.9) == 2
    assert needed_context(np.array([0.1, 0.2]), 0.9) is None


def test_the_exponent_of_a_power_law_is_found():
    moduli = [2**n for n in range(8, 20, 2)]
    exponent, scale = fitted_exponent(moduli, [round(4 * m**0.5) for m in moduli])
    assert exponent == pytest.approx(0.5, abs=1e-9)
    assert scale == pytest.approx(4)


def test_words_that_rotate_into_each_other_are_one_class():
    classes = {rotation_class(v, 6) for v in range(64)}
    assert len(classes) == 14  # necklaces of 6 beads in 2 colours
    for v in range(64):
        rotations = {int(f"{v:06b}"[i:] + f"{v:06b}"[:i], 2) for i in range(6)}
        assert rotation_class(v, 6) == min(rotations)
        assert zero_bits(v, 6) == f"{v:06b}".count("0")


def test_principal_components_find_the_directions_of_a_known_cloud():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    hidden = rng.normal(size=(400, 2)) * [5, 1]
    at, share = principal_components(hidden @ axes[:2] + 7, 2)
    assert abs(np.corrcoef(at[:, 0], hidden[:, 0])[0, 1]) > 0.99
    assert share.sum() == pytest.approx(1)
    assert share[0] > 0.9


@pytest.mark.pictures
@pytest.mark.parametrize(("tokens", "channels"), [(2, 8), (8, 2), (8, 1)])  # bits as digits; a narrow model
def test_an_embedding_of_fewer_directions_than_are_drawn_has_a_picture(tmp_path, tokens, channels):
    rows = np.random.default_rng(0).normal(size=(tokens, channels))
    at, share = principal_components(rows, 3)
    assert at.shape == (tokens, 3)
    assert share.sum() == pytest.approx(1)
    np.testing.assert_allclose(at @ at.T, (rows - rows.mean(axis=0)) @ (rows - rows.mean(axis=0)).T, atol=1e-12)
    assert draw_embedding(rows, tmp_path / "e.png", "t").exists()


@pytest.mark.pictures
def test_pictures_are_written(tmp_path):
    rows = np.random.default_rng(0).normal(size=(16, 8))
    points = {"LCG": [(256, 12), (1024, 24)], "XSLRR": [(256, 40)]}
    for path in (
        draw_embedding(rows, tmp_path / "a" / "e.png", "t"),
        draw_moduli(points, tmp_path / "a" / "m.png", 0.9),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")
