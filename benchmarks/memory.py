"""Memory: of the loss at GPT-2's vocabulary, of blocks computed twice, and what was predicted.

python -m benchmarks.memory [--json FILE] [--device auto]

Loss: the most that output projection and cross-entropy take, forward and backward, at 50,257 tokens and width 64, with
all logits at once and as core.loss computes it. Updates: the most that one takes of a 4_4_256, on 16 rows of 256
tokens, with and without gradient checkpointing, and what `--dry_run` predicts. Both by PyTorch's allocator, which does
not see what a library keeps to itself. Last what is predicted for GPT-2 124M on 32 rows of 2,048 tokens.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks import report
from core import optim
from core.batch import Batch, SupervisedBatch
from core.distributed import pick_device
from core.loss import cross_entropy_sum
from core.memory import peak_of_update, size_of
from core.model import GPT, GPTConfig, loss_sum

VOCABULARY, WIDTH = 50_257, 64
MIB = 2**20


def peak_of(action: Callable[[], None], device: torch.device) -> int:
    """Bytes of tensors at the worst moment of an action, on top of those there before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        action()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        trace.export_chrome_trace(file.name)
        events = [e for e in json.loads(Path(file.name).read_text())["traceEvents"] if e.get("name") == "[memory]"]
    return max(accumulate(event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])))


def whole(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight).float(), labels, reduction="sum")


def measure_loss(positions: int, device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {"positions": positions}
    results = []
    for name, loss in (("whole", whole), ("ours", cross_entropy_sum)):
        torch.manual_seed(0)
        x = torch.randn(positions, WIDTH, device=device).requires_grad_()
        weight = (0.02 * torch.randn(VOCABULARY, WIDTH, device=device)).requires_grad_()
        labels = torch.randint(VOCABULARY, (positions,), device=device)

        def action(loss: Any = loss, x: Tensor = x, weight: Tensor = weight, labels: Tensor = labels) -> None:
            results.append(loss(x, weight, labels))
            results[-1].backward()

        found[name] = peak_of(action, device)
        results[-1] = results[-1].item()
    found["relative_difference"] = abs(results[1] / results[0] - 1)
    return found


def uniform(rows: int, length: int, device: torch.device) -> SupervisedBatch:
    ids = torch.zeros(rows, length, dtype=torch.int64, device=device)
    return Batch(ids, ids).supervised()


def measure_update(recomputes: bool, precision: str, device: torch.device) -> dict[str, Any]:
    model, batch = GPT(GPTConfig(1000, 256, 4, 4, 256)).to(device), uniform(16, 256, device)
    model.recomputes = recomputes
    optimizer = optim.adamw(model, lr=0.0, weight_decay=0.0)

    def update() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_sum(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    update()
    there = 3 * size_of(model) + sum(8 * x.numel() for x in (batch.input_ids, batch.positions, batch.labels))
    predicted = peak_of_update(model.cpu(), [batch.mapped(Tensor.cpu)], precision)
    model.to(device)
    measured = there + peak_of(update, device)
    return {"gradient_checkpointing": recomputes, "precision": precision, "measured": measured, "predicted": predicted}


def predict_large(recomputes: bool) -> dict[str, Any]:
    model = GPT(GPTConfig(VOCABULARY, 2048, 12, 12, 768))
    model.recomputes = recomputes
    batch = uniform(32, 2048, torch.device("cpu"))
    return {"gradient_checkpointing": recomputes, "predicted": peak_of_update(model, [batch], "bf16")}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or the number of a GPU")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    device, machine = pick_device(options.device), report.machine("torch")
    print(f"{report.sentence(machine)}\nMiB of tensors, {device}\n")

    widths = [9, 12, 8, 20]
    print(report.line(["positions", "all logits", "ours", "relative difference"], widths))
    losses = []
    for positions in (512, 2048, 8192):
        losses.append(found := measure_loss(positions, device))
        sizes = [f"{found[name] / MIB:,.0f}" for name in ("whole", "ours")]
        print(report.line([f"{positions:,}", *sizes, f"{found['relative_difference']:.1e}"], widths), flush=True)

    widths = [24, 9, 9]
    print("\n" + report.line(["update of 4_4_256", "measured", "predicted"], widths))
    updates = []
    for precision in ("fp32", "bf16"):
        for recomputes in (False, True):
            updates.append(found := measure_update(recomputes, precision, device))
            name = f"{precision}{', checkpointing' if recomputes else ''}"
            print(report.line([name, *(f"{found[k] / MIB:,.0f}" for k in ("measured", "predicted"))], widths))

    large = [predict_large(recomputes) for recomputes in (False, True)]
    plain, less = (f"{found['predicted'] / 2**30:.1f} GiB" for found in large)
    print(f"\npredicted for GPT-2 124M, 32 x 2,048 tokens, bf16: {plain}, with checkpointing {less}")
    if options.json:
        report.write(options.json, {"machine": machine, "updates": updates, "large": large}, losses)


if __name__ == "__main__":
    main()
