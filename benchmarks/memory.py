"""Memory: of the loss at GPT-2's vocabulary, of blocks computed twice, and what was predicted.

python -m benchmarks.memory [--json FILE] [--device auto]

Loss: the most that output projection and cross-entropy take, forward and backward, at 50,257 tokens, with all logits at
once and as core.loss computes it, on a GPU compiled, and the time of both. Updates: the most that one takes of a
4_4_256, on 16 rows of 256 tokens, with and without gradient checkpointing, and what `--dry_run` predicts. Both by
PyTorch's allocator, which does not see what a library keeps to itself. Last what is predicted for GPT-2 124M on 32 rows
of 2,048 tokens, which a GPU is also asked to do.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks import arguments, report
from core import optim
from core.batch import Batch, SupervisedBatch
from core.loss import cross_entropy_sum
from core.memory import peak_of_update, size_of
from core.model import GPT, GPTConfig, loss_sum

VOCABULARY, MIB = 50_257, 2**20
LOSSES = {"cpu": (64, torch.float32, (512, 2048, 8192)), "cuda": (768, torch.bfloat16, (2048, 8192, 32_768))}
REPEATS = 3  # of which the fastest counts
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
SMALL, LARGE = GPTConfig(1000, 256, 4, 4, 256), GPTConfig(VOCABULARY, 2048, 12, 12, 768)


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
    width, dtype, _ = LOSSES[device.type]
    found: dict[str, Any] = {"positions": positions, "width": width, "dtype": str(dtype)}
    ours = partial(cross_entropy_sum, compiles=device.type == "cuda")
    results = []
    for name, loss in (("whole", whole), ("ours", ours)):
        torch.manual_seed(0)
        x = torch.randn(positions, width, device=device, dtype=dtype).requires_grad_()
        weight = (0.02 * torch.randn(VOCABULARY, width, device=device)).to(dtype).requires_grad_()
        labels = torch.randint(VOCABULARY, (positions,), device=device)

        def action(loss: Any = loss, x: Tensor = x, weight: Tensor = weight, labels: Tensor = labels) -> None:
            x.grad = weight.grad = None
            value = loss(x, weight, labels)
            value.backward()
            results.append(value.item())

        action()  # compiles
        found[name] = peak_of(action, device)
        found[f"{name}_seconds"] = min(seconds_of(action) for _ in range(REPEATS))
    found["relative_difference"] = abs(results[-1] / results[0] - 1)
    return found


def seconds_of(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def uniform(rows: int, length: int, device: torch.device) -> SupervisedBatch:
    ids = torch.zeros(rows, length, dtype=torch.int64, device=device)
    return Batch(ids, ids).supervised()


def measure_update(
    shape: GPTConfig, rows: int, recomputes: bool, precision: Literal["fp32", "bf16"], device: torch.device
) -> dict[str, Any]:
    model, batch = GPT(shape).to(device), uniform(rows, shape.n_positions, device)
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
    measured = there + peak_of(update, device)
    predicted = predict(shape, rows, recomputes, precision)
    return {"gradient_checkpointing": recomputes, "precision": precision, "measured": measured, "predicted": predicted}


def predict(shape: GPTConfig, rows: int, recomputes: bool, precision: Literal["fp32", "bf16"]) -> int:
    model = GPT(shape)
    model.recomputes = recomputes
    return peak_of_update(model, [uniform(rows, shape.n_positions, torch.device("cpu"))], precision)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=arguments.new_file, metavar="FILE", help="also write the figures there")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or the number of a GPU")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    device, machine = report.device_of(parser, options), report.machine("torch")
    print(f"{report.sentence(machine)}\nMiB of tensors, {device}\n")

    width, dtype, numbers = LOSSES[device.type]
    print(f"loss at {VOCABULARY:,} tokens, width {width}, {dtype}")
    columns = {"positions": 9, "all logits": 12, "ours": 8, "all logits, ms": 15, "ours, ms": 9}
    columns["relative difference"] = 20
    print(report.line(list(columns), list(columns.values())))
    losses = []
    for positions in numbers:
        losses.append(found := measure_loss(positions, device))
        sizes = [f"{found[name] / MIB:,.0f}" for name in ("whole", "ours")]
        times = [f"{1e3 * found[f'{name}_seconds']:,.1f}" for name in ("whole", "ours")]
        row = [f"{positions:,}", *sizes, *times, f"{found['relative_difference']:.1e}"]
        print(report.line(row, list(columns.values())), flush=True)

    widths = [24, 9, 9]
    print("\n" + report.line(["update of 4_4_256", "measured", "predicted"], widths))
    updates = []
    for precision in PRECISIONS:
        for recomputes in (False, True):
            updates.append(found := measure_update(SMALL, 16, recomputes, precision, device))
            name = f"{precision}{', checkpointing' if recomputes else ''}"
            print(report.line([name, *(f"{found[k] / MIB:,.0f}" for k in ("measured", "predicted"))], widths))

    print("\nGPT-2 124M, 32 x 2,048 tokens, bf16, in GiB")
    large = []
    for recomputes in (False, True):
        found = {"predicted": predict(LARGE, 32, recomputes, "bf16")}
        if device.type == "cuda":
            found = measure_update(LARGE, 32, recomputes, "bf16", device)
        large.append({"gradient_checkpointing": recomputes, **found})
        what = ", ".join(f"{k} {found[k] / 2**30:.1f}" for k in ("predicted", "measured") if k in found)
        print(f"{'with checkpointing ' if recomputes else ''}{what}", flush=True)
    if options.json:
        report.write(options.json, {"machine": machine, "updates": updates, "large": large}, losses)


if __name__ == "__main__":
    main()
