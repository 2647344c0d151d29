"""What surrounds CUDA graphs, without a GPU: updates that read the memory of the first ones of their shape each time.

tests/gpu has the graphs themselves.
"""

import pytest
import torch
from small_runs import metrics

from core import graphs, optim
from core.batch import SupervisedBatch
from core.model import LanguageModel
from core.run_config import RunConfig


class Repeated(graphs.Graphed):
    """Calls the function again where a graph would be replayed."""

    made = 0

    def __init__(self, move: graphs.Move, device: torch.device):
        self.move, self.device, self.recordings = move, device, {}

    def as_usual(self, batches: list[SupervisedBatch]) -> torch.Tensor:
        self.result = torch.stack(self.move(batches))
        return self.result

    def record(self, batches: list[SupervisedBatch]) -> graphs.Recording:
        Repeated.made += 1
        own, result = [batch.mapped(torch.empty_like) for batch in batches], torch.empty_like(self.result)

        class Graph:
            def replay(_) -> None:
                result.copy_(torch.stack(self.move(own)))

        return graphs.Recording(Graph(), own, result)


@pytest.fixture
def recorded(monkeypatch):
    """A function after which `compile: reduce-overhead` takes no GPU."""

    def moved_lr(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        for group in optimizer.param_groups:
            group.update(lr=torch.zeros((), device=device))

    def go() -> str:
        monkeypatch.setattr(graphs, "Graphed", Repeated)
        monkeypatch.setattr(graphs, "check", lambda *_: None)
        monkeypatch.setattr(optim, "make_capturable", moved_lr)
        monkeypatch.setattr(LanguageModel, "compile_parts", lambda _: None)
        monkeypatch.setattr(RunConfig, "check_machine", lambda _: None)
        monkeypatch.setattr(Repeated, "made", 0)
        return "reduce-overhead"

    return go


def losses(run_dir) -> list[float]:
    return [row["loss"] for row in metrics(run_dir)]


@pytest.mark.parametrize(  # of a number of targets that varies, and of one
    ("task", "changes"), [("set", {"gradient_accumulation_steps": 2}), ("sort", {})], ids=str
)
def test_recorded_updates_are_those_that_are_launched(train, recorded, task, changes):
    launched = train("launched", task=task, **changes)
    together = train("launched together", task=task, seeds="3-5", **changes)
    compiled = recorded()
    assert losses(train("recorded", task=task, compile=compiled, **changes)) == pytest.approx(
        losses(launched), rel=1e-5
    )
    assert Repeated.made >= (2 if task == "set" else 1)
    seeds = train("recorded together", task=task, seeds="3-5", compile=compiled, **changes)
    for seed in ("seed3", "seed4", "seed5"):
        assert losses(seeds / seed) == pytest.approx(losses(together / seed), rel=1e-5)


def test_runs_that_are_behind_catch_up(train, recorded):
    constant = {"lr_schedule": "constant"}
    straight, compiled = train("straight", seeds="3-5", **constant), recorded()
    train("cut", seeds="3-5", max_steps=5, compile=compiled, **constant)
    train("cut/seed4", seed=4, max_steps=15, compile=compiled, resume=True, **constant)
    cut = train("cut", seeds="3-5", compile=compiled, resume=True, **constant)
    for seed in ("seed3", "seed4", "seed5"):
        assert losses(cut / seed)[-1] == pytest.approx(losses(straight / seed)[-1], rel=1e-5)
