"""Continuations against one row at a time, token by token."""

import pytest
import torch

from core.generate import continuations
from core.model import GPT, GPTConfig

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1, 2], [3, 3]]


@pytest.fixture
def model() -> GPT:
    made = GPT(GPTConfig(num_tokens=10, n_positions=12, n_layer=2, n_head=2, n_embd=16), seed=1)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(8)  # so that logits differ
    return made


@torch.no_grad()
def greedy(model: GPT, prompt: list[int], stop: int | None, most: int) -> list[int]:
    row = list(prompt)
    while len(row) - len(prompt) < most and len(row) < 12:
        row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
        if row[-1] == stop:
            break
    return row[len(prompt) :]


@pytest.mark.parametrize("stop", [None, 0, 3, 8])
@pytest.mark.parametrize("most", [None, 0, 1, 4])
def test_together_prompts_continue_as_each_does_alone(model, stop, most):
    expected = [greedy(model, prompt, stop, 99 if most is None else most) for prompt in PROMPTS]
    assert continuations(model, PROMPTS, stop=stop, most=most) == expected
    assert model.training


def test_draws_follow_the_models_law_and_the_generator(model):
    law = (model(torch.tensor([PROMPTS[0]]))[0, -1] / 2.0).softmax(-1)
    generator = torch.Generator().manual_seed(0)
    drawn = continuations(model, [PROMPTS[0]] * 4000, most=1, temperature=2.0, generator=generator)
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=10) / 4000
    assert (counts - law).abs().max() < 0.04
    again = [
        continuations(model, PROMPTS, temperature=1.0, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    ]
    assert again[0] == again[1]
