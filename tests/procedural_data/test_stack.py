import numpy as np
import pytest

from procedural_data.stack import POP, Stack

TASK = Stack(seq_length=4, vocab_size=6)


def operations(task: Stack, size: int) -> np.ndarray:
    return task.sample(np.random.default_rng(0), size).input_ids.numpy()[:, : task.seq_length]


def depths(programs: np.ndarray) -> np.ndarray:
    """Symbols on the stack after each operation."""
    return np.cumsum(np.where(programs == POP, -1, 1), axis=1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([4, 1, 3, 0, 6, 4, 1, 7], "place 1 of the answer holds 4; it should hold 1"),
        ([4, 1, 3, 0, 6, 1, 7, 7], "the answer has 1 items; it should have 2"),
        ([4, 1, 3, 2, 6, 2, 3, 1], "the last operation pushes 2 on a stack of 3; it should pop"),
        ([4, 1, 4, 0, 6, 1, 4, 7], "operation 3 pushes 4, which is on the stack already"),
        ([4, 0, 3, 2, 6, 2, 3, 7], "operation 2 pops a stack of 1"),
        ([0, 4, 3, 2, 6, 2, 3, 4], "operation 1 pops a stack of 0"),
    ],
)
def test_check_runs_the_program_and_rejects_what_the_law_excludes(row, message):
    TASK.check([4, 1, 3, 0, 6, 1, 4, 7])
    TASK.check([4, 1, 0, 1, 6, 1, 4, 7])  # a symbol that was popped is free again
    with pytest.raises(ValueError, match=message):
        TASK.check(row)


def test_check_wants_the_last_operation_to_pop_two_symbols_to_one():
    task = Stack(seq_length=5, vocab_size=6)
    task.check([4, 1, POP, 2, POP, 6, 4, 7, 7, 7])
    with pytest.raises(ValueError, match="the last operation pushes 3 on a stack of 2; it should pop"):
        task.check([4, 1, POP, 2, 3, 6, 3, 2, 4, 7])


def test_depths_are_those_of_the_documented_size():
    depth = depths(operations(Stack(), 20_000))
    assert depth[:, -1].mean() == pytest.approx(11.1, abs=0.2)
    assert depth.max(axis=1).mean() == pytest.approx(23.2, abs=0.2)
    assert (depth[:, -1] % 2 == 0).all()


def test_pushes_are_three_to_one_during_two_thirds_and_one_to_three_after():
    programs = operations(Stack(), 20_000)
    before = depths(programs)[:, :-1]
    for t in (2, 30, 41, 42, 50, 62):  # floor(2 * 64 / 3) = 42
        free_to_choose = before[:, t - 1] > 1
        pushed = (programs[free_to_choose, t] != POP).mean()
        assert abs(pushed - (0.75 if t < 42 else 0.25)) < 4.5 * np.sqrt(0.1875 / free_to_choose.sum())


def test_a_stack_of_at_most_one_symbol_is_pushed_upon():
    programs = operations(Stack(), 20_000)
    before = np.pad(depths(programs)[:, :-1], ((0, 0), (1, 0)))
    assert (programs[before <= 1] != POP).all()
    assert (programs[:, -1][before[:, -1] > 1] == POP).all()


def test_a_push_draws_uniformly_from_the_symbols_that_are_not_on_the_stack():
    programs = operations(Stack(seq_length=6, vocab_size=6), 200_000)
    third = programs[(programs[:, :2] == [2, 5]).all(axis=1)][:, 2]
    after_a_pop = programs[(programs[:, :3] == [2, 5, POP]).all(axis=1)][:, 3]
    for pushed, free in [
        (programs[:, 0], [1, 2, 3, 4, 5]),
        (third[third != POP], [1, 3, 4]),
        (after_a_pop, [1, 3, 4, 5]),
    ]:
        counts = np.bincount(pushed, minlength=6)
        assert [symbol for symbol in range(6) if counts[symbol]] == free
        expected = len(pushed) / len(free)
        assert np.abs(counts[free] - expected).max() < 4.5 * np.sqrt(expected)


def test_a_full_stack_is_popped():
    programs = operations(Stack(seq_length=12, vocab_size=4), 5_000)
    depth = depths(programs)
    assert depth.max() == 3
    assert (programs[:, 1:][depth[:, :-1] == 3] == POP).all()


def test_pop_is_token_0():
    assert TASK.token_name(0) == "POP"
    assert TASK.token_name(1) == "1"
