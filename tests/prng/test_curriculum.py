"""Traces of learning rates and weights that were computed by hand, or with the earlier system where it was right."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prng.curriculum import Phase

DOCUMENTED = {"start_weights": [0.001, 0.999], "end_weights": [0.0, 1.0], "transition": "exp"}


def first_share(phase, *updates):
    return [float(phase.weights(update, 2)[0]) for update in updates]


def test_exp_as_documented_falls_short_and_jumps():
    phase = Phase(phase_steps=4000, transition_steps=4000, exp_jump=True, **DOCUMENTED)
    assert first_share(phase, 0, 1000, 3999, 4000) == pytest.approx([0.001, 0.000472, 0.00004979, 0], abs=5e-7)


def test_exp_by_default_ends_at_its_end_weights():
    phase = Phase(phase_steps=5000, transition_steps=4000, **DOCUMENTED)
    assert first_share(phase, 0, 4000, 4999) == [0.001, 0, 0]
    assert first_share(phase, 3999)[0] < 1e-7
    assert first_share(phase, 1000)[0] == pytest.approx(0.001 * (1 - (1 - math.exp(-0.75)) / (1 - math.exp(-3))))


@pytest.mark.parametrize("rate", [1e-6, 1e-20, 1e-300])
def test_exp_at_the_lowest_rates_is_a_line(rate):
    weights = {"start_weights": [1.0, 0.0], "end_weights": [0.0, 1.0]}
    phase = Phase(phase_steps=5, transition_steps=4, transition="exp", exp_rate=rate, **weights)
    assert first_share(phase, *range(5)) == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("transition", "expected"),
    [
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, 1 - (1 - math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
        ("step", [1, 1, 1, 0, 0]),
    ],
)
def test_the_course_of_the_other_transitions(transition, expected):
    weights = {"start_weights": [1.0, 0.0], "end_weights": [0.0, 1.0]}
    phase = Phase(phase_steps=5, transition_steps=4, transition=transition, **weights)
    assert first_share(phase, *range(5)) == pytest.approx(expected)


def test_weights_are_normalised_and_equal_if_none_are_given():
    assert Phase(phase_steps=1).weights(0, 4).tolist() == [0.25] * 4
    assert Phase(phase_steps=1, end_weights=[2.0, 6.0]).weights(0, 2).tolist() == [0.25, 0.75]
    moving = Phase(phase_steps=9, transition_steps=8, start_weights=[2.0, 2.0], end_weights=[0.0, 4.0])
    assert moving.weights(4, 2).tolist() == [0.25, 0.75]


def test_weights_change_only_every_so_many_updates():
    phase = Phase(phase_steps=100, transition_steps=100, start_weights=[1.0, 0.0], end_weights=[0.0, 1.0])
    for update in range(100):
        assert np.array_equal(phase.weights(update, 2, interval=30), phase.weights(update // 30 * 30, 2))


@given(
    p=st.integers(0, 200),
    transition=st.sampled_from(["linear", "cosine", "exp", "step"]),
    jump=st.booleans(),
    rate=st.floats(0.1, 10),
    start=st.lists(st.floats(0.01, 5), min_size=3, max_size=3),
    end=st.lists(st.floats(0.01, 5), min_size=3, max_size=3),
)
def test_weights_sum_to_one_and_stay_between_their_ends(p, transition, jump, rate, start, end):
    total = sum(start)
    start, end = [w / total for w in start], [w / sum(end) for w in end]
    phase = Phase(
        phase_steps=201,
        transition_steps=150,
        transition=transition,
        exp_jump=jump,
        exp_rate=rate,
        start_weights=start,
        end_weights=end,
    )
    now = phase.weights(p, 3)
    assert now.sum() == pytest.approx(1)
    for low, high, value in zip(np.minimum(start, end), np.maximum(start, end), now, strict=True):
        assert low - 1e-12 <= value <= high + 1e-12


def test_learning_rates_follow_the_verified_trace():
    """40 updates with 5 of warm-up, then 10 of cosine, at a peak of 1 (spec of the earlier system, section 4)."""
    one = Phase(phase_steps=40, warmup_steps=5)
    two = Phase(phase_steps=10, lr_decay="cosine")
    trace = [one.lr(u, 1.0, 0.0) for u in range(40)] + [two.lr(u, 1.0, 0.0) for u in range(10)]
    assert trace[:7] == pytest.approx([0.0001, 0.2001, 0.4001, 0.6, 0.8, 1, 1], abs=5e-5)
    assert trace[5:41] == [1] * 36
    assert trace[41:43] == pytest.approx([0.9755, 0.9045], abs=5e-5)
    assert trace[49] == pytest.approx(0.0245, abs=5e-5)


def test_cosine_ends_at_the_lowest_rate():
    phase = Phase(phase_steps=100, warmup_steps=10, lr_decay="cosine")
    rates = [phase.lr(u, 0.5, 0.1) for u in range(100)]
    assert rates[10] == 0.5
    assert rates[55] == pytest.approx(0.3)
    assert phase.lr(100, 0.5, 0.1) == pytest.approx(0.1)
    assert min(rates[10:]) > 0.1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"end_weights": [0.0, 0.0]}, "sum to 0"),
        ({"start_weights": []}, "sum to 0"),
        ({"end_weights": [1e308, 1e308, 0.0]}, "sum to inf"),
        ({"warmup_steps": 10}, "warmup_steps is 10, but the phase has 10"),
        ({"transition_steps": 11}, "transition_steps is 11"),
        ({"end_weights": [-1.0, 2.0]}, "greater than or equal to 0"),
        ({"transition": "exponential"}, "linear"),
    ],
)
def test_what_cannot_be_a_phase_is_refused(keys, words):
    with pytest.raises(ValidationError, match=words):
        Phase(phase_steps=10, **keys)
