import pytest

from procedural_data.eca import Eca

# Wolfram, A New Kind of Science (2002), p. 32: rule 110 from one black cell, which it extends to the left
RULE_110 = ["00000001", "00000011", "00000111", "00001101", "00011111", "00110001", "01110011"]
RULE_30 = ["00001000", "00011100", "00110010", "01101111"]  # p. 27: to both sides


def sequence(states: list[str]) -> list[int]:
    return [{"0": 0, "1": 1, "|": 2}[cell] for cell in "|".join(states)]


@pytest.mark.parametrize(("rule", "states"), [(110, RULE_110), (30, RULE_30)])
def test_check_agrees_with_published_states(rule, states):
    Eca(rule=rule, width=8, seq_length=len(states)).check(sequence(states))
    wrong = [*states[:-1], states[-1][:-1] + {"0": "1", "1": "0"}[states[-1][-1]]]
    with pytest.raises(ValueError, match=rf"cell 7 of state {len(states)} is {wrong[-1][-1]}"):
        Eca(rule=rule, width=8, seq_length=len(states)).check(sequence(wrong))


def test_check_wants_states_of_equal_width():
    with pytest.raises(ValueError, match=r"states of \[7, 9\] cells, not 2 of 8"):
        Eca(width=8, seq_length=2).check(sequence(["0000000", "000000000"]))
