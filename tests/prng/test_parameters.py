import math
import zipfile
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from prng import parameters
from prng.parameters import Excluded, choose, multiplier_step, read_excluded

NOTHING = Excluded()


def has_full_period(m, a, c):
    """By the theorem, as the choice of values has it."""
    return (a - 1) % multiplier_step(m) == 0 and math.gcd(c, m) == 1


def period(m, a, c):
    x, steps = c % m, 1
    seen = {0}
    while x not in seen:
        seen.add(x)
        x, steps = (a * x + c) % m, steps + 1
    return steps if x == 0 else 0


@pytest.mark.parametrize("m", [*range(2, 34), 36, 45, 48, 49, 60, 64, 72, 81])
def test_hull_dobell_parameters_reach_period_m_and_no_other_do(m):
    for a in range(1, m):
        for c in range(m):
            assert (period(m, a, c) == m) == has_full_period(m, a, c), (m, a, c)


@given(st.integers(2, 10**6))
def test_the_step_of_the_multipliers_holds_each_prime_once_and_4(m):
    step, rest = multiplier_step(m), m
    primes = []
    for p in range(2, m + 1):
        if p * p > rest:
            break
        while rest % p == 0:
            primes.append(p)
            rest //= p
    primes += [rest] if rest > 1 else []
    assert step == np.prod(sorted(set(primes)), dtype=object) * (2 if m % 4 == 0 else 1)


@pytest.mark.parametrize(
    ("m", "step"),
    [(2**63, 4), (2**128, 4), (3037000493**2, 3037000493), (2147483647 * 2147483629, 2147483647 * 2147483629)],
)
def test_the_step_of_large_moduli(m, step):
    assert multiplier_step(m) == step


def test_a_modulus_that_cannot_be_factorised_is_refused():
    with pytest.raises(ValueError, match="too large to be factorised"):
        multiplier_step(2**127 - 1)


@settings(deadline=None)
@given(
    moduli=st.lists(st.sampled_from([256, 512, 1000, 1024, 2187, 2**16, 2**40, 2**64, 2**128]), min_size=1, max_size=3),
    seed=st.integers(0, 100),
)
def test_values_are_valid_distinct_and_shared_by_nobody(moduli, seed):
    moduli = list(dict.fromkeys(moduli))
    chosen = choose(moduli, (9, 8), (5, 6), seed, NOTHING)
    for p in chosen:
        assert [len(set(v)) for v in (p.train_a, p.train_c, p.test_a, p.test_c)] == [9, 8, 5, 6]
        assert all(1 < a < p.m and has_full_period(p.m, a, 1) for a in p.train_a + p.test_a)
        assert all(0 < c < p.m and has_full_period(p.m, 1, c) for c in p.train_c + p.test_c)
    for one in chosen:
        for other in chosen:
            assert not set(one.train_a) & set(other.test_a)
            assert not set(one.train_c) & set(other.test_c)
    assert chosen == choose(moduli, (9, 8), (5, 6), seed, NOTHING)


def test_a_modulus_may_be_used_up_to_the_last_value():
    (p,) = choose([256], (40, 100), (23, 28), 3, NOTHING)
    assert sorted(p.train_a + p.test_a) == list(range(5, 256, 4))
    assert sorted(p.train_c + p.test_c) == list(range(1, 256, 2))
    with pytest.raises(UserError, match=r"n_a: 41 asked for, but 40 of the a that give modulus 2\^8"):
        choose([256], (41, 100), (23, 28), 3, NOTHING)


def test_a_modulus_without_multipliers_says_so():
    with pytest.raises(UserError, match="n_test_a: 1 asked for, but 0 of the a that give modulus 1009"):
        choose([1009], (1, 1), (1, 1), 0, NOTHING)


def chi_square(values, bins):
    counts = np.bincount(np.array(values), minlength=bins)
    return float(((counts - len(values) / bins) ** 2 / (len(values) / bins)).sum())


