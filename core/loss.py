"""Cross-entropy of an output projection whose logits never exist all at once. N positions, C channels, V vocabulary."""

from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value
from torch.nn import functional as F

LARGE_VOCABULARY = 4096  # from here on logits take more memory than everything else, and more time than they need
LOGIT_ROWS = 512  # positions whose logits then exist at a time


def cross_entropy_sum(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the logits x (N, C) times weight (V, C) against labels (N,), in nats, summed, float32.

    With a large vocabulary it is computed some positions at a time, so that its memory does not grow with their number.
    """
    if len(weight) < LARGE_VOCABULARY:
        return _of_rows(x, weight, labels)
    if torch.is_autocast_enabled(x.device.type):  # which would cast the weights anew for each part
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    loss: Tensor = _InParts.apply(x, weight, labels)  # type: ignore[no-untyped-call]
    return loss


def _of_rows(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight).float(), labels, reduction="sum")


class _InParts(torch.autograd.Function):
    """Gradients are made on the way forward, while the logits of a part are there, and added up in float32.

    PyTorch 2.13 has `linear_cross_entropy`, which sums the loss in the dtype of its inputs: three digits in bf16.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        parts = list(zip(x.split(LOGIT_ROWS), labels.split(LOGIT_ROWS), strict=True))
        if not any(ctx.needs_input_grad):
            return torch.stack([_of_rows(rows, weight, own) for rows, own in parts]).sum()
        loss = x.new_zeros((), dtype=torch.float32)
        by_x, by_weight = torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        for (rows, own), by_rows in zip(parts, by_x.split(LOGIT_ROWS), strict=True):
            (to_rows, to_weight), part = grad_and_value(_of_rows, argnums=(0, 1))(rows, weight, own)
            by_rows.copy_(to_rows)
            by_weight += to_weight
            loss += part
        ctx.save_for_backward(by_x, by_weight.to(weight.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        by_x, by_weight = ctx.saved_tensors
        return by_x * scale, by_weight * scale, None
