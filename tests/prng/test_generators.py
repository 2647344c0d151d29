"""Oracles that share no code: states as strings of bits, Python integers one step at a time, published streams."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prng.generators import KINDS, Generator, digits, parse_kinds, states


def rotated(word: str, places: int) -> str:
    places %= len(word)
    return word[-places:] + word[:-places] if places else word


def read(kind: str, x: int, L: int, cb: int, k: int) -> int:
    """The output of a state, by cutting its bits, highest first, out of a string."""
    bits = f"{x:0{L}b}"
    v = int(bits[:cb] or "0", 2)

    def folded(shift: int) -> str:
        shifted = ("0" * shift + bits)[:L]
        return "0" * k + "".join("01"[one != other] for one, other in zip(bits, shifted, strict=True))

    def window(word: str, lowest: int) -> str:
        return word[len(word) - lowest - k : len(word) - lowest]

    if kind == "LCG":
        return x
    if kind == "TLCG":
        return int(bits[:k], 2)
    if kind == "RS":
        return int(bits[cb + v : cb + v + k], 2)
    if kind == "RR":
        return int(rotated(bits[cb : cb + k], v), 2)
    if kind == "XSHRR":
        return int(rotated(window(folded((k + cb) // 2), k - cb), v), 2)
    if kind == "XSHRS":
        shift = k - cb - 2**cb + 1
        return int(window(folded(shift), shift + v), 2)
    return int(rotated(window(folded(L // 2), 0), v), 2)


def stepped(generator: Generator, x: int, a: int, c: int, length: int) -> list[int]:
    numbers = []
    for _ in range(length):
        x = (a * x + c) % generator.m
        numbers.append(read(generator.kind, x, generator.state_bits, generator.control_bits, generator.k))
    return numbers


@st.composite
def generators(draw, most_bits=66, kinds=KINDS):
    L = draw(st.integers(1, most_bits))
    m = draw(st.sampled_from([2**L, 2 ** (L - 1) + 1, 2**L - 1]) | st.integers(2 ** (L - 1) + 1, 2**L))
    kind = draw(st.sampled_from(kinds))
    cb = 0 if kind in ("LCG", "TLCG") else draw(st.integers(0, 6))
    k = {"LCG": None, "XSLRR": None}.get(kind, draw(st.integers(1, L)))
    try:
        return Generator(kind, m, cb, k)
    except ValueError:
        assume(False)


def rows(generator: Generator, values: list[int], dtype: str | None = None) -> np.ndarray:
    return np.array([value % generator.m for value in values], dtype=dtype or generator.dtype)


big = st.integers(0, 2**66)


@settings(max_examples=400, deadline=None)
@given(
    generator=generators(), starts=st.lists(st.tuples(big, big, big), min_size=1, max_size=4), length=st.integers(1, 40)
)
def test_vectorised_equals_stepping_with_python_integers_over_the_whole_domain(generator, starts, length):
    x0, a, c = ([start[i] % generator.m for start in starts] for i in range(3))
    expected = [stepped(generator, *start, length) for start in zip(x0, a, c, strict=True)]
    arrays = [rows(generator, values) for values in (x0, a, c)]
    assert generator.sequences(*arrays, length).tolist() == expected
    assert generator.sequences(*(rows(generator, v, "object") for v in (x0, a, c)), length).tolist() == expected
    if generator.dtype != "object":
        tensors = generator.sequences(*map(torch.from_numpy, arrays), length)
        assert tensors.tolist() == expected
        assert tensors.dtype is getattr(torch, generator.dtype)
    assert max(map(max, expected)) <= generator.largest


@pytest.mark.parametrize("m", [2, 3, 2**31 - 1, 2**31, 2**31 + 1, 46_341, 46_342, 3_037_000_500, 3_037_000_501])
@pytest.mark.parametrize("power", [1, 2])
def test_the_largest_products_of_each_type_are_exact(m, power):
    m = min(m**power, 2**63)
    top = [m - 1] * 3
    generator = Generator("LCG", m)
    assert generator.sequences(*(rows(generator, [x]) for x in top), 20)[0].tolist() == stepped(generator, *top, 20)


@pytest.mark.parametrize("seed", range(5))
def test_xslrr_of_128_bits_is_numpys_pcg64(seed):
    theirs = np.random.PCG64(seed)
    state = theirs.state["state"]
    generator = Generator("XSLRR", 2**128, control_bits=6)
    a = 0x2360ED051FC65DA44385DF649FCCF645  # PCG_DEFAULT_MULTIPLIER_128 of pcg-c
    x0, a, c = (np.array([value], dtype=object) for value in (state["state"], a, state["inc"]))
    assert generator.sequences(x0, a, c, 64)[0].tolist() == theirs.random_raw(64).tolist()


def test_xshrr_of_64_bits_gives_the_published_numbers_of_pcg32():
    """pcg32-demo, seed 42, sequence 54 (pcg-random.org). It reads the state before the step; ours after, hence 151."""
    generator = Generator("XSHRR", 2**64, control_bits=5)
    x0, a, c = (np.array([value], dtype=object) for value in (42 + 109, 6364136223846793005, 2 * 54 + 1))
    published = [0xA15C02B7, 0x7B47F409, 0xBA1D3330, 0x83D2F293, 0xBFA4784B, 0xCBED606E]
    assert generator.sequences(x0, a, c, 6)[0].tolist() == published


def test_the_states_of_an_example_done_by_hand():
    x0, a, c = (np.array([value]) for value in (7, 5, 3))
    assert states(256, x0, a, c, 5).tolist() == [[38, 193, 200, 235, 154]]


@given(base=st.integers(2, 2000), count=st.integers(1, 70), data=st.data())
def test_digits_lowest_first_give_the_number_back(base, count, data):
    top = base**count - 1
    numbers = data.draw(st.lists(st.integers(0, top), min_size=1, max_size=5))
    dtype = "object" if top >= 2**63 else "int64"
    tokens = digits(np.array([numbers], dtype=dtype), base, count)
    assert tokens.dtype == np.int64
    assert tokens.min() >= 0
    assert tokens.max() < base
    for i, number in enumerate(numbers):
        assert sum(int(t) * base**j for j, t in enumerate(tokens[0, i * count : (i + 1) * count])) == number
    if dtype == "int64":
        assert digits(torch.tensor([numbers]), base, count).tolist() == tokens.tolist()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("XSLRR", ["XSLRR"]),
        ("xslrr", ["XSLRR"]),
        ("TLCG+xshrr", ["TLCG", "XSHRR"]),
        ("XSPCGs", ["XSLRR", "XSHRR", "XSHRS"]),
    ],
)
def test_names_in_any_case(text, kinds):
    assert parse_kinds(text) == kinds


@pytest.mark.parametrize("text", ["XSLR", "", "LCG+", "PCGs", "LCG+lcg", "LCG,RS"])
def test_names_that_do_not_exist_are_refused(text):
    with pytest.raises(ValueError, match=r"no generator|twice"):
        parse_kinds(text)


@pytest.mark.parametrize(
    ("kind", "m", "cb", "k"),
    [
        ("RS", 2**16, 3, 8),  # 16 > 7 + 8, but the window of v = 7 would start at bit -2
        ("RR", 2**16, 3, 14),
        ("RR", 2**16, 3, 7),
        ("XSHRR", 2**16, 5, 4),
        ("XSHRR", 2**16, 2, 14),
        ("XSHRS", 2**16, 2, 5),
        ("XSLRR", 2**16, 17, None),
        ("XSLRR", 2**16, 3, 9),
        ("XSLRR", 2, 1, None),
        ("LCG", 2**16, 3, None),
        ("LCG", 2**16, 0, 9),
        ("TLCG", 2**16, 0, 17),
        ("TLCG", 2**16, 0, 0),
        ("TLCG", 1, 0, None),
        ("XSLRR", 2**16, -1, None),
    ],
)
def test_what_lies_outside_the_real_domain_is_refused(kind, m, cb, k):
    with pytest.raises(ValueError, match=r"needs|keeps|use at least"):
        Generator(kind, m, cb, k)


@pytest.mark.parametrize("kind", ["RS", "RR"])
def test_the_domain_is_as_wide_as_the_windows_allow(kind):
    """Every (L, cb, k) is accepted if and only if all windows lie inside the state, under the control bits."""
    for L in range(1, 13):
        for cb in range(6):
            for k in range(1, L + 1):
                values = range(2**cb)
                inside = all(L - k - cb - (v if kind == "RS" else 0) >= 0 for v in values)
                inside &= kind == "RS" or all(v < k for v in values)
                try:
                    Generator(kind, 2**L, cb, k)
                    accepted = True
                except ValueError:
                    accepted = False
                assert accepted == inside, (L, cb, k)