@pytest.mark.parametrize("m", [2**14, 2**16, 2**22])
def test_low_and_high_bits_of_train_and_test_multipliers_are_uniform(m):
    """Pearson's statistic over 16 bins has 15 degrees of freedom and exceeds 44.3 with probability 1e-4.

    The earlier system's choice puts all training values of a mod 2^15 into the lowest 30 %: far above 1000 here.
    """
    chosen = [choose([m], (1024, 1024), (128, 64), seed, NOTHING)[0] for seed in range(4)]
    for part in ("train_a", "test_a", "train_c", "test_c"):
        values = np.concatenate([getattr(p, part) for p in chosen])
        low = values >> (2 if part.endswith("_a") else 1)  # below that, all are equal
        assert chi_square(low % 16, 16) < 44.3, part
        if m > 2**15:
            assert chi_square((values % 2**15) >> 11, 16) < 44.3, part
        assert chi_square(values * 16 // m, 16) < 44.3, part


def test_the_order_of_values_says_nothing_about_their_size():
    """Correlation of rank and value over 1024 draws has standard deviation 1/32: 5 of them are not exceeded."""
    (p,) = choose([2**22], (1024, 1024), (128, 64), 0, NOTHING)
    for values in (p.train_a, p.train_c):
        assert abs(np.corrcoef(np.arange(len(values)), values)[0, 1]) < 5 / 32


# --- Exclusion


@pytest.mark.parametrize("moduli", [[2**16], [2**10, 2**16], [2**128]])
def test_what_a_run_saved_is_used_by_no_run_that_excludes_it(tmp_path, moduli):
    first = choose(moduli, (12, 12), (6, 6), 1, NOTHING)
    (tmp_path / "one").mkdir()
    parameters.save(tmp_path / "one" / "ac_values.npz", first)
    np.savez(tmp_path / "foreign.npz", train_a=np.array([5, 9]), test_c=np.array([3], dtype=np.uint32))
    excluded = read_excluded([str(tmp_path / "*" / "*.npz"), str(tmp_path / "foreign.npz")])
    for p in first:
        assert {*p.train_a, *p.test_a, 5, 9} <= excluded.a
        assert {*p.train_c, *p.test_c, 3} <= excluded.c
    second = choose(moduli, (12, 12), (6, 6), 1, excluded)
    for p in second:
        assert not {*p.train_a, *p.test_a} & excluded.a
        assert not {*p.train_c, *p.test_c} & excluded.c


@pytest.mark.parametrize("moduli", [[2**16], [2**10, 2**16], [2**16, 2**128]])
def test_what_is_saved_comes_back(tmp_path, moduli):
    chosen = choose(moduli, (12, 11), (6, 5), 1, NOTHING)
    parameters.save(tmp_path / "ac_values.npz", chosen)
    assert parameters.load(tmp_path / "ac_values.npz") == chosen


def _broken_files(folder):
    (folder / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    (folder / "text.npz").write_text("no archive")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "folder.npz").mkdir()
    (folder / "values.pt").write_bytes(b"")
    np.savez(folder / "other.npz", weights=np.arange(3))
    np.savez(folder / "no_values.npz", train_a=np.array([], dtype=int))
    np.savez(folder / "floats.npz", train_a=np.array([1.5]))
    np.savez(folder / "objects.npz", train_a=np.array([5, "x", None], dtype=object))
    with (folder / "one_array.npz").open("wb") as file:
        np.save(file, np.arange(5))
    with zipfile.ZipFile(folder / "no_arrays.npz", "w") as archive:
        archive.writestr("train_a.npy", b"5, 9")
    np.savez_compressed(folder / "spoiled.npz", train_a=np.arange(5, 4000, 4))
    packed = bytearray((folder / "spoiled.npz").read_bytes())
    packed[150:190] = bytes(40)  # in the midst of the packed numbers
    (folder / "spoiled.npz").write_bytes(packed)


BROKEN = {
    "torn.npz": "cannot be read",
    "text.npz": "cannot be read",
    "empty.npz": "cannot be read",
    "folder.npz": "Is a directory",
    "values.pt": "only .npz files are read",
    "other.npz": "holds no values of train_a",
    "no_values.npz": "holds no values",
    "floats.npz": "float64, not integers",
    "objects.npz": "cannot be read",
    "one_array.npz": "only .npz files are read",
    "no_arrays.npz": "not integers",
    "spoiled.npz": "cannot be read: Error -3 while decompressing",
    "missing.npz": "No such file",
    "mis*.npz": "no file matches",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_honoured_stops_the_run(tmp_path, name):
    _broken_files(tmp_path)
    with pytest.raises(UserError) as error:
        read_excluded([str(tmp_path / name)])
    (line,) = error.value.problems
    assert BROKEN[name] in line
    assert name in line
    assert "\n" not in line


def test_the_home_folder_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "earlier.npz", train_a=np.array([5, 9]))
    assert read_excluded(["~/earlier.npz"]).a == read_excluded(["~/*.npz"]).a == {5, 9}


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    np.savez(tmp_path / "run[1].npz", train_a=np.array([5]))
    np.savez(tmp_path / "run1.npz", train_a=np.array([9]))
    assert read_excluded([str(tmp_path / "run[1].npz")]).a == {5}


def test_every_broken_file_is_named(tmp_path):
    _broken_files(tmp_path)
    for names in combinations(BROKEN, 2):
        with pytest.raises(UserError) as error:
            read_excluded([str(tmp_path / name) for name in names])
        assert len(error.value.problems) == 2
