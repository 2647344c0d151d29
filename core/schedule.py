"""Learning rates as pure functions of the update within a phase."""

import math
from typing import Literal, get_args

Shape = Literal["constant", "cosine", "linear"]
SHAPES = get_args(Shape)


def factor(
    step: float, *, shape: Shape, steps: float, warmup: float = 0, floor: float = 0.0, start: float | None = None
) -> float:
    """Factor on the peak learning rate at update `step` of 0 .. steps - 1.

    A straight rise over `warmup` updates, from `start`, or else from the first of its equal steps above zero; then
    `constant`, or half a `cosine`, or a line (`linear`), from 1 down to `floor`, which the update after the last would
    reach. `steps` is the real number of updates.
    """
    if step < warmup:
        if start is not None:
            return start + (1 - start) * step / warmup
        return (step + 1) / (warmup + 1)
    q = (step - warmup) / max(1, steps - warmup)  # share of the decay that is done
    if shape == "constant":
        return 1.0
    decay = 0.5 * (1 + math.cos(math.pi * min(q, 1.0))) if shape == "cosine" else 1 - min(q, 1.0)
    return floor + (1 - floor) * decay
