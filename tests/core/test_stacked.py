"""Models side by side compute what each computes alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_

from core import loss, optim
from core.batch import IGNORE, Batch, concatenate
from core.distributed import World
from core.evaluate import Evaluation, answered_by, matching, measure_abreast
from core.loss import LARGE_VOCABULARY
from core.model import GPT, GPTConfig, loss_sum
from core.replicas import clip_each_
from core.stacked import StackedGPT, side_by_side


def models(number: int, **changes) -> list[GPT]:
    shape = {"num_tokens": 13, "n_positions": 12, "n_layer": 2, "n_head": 2, "n_embd": 16, **changes}
    return [GPT(GPTConfig(**shape), seed=seed).double() for seed in range(number)]


def ragged(lengths: list[int], num_tokens: int, seed: int = 0) -> list[Batch]:
    """A batch of three rows for each length, with other positions scored in each, at least one."""
    draw = torch.Generator().manual_seed(seed)
    batches = []
    for length in lengths:
        ids = torch.randint(0, num_tokens, (3, length), generator=draw)
        targets = torch.where(torch.rand(3, length, generator=draw) < 0.4, ids, IGNORE)
        targets[-1, -1] = 1
        batches.append(Batch(ids, targets))
    return batches


def assert_same_as_alone(alone: list[GPT], stacked: list[GPT], batches: list[Batch]) -> None:
    supervised = [batch.supervised() for batch in batches]
    stack = StackedGPT(stacked)
    losses = loss_sum(stack, side_by_side(supervised))
    losses.sum().backward()
    for number, (model, batch) in enumerate(zip(alone, supervised, strict=True)):
        own = loss_sum(model, batch)
        own.backward()
        # what a GPT hands over as float32 is rounded there, and what comes back through it
        torch.testing.assert_close(losses[number], own, atol=1e-5, rtol=1e-6)
        for name, parameter in model.named_parameters():
            mine = stack.get_parameter(name).grad[number]
            torch.testing.assert_close(mine, parameter.grad, atol=2e-7, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    positions=st.sampled_from(["learned", "rope"]),
    tied=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_losses_and_gradients_are_those_of_each_model_alone(lengths, positions, tied, seed):
    alone, stacked = (models(len(lengths), positions=positions, tied=tied) for _ in range(2))
    assert_same_as_alone(alone, stacked, ragged(lengths, 13, seed))


@pytest.mark.parametrize("changes", [{"tokens_per_number": 3}, {"num_tokens": LARGE_VOCABULARY, "n_embd": 8}])
def test_positions_by_digit_and_large_vocabularies(changes):
    alone, stacked = (models(2, **changes) for _ in range(2))
    assert_same_as_alone(alone, stacked, ragged([12, 7], changes.get("num_tokens", 13)))


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 12), min_size=3, max_size=3), min_size=1, max_size=3),
    num_tokens=st.sampled_from([5, LARGE_VOCABULARY]),
    rows=st.integers(2, 40),
)
def test_evaluations_side_by_side_are_those_of_each_model_alone(lengths, num_tokens, rows):
    shape = {"num_tokens": num_tokens, "n_embd": 8}
    alone, stacked = (models(len(lengths), **shape) for _ in range(2))
    evaluations = [Evaluation(ragged(own, num_tokens, seed), World()) for seed, own in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(loss.ROWS_AT_A_TIME, "cpu", rows)
        together = measure_abreast(StackedGPT(stacked), matching(evaluations))
    for metrics, evaluation, model in zip(together, evaluations, alone, strict=True):
        assert metrics == pytest.approx(evaluation(model), abs=1e-5)


def test_only_evaluations_of_equally_many_rows_match():
    few, many = (Evaluation([batch], World()) for batch in (ragged([5], 9)[0], concatenate(ragged([5, 5], 9))))
    assert matching([few, few]) == [few, few]
    assert matching([few, many]) is None
    assert matching([few, lambda model: {}]) is None


def test_each_is_sent_what_it_asked_for_and_may_end_before_the_others():
    def asking(name: str, times: int):
        answers = []
        for turn in range(times):
            answers.append((yield f"{name}{turn}"))
        return answers

    asked = []

    def answer(questions):
        asked.append(questions)
        return {number: question.upper() for number, question in questions.items()}

    results = answered_by([asking("a", 1), asking("b", 3), asking("c", 0), "measured by itself"], answer)
    assert results == [["A0"], ["B0", "B1", "B2"], [], "measured by itself"]
    assert asked == [{0: "a0", 1: "b0"}, {1: "b1"}, {1: "b2"}]


def test_to_move_the_stack_is_to_move_each_model():
    each = models(3)
    before = [model.blocks[0].mlp.up.weight.clone() for model in each]
    stack = StackedGPT(each)
    assert all(torch.equal(model.blocks[0].mlp.up.weight, b) for model, b in zip(each, before, strict=True))
    with torch.no_grad():
        stack.blocks[0].mlp.up.weight[1] += 1
        stack.wte.weight[2] *= 2
    assert [torch.equal(m.blocks[0].mlp.up.weight, b) for m, b in zip(each, before, strict=True)] == [True, False, True]
    assert torch.equal(each[2].head.weight, stack.wte.weight[2]), "tied"


def test_frozen_parameters_stay_frozen():
    each = models(2)
    for model in each:
        model.wpe.weight.requires_grad_(False)
    assert not StackedGPT(each).wpe.weight.requires_grad


def test_a_model_of_not_a_number_leaves_the_others_alone():
    alone, stacked = models(3), models(3)
    with torch.no_grad():
        stacked[1].wte.weight.fill_(torch.nan)
    batches = [batch.supervised() for batch in ragged([5, 5, 5], 13)]
    stack = StackedGPT(stacked)
    losses = loss_sum(stack, side_by_side(batches))
    losses.sum().backward()
    norms = clip_each_(list(stack.parameters()), 1.0)
    assert losses.isfinite().tolist() == norms.isfinite().tolist() == [True, False, True]
    assert all(p.grad[[0, 2]].isfinite().all() for p in stack.parameters())
    torch.testing.assert_close(losses[2], loss_sum(alone[2], batches[2]))


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, float("inf")])
def test_each_is_clipped_by_its_own_norm(max_norm):
    alone, stack = models(3), StackedGPT(models(3))
    draw = torch.Generator().manual_seed(1)
    for name, parameter in stack.named_parameters():
        sizes = torch.tensor([0.0, 0.01, 10.0]).view(3, *[1] * (parameter.dim() - 1))
        parameter.grad = torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * sizes
        for number, model in enumerate(alone):
            model.get_parameter(name).grad = parameter.grad[number].clone()
    norms = clip_each_(list(stack.parameters()), max_norm)
    for number, model in enumerate(alone):
        torch.testing.assert_close(norms[number], clip_grad_norm_(model.parameters(), max_norm))
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(stack.get_parameter(name).grad[number], parameter.grad)


def test_one_adamw_goes_on_from_those_of_each_and_moves_their_states():
    alone, stacked = models(2), models(2)
    batches = [batch.supervised() for batch in ragged([6, 6], 13)]
    optimizers = {id(m): optim.adamw(m, lr=1e-2, weight_decay=0.1) for m in alone + stacked}

    def step_alone(each):
        for model, batch in zip(each, batches, strict=True):
            loss_sum(model, batch).backward()
            optimizers[id(model)].step()
            optimizers[id(model)].zero_grad()

    step_alone(alone)
    step_alone(stacked)
    stack = StackedGPT(stacked)
    joint = optim.stacked([(model, optimizers[id(model)]) for model in stacked], stack)
    for _ in range(2):
        step_alone(alone)
        loss_sum(stack, side_by_side(batches)).sum().backward()
        joint.step()
        joint.zero_grad()
    for one, other in zip(alone, stacked, strict=True):
        mine, theirs = (optim.state_tensors(optimizers[id(m)], m) for m in (one, other))
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            torch.testing.assert_close(theirs[key], value, atol=1e-6, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}")
        for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(b, a, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_dropout_is_refused():
    with pytest.raises(ValueError, match="dropout"):
        StackedGPT(models(2, dropout=0.1))
