"""Curves of a run through stages, from its metrics.jsonl."""

import itertools
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from core.plots import Row, draw_panels
from core.tracking import read_metrics


def draw_run(run_dir: Path) -> Path:
    """Draws training loss, validation loss of each stage's text and the learning rate into `plots/curves.png`."""
    rows = read_metrics(run_dir)
    training = [row for row in rows if row["split"] == "train"]
    validation = [row for row in rows if row["split"] == "validation"]
    names = dict.fromkeys([*(row["phase"] for row in training), *(row["stage"] for row in validation)])
    colors = {name: f"C{number}" for number, name in enumerate(names)}  # the same in both panels
    panels = [
        partial(_draw_training, rows=training, colors=colors),
        partial(_draw_validation, rows=validation, training=training, colors=colors),
        partial(_draw_lr, rows=training),
    ]
    return draw_panels(panels, run_dir / "plots" / "curves.png", title=run_dir.as_posix(), across="million tokens")


def millions(rows: list[Row]) -> list[float]:
    return [row["tokens"] / 1e6 for row in rows]


def _draw_training(axis: Any, rows: list[Row], colors: dict[str, str]) -> None:
    for phase in dict.fromkeys(row["phase"] for row in rows):
        own = [row for row in rows if row["phase"] == phase]
        label = f"{phase} ({own[0]['block_size']})"
        axis.plot(millions(own), [row["loss"] for row in own], color=colors[phase], linewidth=1, label=label)
    axis.set_ylabel("training loss (nats per token)")


def _draw_validation(axis: Any, rows: list[Row], training: list[Row], colors: dict[str, str]) -> None:
    by_stage: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_stage[row["stage"]].append(row)
    for stage, own in by_stage.items():
        axis.plot(millions(own), [row["loss"] for row in own], color=colors[stage], marker=".", label=stage)
    _mark_transitions(axis, training)
    axis.set_ylabel("validation loss (nats per token)")


def _draw_lr(axis: Any, rows: list[Row]) -> None:
    axis.plot(millions(rows), [row["lr"] for row in rows], color="tab:blue", linewidth=1)
    _mark_transitions(axis, rows)
    axis.set_ylabel("learning rate")


def _mark_transitions(axis: Any, rows: list[Row]) -> None:
    for before, after in itertools.pairwise(rows):
        if before["phase"] != after["phase"]:
            axis.axvline(before["tokens"] / 1e6, color="0.8", linestyle="--", linewidth=1)
