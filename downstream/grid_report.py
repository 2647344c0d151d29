"""What a grid has shown: means with intervals, tests against no pretraining, tokens saved, a heat map, curves."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from core.config import Config, home, resolve
from core.errors import UserError
from core.files import write_json, write_whole
from core.plots import draw_panels
from core.tracking import METRICS, read_metrics
from downstream.grid import GridConfig, jobs

BASELINE = "no pretraining"


class ReportConfig(Config):
    grid: str = Field(description="the grid's save_dir")
    metric: str = Field(
        "accuracy",
        description="measurement to compare: of the test row in each summary.json, or else of the validation row",
    )


class Cell:
    """A finished run: its result and its course."""

    def __init__(self, folder: Path, task: str, condition: str, metric: str):
        self.task, self.condition = task, condition
        summary = json.loads((folder / "summary.json").read_text())
        rows = summary["evaluation"]  # of text there is a validation set alone
        test = next((row for row in rows if row["split"] == "test"), rows[0])
        numbers = [key for key, value in test.items() if isinstance(value, float)]
        if metric not in numbers:
            there = ", ".join(numbers)
            raise UserError(f"metric: {metric!r} is none of the measurements of {folder}; there are {there}")
        self.value, self.floor = float(test[metric]), test.get(f"{metric}_floor")
        course = course_of(folder, summary["step"])
        self.tokens = np.array([row["tokens"] for row in course], dtype=float)
        self.loss = np.array([row["loss"] for row in course])
        self.course = np.array([row.get(metric, math.nan) for row in course])


def course_of(folder: Path, last: int) -> list[dict[str, Any]]:
    """What was measured on validation, up to update `last` of a finished run. Raises UserError if it is not there."""
    lines = read_metrics(folder) if (folder / METRICS).exists() else []
    course = [row for row in lines if row["split"] == "validation" and "slice" not in row]
    if not course or course[-1]["step"] != last:
        again = "remove the folder and run the grid again, which trains this cell anew"
        raise UserError(f"grid: {folder / METRICS} lacks the validation of update {last}, the last one; {again}")
    return course


def report(config: ReportConfig) -> list[dict[str, Any]]:
    """Writes `report.md`, `report.json` and plots into the grid's folder; prints the table and returns its rows."""
    root = home(config.grid)
    if not (root / "grid.yaml").exists():
        raise UserError(f"grid: {root} holds no grid; run `python -m downstream.cli grid --config FILE` first")
    grid = resolve(lambda values: GridConfig, str(root / "grid.yaml"), {"save_dir": str(root)})  # it may have moved
    expected = [job for job in jobs(grid) if job.labels]
    ended = [(job, seed) for job in expected for seed in job.ended()]
    missing = [f"{job.group}/seed{seed}" for job in expected for seed in job.seeds if (job, seed) not in ended]
    cells = [Cell(job.run_dir(seed), **job.labels, metric=config.metric) for job, seed in ended]
    if not cells:
        raise UserError(f"grid: none of the {len(missing)} cells of {root} has ended yet")
    rows = rows_of(cells)
    text = as_markdown(rows, config.metric, len(cells) + len(missing), missing)
    write_whole(root / "report.md", text)
    content = {"metric": config.metric, "missing": missing, "rows": rows}
    write_json(root / "report.json", content)
    plots = [draw_heat_map(rows, config.metric, root / "heat_map.png"), draw_courses(cells, config.metric, root)]
    print(text)
    for path in [root / "report.md", root / "report.json", *plots]:
        print(path)
    return rows


