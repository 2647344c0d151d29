"""Whole updates as CUDA graphs: one launch in place of the hundreds that the step of a tiny model consists of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.batch import SupervisedBatch
from core.distributed import World
from core.errors import UserError
from core.plan import Phase, Settings

Move = Callable[[list[SupervisedBatch]], tuple[Tensor, Tensor]]  # from micro-batches to loss sums and gradient norms
Shapes = tuple[tuple[torch.Size, torch.Size, int], ...]


@dataclass
class Recording:
    """The update of batches of some shapes. Its kernels read and write the same memory each time."""

    graph: torch.cuda.CUDAGraph
    batches: list[SupervisedBatch]
    result: Tensor

    def replay(self, batches: list[SupervisedBatch]) -> Tensor:
        for own, given in zip(self.batches, batches, strict=True):
            for kept, new in zip(own.tensors, given.tensors, strict=True):
                kept.copy_(new, non_blocking=True)
        self.graph.replay()
        return self.result.clone()


class Graphed:
    """A function that moves weights, as CUDA graphs, of which it records one for all batches of the same shapes.

    The first update of its kind is carried out as usual, on the stream that then records: it compiles, and makes what
    has to be there before. What the function reads beside batches must be tensors that stay where they are.
    """

    def __init__(self, move: Move, device: torch.device):
        self.move, self.device = move, device
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self.recordings: dict[Shapes, Recording | None] = {}

    def __call__(self, batches: list[SupervisedBatch]) -> tuple[Tensor, Tensor]:
        if any(batch.rows is not None for batch in batches):
            raise UserError("compile: reduce-overhead needs batches of one shape, but rows share contexts; use true")
        shapes = tuple((batch.input_ids.shape, batch.labels.shape, batch.first) for batch in batches)
        if shapes not in self.recordings:
            self.recordings[shapes] = None
            result = self.as_usual(batches)
        else:
            recording = self.recordings[shapes] or self.record(batches)
            self.recordings[shapes] = recording
            result = recording.replay(batches)
        losses, norms = result.unbind()
        return losses, norms

    def as_usual(self, batches: list[SupervisedBatch]) -> Tensor:
        caller = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(caller)
        with torch.cuda.stream(self.stream):
            result = torch.stack(self.move(batches))
        caller.wait_stream(self.stream)
        return result

    def record(self, batches: list[SupervisedBatch]) -> Recording:
        own = [batch.mapped(lambda x: torch.empty_like(x, device=self.device)) for batch in batches]
        graph = torch.cuda.CUDAGraph()
        # thread_local: others go on making batches in pinned memory meanwhile, which concerns no stream
        with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
            result = torch.stack(self.move(own))
        return Recording(graph, own, result)


def check(settings: Settings, plan: Sequence[Phase], world: World) -> None:
    """Raises UserError for an update that cannot be a CUDA graph."""
    reasons = {
        "replays CUDA graphs, which takes a GPU": world.device.type != "cuda",
        "needs batches of one shape, but rows differ in length": any(p.source.ragged or p.pack_to for p in plan),
        "is for one process, not for several under torchrun": world.size > 1,
        "saves launches, gradient_checkpointing memory": settings.gradient_checkpointing,
        "makes an update one launch, of which profile could tell no parts": settings.profile,
        f"cannot record steps of {settings.optimizer}": settings.optimizer != "adamw",
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"compile: reduce-overhead {reason}; use true")
