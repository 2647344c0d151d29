"""Cross-entropy of an output projection whose logits never exist all at once. N positions, C channels, V vocabulary."""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value
from torch.nn import functional as F

from core.batch import IGNORE

LARGE_VOCABULARY = 4096  # from here on logits take more memory than everything else, and more time than they need
ROWS_AT_A_TIME = {"cpu": 256, "cuda": 4096}  # positions whose logits then exist; fewer leave a GPU idle
COMPILED = {"cpu": 1, "cuda": 2}  # times as many, as less passes in the kernel that a compiler makes
ALIGNED = {"cpu": 1, "cuda": 64}  # a multiple of which the vocabulary is filled up to: a GPU loads many at a time


def in_parts(x: Tensor, labels: Tensor, compiles: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Positions x (..., N, C) and their labels (..., N), as many at a time as may have logits."""
    most = ROWS_AT_A_TIME[x.device.type] * (COMPILED[x.device.type] if compiles else 1)
    rows = max(1, most // math.prod(labels.shape[:-1]))
    return list(zip(x.split(rows, dim=-2), labels.split(rows, dim=-1), strict=True))


def cross_entropy_sum(x: Tensor, weight: Tensor, labels: Tensor, compiles: bool = False) -> Tensor:
    """Cross-entropy of the logits x (N, C) times weight (V, C) against labels (N,), in nats, summed, float32.

    With a large vocabulary it is computed some positions at a time, so that its memory does not grow with their number.
    """
    if len(weight) < LARGE_VOCABULARY:
        return _of_rows(x, weight, labels)
    if torch.is_autocast_enabled(x.device.type):  # which would cast the weights anew for each part
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    loss: Tensor = _InParts.apply(x, weight, labels, compiles)
    return loss


def _of_rows(x: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.cross_entropy(F.linear(x, weight, bias).float(), labels, reduction="sum")


def _gradients(x: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Of `_of_rows` with respect to x and the weight, and its value, for a compiler, which makes one kernel of all
    between the matrix products. What autograd derives goes over the logits once more."""
    logits = F.linear(x, weight, bias).float()
    log_normaliser = logits.logsumexp(dim=1, keepdim=True)
    is_label = torch.arange(len(weight), device=x.device) == labels.unsqueeze(1)
    is_scored = (labels != IGNORE).unsqueeze(1)
    by_logits = (((logits - log_normaliser).exp() - is_label.float()) * is_scored).to(x.dtype)
    losses = log_normaliser - logits.gather(1, labels.clamp(min=0).unsqueeze(1))
    return (by_logits @ weight, by_logits.mT @ x), (losses * is_scored).sum()


def _filled(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """The weight with rows for ids that do not exist, and a bias by which those have no probability."""
    fillers = -len(weight) % ALIGNED[weight.device.type]
    if not fillers:
        return weight, None
    bias = weight.new_zeros(len(weight) + fillers)
    bias[-fillers:] = torch.finfo(weight.dtype).min
    return F.pad(weight, (0, 0, 0, fillers)), bias


@cache
def _gradients_of(compiles: bool) -> Any:
    """A function of what `_of_rows` takes, to its gradients with respect to x and the weight, and what it gives."""
    return torch.compile(_gradients) if compiles else grad_and_value(_of_rows, argnums=(0, 1))


class _InParts(torch.autograd.Function):
    """Gradients are made on the way forward, while the logits of a part are there, and added up in float32.

    PyTorch 2.13 has `linear_cross_entropy`, which sums the loss in the dtype of its inputs: three digits in bf16.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, compiles: bool) -> Tensor:
        if not any(ctx.needs_input_grad):
            return torch.stack([_of_rows(rows, weight, own) for rows, own in in_parts(x, labels)]).sum()
        loss, by_x, vocabulary = x.new_zeros((), dtype=torch.float32), [], len(weight)
        gradients, (weight, bias) = _gradients_of(compiles), _filled(weight)
        by_weight = torch.zeros_like(weight, dtype=torch.float32)
        for rows, own in in_parts(x, labels, compiles):
            (by_rows, part_by_weight), part = gradients(rows, weight, own, bias)
            by_x.append(by_rows)
            by_weight += part_by_weight
            loss += part
        ctx.save_for_backward(torch.cat(by_x), by_weight[:vocabulary].to(weight.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_x, by_weight = ctx.saved_tensors
        return by_x * scale, by_weight * scale, None, None