def rows_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row for each task and condition: mean over seeds, half of the 95 % interval (Student's t), and beside the
    baseline of the task the difference, p (Welch's t-test, two-sided) and the share of tokens saved."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.task, cell.condition].append(cell)
    rows = []
    for (task, condition), group in groups.items():
        values = np.array([cell.value for cell in group])
        row: dict[str, Any] = {"task": task, "condition": condition, "seeds": len(values), "mean": values.mean()}
        row["interval"] = half_interval(values)
        row["floor"] = None if group[0].floor is None else float(np.mean([cell.floor for cell in group]))
        baseline = groups.get((task, BASELINE))
        if baseline and condition != BASELINE:
            others = np.array([cell.value for cell in baseline])
            row["difference"] = values.mean() - others.mean()
            row["p"] = p_value(values, others)
            row["tokens_saved"], row["reached"] = tokens_saved(group, baseline)
        rows.append({key: float(value) if isinstance(value, np.floating) else value for key, value in row.items()})
    return rows


def half_interval(values: np.ndarray) -> float | None:
    """Half the width of the 95 % confidence interval of the mean; None of a single value."""
    from scipy import stats  # takes a second to import, which every run of a grid would pay

    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else None


def p_value(values: np.ndarray, others: np.ndarray) -> float | None:
    """Of Welch's two-sided t-test; None where it cannot be computed: a single value, or no spread at all."""
    from scipy import stats

    if min(len(values), len(others)) < 2 or np.ptp(values) == np.ptp(others) == 0:  # std of equal values may be 1e-17
        return None
    return float(stats.ttest_ind(values, others, equal_var=False).pvalue)


def tokens_saved(group: Sequence[Cell], baseline: Sequence[Cell]) -> tuple[float | None, int]:
    """The mean share of the baseline's tokens that seeds of `group` did not need to reach the loss the baseline ended
    with (mean over its seeds), and how many reached it; negative where a run had to be longer. None if none did."""
    target = float(np.mean([cell.loss[-1] for cell in baseline]))
    budget = float(np.mean([cell.tokens[-1] for cell in baseline]))
    needed = [tokens for cell in group if (tokens := tokens_to(cell, target)) is not None]
    return (1 - float(np.mean(needed)) / budget if needed else None), len(needed)


def tokens_to(cell: Cell, target: float) -> float | None:
    """Tokens after which validation loss first is at most `target`, by straight lines between evaluations."""
    below = np.flatnonzero(cell.loss <= target)
    if not len(below):
        return None
    after = below[0]
    if after == 0:
        return float(cell.tokens[0])
    (x0, x1), (y0, y1) = cell.tokens[after - 1 : after + 1], cell.loss[after - 1 : after + 1]
    return float(x0 + (x1 - x0) * (y0 - target) / (y0 - y1))


def as_markdown(rows: Sequence[dict[str, Any]], metric: str, expected: int, missing: Sequence[str]) -> str:
    """The rows as a table, and below it which of the `expected` cells are missing."""
    lines = [
        f"{metric} on the test split, of text on validation: mean over seeds with 95 % interval (Student's t).",
        "Against no pretraining: the difference, p (Welch, two-sided), and downstream tokens saved until the final",
        "validation loss of the baseline.",
        "",
        "| task | condition | seeds | mean | floor | difference | p | tokens saved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        mean = f"{row['mean']:.4f}" + ("" if row["interval"] is None else f" ± {row['interval']:.4f}")
        floor = "" if row["floor"] is None else f"{row['floor']:.4f}"
        difference = f"{row['difference']:+.4f}" if "difference" in row else ""
        p = "" if row.get("p") is None else "< 0.0001" if row["p"] < 1e-4 else f"{row['p']:.4f}"
        saved = "" if "reached" not in row else "never" if row["tokens_saved"] is None else f"{row['tokens_saved']:.0%}"
        if saved and row["reached"] < row["seeds"]:
            saved += f" ({row['reached']} of {row['seeds']} seeds reached it)"
        cells = (row["task"], row["condition"], str(row["seeds"]), mean, floor, difference, p, saved)
        lines.append(f"| {' | '.join(cells)} |")
    if missing:
        some = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        lines += ["", f"{len(missing)} of {expected} cells have not ended: {some}"]
    return "\n".join(lines) + "\n"


# --- Plots


def draw_heat_map(rows: Sequence[dict[str, Any]], metric: str, path: Path) -> Path:
    """Conditions against tasks; a colour for the difference to no pretraining, or for the mean where there is none."""
    tasks, conditions = (list(dict.fromkeys(row[name] for row in rows)) for name in ("task", "condition"))
    table = np.full((len(conditions), len(tasks)), np.nan)
    words = [["" for _ in tasks] for _ in conditions]
    for row in rows:
        at = conditions.index(row["condition"]), tasks.index(row["task"])
        table[at] = row.get("difference", 0.0)
        words[at[0]][at[1]] = f"{row['mean']:.3f}"
    reach = float(np.nanmax(np.abs(table))) or 1.0

    def draw(axis: Any) -> None:
        image = axis.imshow(table, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
        axis.figure.colorbar(image, ax=axis, label="difference")
        axis.set_xticks(range(len(tasks)), tasks)
        axis.set_yticks(range(len(conditions)), conditions)
        for i, line in enumerate(words):
            for j, word in enumerate(line):
                colour = "white" if abs(np.nan_to_num(table[i, j])) > 0.7 * reach else "black"
                axis.text(j, i, word, ha="center", va="center", color=colour, fontsize="small")
        axis.grid(False)

    return draw_panels([draw], path, title=f"{metric}; blue: more than without pretraining, red: less")


def draw_courses(cells: Sequence[Cell], metric: str, root: Path) -> Path:
    """Validation over downstream tokens, a panel for each task, a line for each condition: the mean over seeds."""

    def panel(task: str) -> Callable[[Any], None]:
        def draw(axis: Any) -> None:
            for condition in dict.fromkeys(cell.condition for cell in cells):
                mine = [cell for cell in cells if (cell.task, cell.condition) == (task, condition)]
                if mine:
                    shortest = min(len(cell.course) for cell in mine)
                    values = np.array([cell.course[:shortest] for cell in mine])
                    (line,) = axis.plot(mine[0].tokens[:shortest], values.mean(axis=0), label=condition)
                    spread = values.std(axis=0, ddof=1) if len(values) > 1 else 0.0
                    low, high = values.mean(axis=0) - spread, values.mean(axis=0) + spread
                    axis.fill_between(mine[0].tokens[:shortest], low, high, color=line.get_color(), alpha=0.15, lw=0)
            axis.set_title(task, fontsize="small")
            axis.set_ylabel(f"validation {metric}")

        return draw

    panels = [panel(task) for task in dict.fromkeys(cell.task for cell in cells)]
    title = "mean and standard deviation over seeds"
    return draw_panels(panels, root / "learning_curves.png", title=title, across="downstream tokens")
