"""What a model writes after a prompt."""

from collections.abc import Sequence

import torch

from core.model import LanguageModel, evaluating


@torch.no_grad()
def continuations(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    stop: int | None = None,
    most: int | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """The tokens that follow each prompt, which has at least one token; all prompts are continued at once.

    The likeliest token each time at `temperature` 0, else one drawn by `generator` from the logits divided by it. A
    continuation ends with the token `stop`, or without it after `most` tokens or where the model has no more positions.
    """
    device = next(model.parameters()).device
    rows = [list(prompt) for prompt in prompts]
    room = [model.n_positions - len(row) for row in rows]
    left = [space if most is None else min(most, space) for space in room]
    live = [i for i, tokens in enumerate(left) if tokens > 0]
    with evaluating(model):
        while live:
            longest = max(len(rows[i]) for i in live)
            ids = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in live], device=device)
            last = torch.tensor([n * longest + len(rows[i]) - 1 for n, i in enumerate(live)], device=device)
            for i, token in zip(live, _choose(model(ids, last), temperature, generator), strict=True):
                rows[i].append(token)
                left[i] -= 1
            live = [i for i in live if left[i] > 0 and rows[i][-1] != stop]
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> list[int]:
    if temperature == 0:
        return logits.argmax(dim=-1).tolist()
    chances = (logits.double() / temperature).softmax(dim=-1).cpu()  # drawn on the CPU: the same on every device
    return torch.multinomial(chances, 1, generator=generator).squeeze(1).tolist()
