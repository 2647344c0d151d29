"""Curves of a run, from its metrics.jsonl."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.tracking import read_metrics

Row = dict[str, Any]


def draw_run(run_dir: Path) -> Path:
    """Draws loss and accuracy, and where it varies the trained length and metrics by it, into `plots/curves.png`."""
    rows = read_metrics(run_dir)
    training = [row for row in rows if row["split"] == "train"]
    validation = [row for row in rows if row["split"] == "validation" and "slice" not in row]
    by_length = [row for row in rows if row.get("slice") == "length"]
    panels: list[Callable[[Any], None]] = [
        partial(_draw_loss, training=training, validation=validation),
        partial(_draw_accuracy, rows=validation),
    ]
    if len({row.get("seq_length") for row in validation}) > 1:
        panels.append(partial(_draw_length, rows=validation))
    if by_length:
        panels.append(partial(_draw_by_length, rows=by_length))

    return draw_panels(panels, run_dir / "plots" / "curves.png", title=run_dir.as_posix(), across="update")


def draw_panels(panels: Sequence[Callable[[Any], None]], path: Path, *, title: str, across: str | None = None) -> Path:
    """Lets each panel draw on axes of its own, side by side, and writes the figure. `across` names the x axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False, layout="constrained")
    for axis, draw in zip(axes[0], panels, strict=True):
        axis.grid(alpha=0.3)
        draw(axis)
        if across is not None:
            axis.set_xlabel(across)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize="small")
    figure.suptitle(title, fontsize="medium", parse_math=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path


def curve(rows: Iterable[Row], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the rows that hold `name`."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    return [x for x, _ in points], [y for _, y in points]


def _draw_loss(axis: Any, training: list[Row], validation: list[Row]) -> None:
    axis.plot(*curve(training, "loss"), color="0.7", linewidth=1, label="training")
    axis.plot(*curve(validation, "loss"), color="tab:blue", marker=".", label="validation")
    if any("oracle_loss" in row for row in validation):
        axis.plot(*curve(validation, "oracle_loss"), color="tab:green", linestyle="--", label="best possible")
    else:
        axis.set_yscale("log")  # where the best is zero, the interesting part is near it
    axis.set_ylabel("loss (nats per token)")


def _draw_accuracy(axis: Any, rows: list[Row]) -> None:
    axis.plot(*curve(rows, "accuracy"), color="tab:blue", marker=".", label="tokens right")
    if any("exact_match" in row for row in rows):
        axis.plot(*curve(rows, "exact_match"), color="tab:orange", marker=".", label="answers all right")
    if any("oracle_accuracy" in row for row in rows):
        best = curve(rows, "oracle_accuracy")
        axis.plot(*best, color="tab:green", linestyle="--", label="tokens right, best possible")
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("validation accuracy")


def _draw_length(axis: Any, rows: list[Row]) -> None:
    axis.step(*curve(rows, "seq_length"), where="post", color="tab:blue")
    axis.set_ylabel("seq_length trained on")


def _draw_by_length(axis: Any, rows: list[Row]) -> None:
    lengths = defaultdict(list)
    for row in rows:
        lengths[row["seq_length"]].append(row)
    for length, group in sorted(lengths.items()):
        axis.plot(*curve(group, "accuracy"), marker=".", label=f"length {length}")
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("validation accuracy by length")
