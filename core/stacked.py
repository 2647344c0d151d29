"""N models of one shape as one model, whose parameters have a further, first dimension, and which reads N batches.

N models, B batch of each, T tokens, C channels, M scored positions of each, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.batch import IGNORE, Rows, SupervisedBatch
from core.loss import LARGE_VOCABULARY, cross_entropy_sum
from core.model import GPT, LanguageModel, Linear


class StackedLinear(nn.Module):
    """N linear maps. Rows of the first model come first: x is (N * anything, ..., in)."""

    def __init__(self, like: nn.Linear, number: int):
        super().__init__()
        self.weight = nn.Parameter(like.weight.new_empty(number, *like.weight.shape))
        self.bias = None if like.bias is None else nn.Parameter(like.bias.new_empty(number, *like.bias.shape))

    def forward(self, x: Tensor, outputs: slice | None = None) -> Tensor:
        weight, bias = (p if p is None or outputs is None else p[:, outputs] for p in (self.weight, self.bias))
        rows = x.reshape(len(weight), -1, x.shape[-1])
        y = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
        return y.reshape(*x.shape[:-1], y.shape[-1])


class StackedEmbedding(nn.Module):
    def __init__(self, like: nn.Embedding, number: int):
        super().__init__()
        self.weight = nn.Parameter(like.weight.new_empty(number, *like.weight.shape))

    def forward(self, ids: Tensor) -> Tensor:
        N, V, _ = self.weight.shape
        first = torch.arange(0, N * V, V, device=ids.device).repeat_interleave(len(ids) // N)
        return F.embedding(ids + first.unsqueeze(1), self.weight.flatten(0, 1))


class StackedLayerNorm(nn.Module):
    def __init__(self, like: nn.LayerNorm, number: int):
        super().__init__()
        self.eps = like.eps
        self.weight, self.bias = (nn.Parameter(p.new_empty(number, *p.shape)) for p in (like.weight, like.bias))

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x, x.shape[-1:], eps=self.eps).reshape(len(self.weight), -1, x.shape[-1])
        y = y * self.weight.unsqueeze(1) + self.bias.unsqueeze(1)  # the gradient of addcmul is more operations
        return y.reshape(x.shape)


STACKED = {
    nn.Linear: StackedLinear,
    Linear: StackedLinear,
    nn.Embedding: StackedEmbedding,
    nn.LayerNorm: StackedLayerNorm,
}


class StackedGPT(GPT):
    """N GPTs of one shape side by side. From now on their parameters are views into those of the stack, which have the
    same names: to move the stack is to move each of them.

    Raises ValueError for dropout: one stream of random numbers cannot be that of each model.
    """

    def __init__(self, models: Sequence[LanguageModel]):
        first, number = models[0], len(models)
        assert isinstance(first, GPT)
        if first.config.dropout:
            raise ValueError("models side by side cannot draw the dropout that each would draw alone")
        with torch.device("meta"):
            super().__init__(first.config)
            for module in list(self.modules()):
                for name, part in module.named_children():
                    if type(part) in STACKED:
                        setattr(module, name, STACKED[type(part)](part, number))
        self.number = number
        self.load_state_dict(self._take(models), assign=True)
        for name, like in first.named_parameters():
            self.get_parameter(name).requires_grad_(like.requires_grad)
        if first.config.positions == "rope":
            self.cos, self.sin = first.cos, first.sin

    def _take(self, models: Sequence[LanguageModel]) -> dict[str, nn.Parameter]:
        """The models' parameters as ones of the stack, of which theirs become views."""
        stack = {}
        for name, _ in models[0].named_parameters():
            own = [model.get_parameter(name) for model in models]
            stack[name] = nn.Parameter(torch.stack([p.detach() for p in own]))
            for p, view in zip(own, stack[name].detach(), strict=True):
                p.data = view
        return stack | ({"head.weight": stack["wte.weight"]} if self.config.tied else {})

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor | None = None,
        rows: Rows | None = None,
        labels: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """As GPT's, of a batch that `side_by_side` made; given labels, the loss of each model, (N,)."""
        x = self.hidden(input_ids, positions, rows, first)
        if labels is None:
            return self.head(x)
        if self.num_tokens >= LARGE_VOCABULARY:
            each = zip(x.chunk(self.number), self.head.weight, labels.chunk(self.number), strict=True)
            return torch.stack([cross_entropy_sum(*one, self.compiles) for one in each])
        return F.cross_entropy(self.head(x).float(), labels, reduction="none").view(self.number, -1).sum(dim=1)

    def add_positions(self, x: Tensor, place: slice | Tensor) -> Tensor:
        table = self.position_table()[:, place]  # (N, T, C)
        return (x.unflatten(0, (self.number, -1)) + table.unsqueeze(1)).flatten(0, 1)


def side_by_side(batches: Sequence[SupervisedBatch]) -> SupervisedBatch:
    """The N batches of N models as one of N * B rows, for `StackedGPT`; each needs B rows.

    Shorter rows are filled up on the right, where a causal model never looks, and fewer scored positions with the first
    one, which is not scored again.
    """
    B, T = len(batches[0].input_ids), max(batch.input_ids.shape[1] for batch in batches)
    M = max(len(batch.labels) for batch in batches)
    batches = [_filled_up(batch, T, M) for batch in batches]
    ids, positions, labels = (torch.cat(same) for same in zip(*(batch.tensors for batch in batches), strict=True))
    context = torch.arange(0, len(batches) * B * T, B * T, device=ids.device)
    positions = (positions.view(-1, M) + context.unsqueeze(1)).flatten()
    return SupervisedBatch(ids, positions, labels, first=min(batch.first for batch in batches))


def _filled_up(batch: SupervisedBatch, T: int, M: int) -> SupervisedBatch:
    own, missing = batch.input_ids.shape[1], M - len(batch.labels)
    if own < T:
        positions = batch.positions // own * T + batch.positions % own
        batch = batch._replace(input_ids=F.pad(batch.input_ids, (0, T - own)), positions=positions)
    if missing:
        positions = torch.cat([batch.positions, batch.positions[:1].expand(missing)])
        batch = batch._replace(positions=positions, labels=F.pad(batch.labels, (0, missing), value=IGNORE))
    return batch
