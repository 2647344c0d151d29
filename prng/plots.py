"""Pictures of runs: learning curves, accuracy against position and against modulus, the embedding's main directions."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from core.config import resolve
from core.plots import Row, curve, draw_panels
from core.tracking import read_metrics
from prng.config import PrngConfig, of_run
from prng.evaluation import CELLS, Cell, Scores
from prng.generators import modulus_name

T = TypeVar("T")
Panel = Callable[[Any], None]
Cells = dict[str, dict[str, list[Row]]]  # rows of metrics by generator and cell
UNSEEN, *_ = CELLS
STYLES = dict(zip(CELLS, ("-", "--", "-.", ":"), strict=True))
AT_ONCE = 6  # generators in a panel of curves, panels in a picture of positions


def draw_run(run_dir: Path) -> list[Path]:
    """Curves of a run, from its metrics.jsonl and config.yaml, in `plots/curves.png`."""
    rows = read_metrics(run_dir)
    run: PrngConfig = resolve(of_run, str(run_dir / "config.yaml"), {})
    training = [row for row in rows if row["split"] == "train"]
    panels: list[Panel] = []
    for found in _in_parts(list(_by_generator(rows).items())):
        panels += [
            partial(_draw_loss, training=training, generators=dict(found)),
            partial(_draw_last, generators=dict(found)),
        ]
    panels.append(partial(_draw_plan, run=run))
    return [draw_panels(panels, run_dir / "plots" / "curves.png", title=run_dir.as_posix(), across="update")]


def _by_generator(rows: Sequence[Row]) -> Cells:
    """Test rows by generator and cell, without the mean over generators."""
    found: Cells = {}
    for row in rows:
        if "m" in row:
            found.setdefault(row["generator"], {}).setdefault(row["cell"], []).append(row)
    return found


def _in_parts(items: Sequence[T]) -> list[Sequence[T]]:
    """As many together as a picture can tell apart."""
    return [items[i : i + AT_ONCE] for i in range(0, len(items), AT_ONCE)]


def _draw_loss(axis: Any, training: Sequence[Row], generators: Cells) -> None:
    axis.plot(*curve(training, "loss"), color="0.7", label="training")
    for generator, cells in generators.items():
        axis.plot(*curve(cells[UNSEEN], "loss"), marker=".", label=f"{generator}, {UNSEEN}")
    axis.set_ylabel("loss (nats per token)")


def _draw_last(axis: Any, generators: Cells) -> None:
    for number, cells in enumerate(generators.values()):
        for cell, points in cells.items():
            label = cell if number == 0 else None
            axis.plot(*curve(points, "last_accuracy"), STYLES[cell], color=f"C{number}", label=label)
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("accuracy of the last number")


def _draw_plan(axis: Any, run: PrngConfig) -> None:
    """Shares of the moduli on the left, the learning rate on the right."""
    moduli = [m for m, _ in run.widths]
    shares, rates = [], []
    for phase in run.plan:
        for update in range(phase.phase_steps):
            shares.append(phase.weights(update, len(moduli), run.weights_interval))
            rates.append(phase.lr(update, run.lr_trgt, run.lr_min))
    for m, share in zip(moduli, np.array(shares).T, strict=True):
        axis.plot(share, label=f"share of m = {modulus_name(m)}")
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("share of sequences")
    right = axis.twinx()
    right.plot(rates, color="0.5", linestyle=":")
    right.set_ylabel("learning rate (dotted)")
    right.set_ylim(bottom=0)


# --- Accuracy against position


def draw_positions(cells: Sequence[Cell], scores: Sequence[Scores], path: Path, title: str) -> list[Path]:
    """A panel for each generator: accuracy of number n given those before it, with a line at each power of two, where
    the lowest bits, bit j of period 2^(j + 1), have been seen once more. Many generators take several pictures."""
    panels = []
    for name in dict.fromkeys(cell.generator.name for cell in cells):
        own = [(cell, score) for cell, score in zip(cells, scores, strict=True) if cell.generator.name == name]
        panels.append(partial(_draw_positions, own=own))
    drawn = []
    for number, some in enumerate(_in_parts(panels), start=1):
        at = path if number == 1 else path.with_stem(f"{path.stem}_{number}")
        drawn.append(draw_panels(some, at, title=title, across="number in the sequence"))
    return drawn


def _draw_positions(axis: Any, own: Sequence[tuple[Cell, Scores]]) -> None:
    for cell, score in own:
        axis.plot(np.arange(2, len(score.by_number) + 2), score.by_number, STYLES[cell.name], label=cell.name)
    length = len(own[0][1].by_number) + 1
    for power in range(1, length.bit_length()):
        axis.axvline(2**power, color="0.85", linewidth=0.8, zorder=0)
    generator = own[0][0].generator
    axis.axhline(1 / (generator.largest + 1), color="0.5", linestyle=":", label="guess")
    axis.set_xscale("log", base=2)
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("accuracy")
    axis.set_title(generator.name, fontsize="medium")


# --- Needed context against modulus


def needed_context(by_number: np.ndarray, threshold: float) -> int | None:
    """The first number of a sequence that is predicted with at least this accuracy; None if none is."""
    reached = np.flatnonzero(by_number >= threshold)
    return int(reached[0]) + 2 if len(reached) else None


def fitted_exponent(moduli: Sequence[int], needed: Sequence[int]) -> tuple[float, float]:
    """(e, f) of needed = f m^e, by least squares on logarithms. Needs two different moduli."""
    exponent, offset = np.polyfit([float(np.log2(float(m))) for m in moduli], np.log2(np.array(needed, dtype=float)), 1)
    return float(exponent), float(2**offset)


def draw_moduli(points: dict[str, list[tuple[int, int]]], path: Path, threshold: float) -> Path:
    """`points` holds, by type, moduli with the needed context, and a line through them where there are two moduli."""

    def panel(axis: Any) -> None:
        for number, (kind, pairs) in enumerate(points.items()):
            moduli, needed = zip(*sorted(pairs), strict=True)
            label = kind
            if len(set(moduli)) > 1:
                exponent, scale = fitted_exponent(moduli, needed)
                label = f"{kind}: {scale:.2g} m^{exponent:.2f} ({len(set(moduli))} moduli)"
                ends = np.array([float(moduli[0]), float(moduli[-1])])
                axis.plot(ends, scale * ends**exponent, color=f"C{number}", linewidth=1)
            axis.plot([float(m) for m in moduli], needed, "o", color=f"C{number}", label=label)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        every = {int(needed) for pairs in points.values() for _, needed in pairs}
        axis.set_yticks(sorted(every), labels=map(str, sorted(every)))
        axis.minorticks_off()
        axis.set_ylabel(f"first number with accuracy {threshold:g}")

    return draw_panels([panel], path, title=f"needed context, {UNSEEN}", across="modulus")


# --- Embedding


def principal_components(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (V, count) of the rows (V, C) along their main directions, and each one's share of the variance.

    Both are 0 along directions beyond those that there are, min(V, C).
    """
    centred = rows - rows.mean(axis=0)
    u, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    missing = (0, max(0, count - len(sizes)))
    coordinates, share = u * sizes, sizes**2 / (sizes**2).sum()
    return np.pad(coordinates, ((0, 0), missing))[:, :count], np.pad(share, missing)[:count]


def zero_bits(value: int, bits: int) -> int:
    return bits - value.bit_count()


def rotation_class(value: int, bits: int) -> int:
    """The smallest of all rotations of a word: the same for words that rotations turn into each other."""
    mask = 2**bits - 1
    return min(((value >> r) | (value << (bits - r))) & mask for r in range(bits))


def draw_embedding(rows: np.ndarray, path: Path, title: str) -> Path:
    """Tokens (V, C) in the plane of the first two components, then of the second and third, coloured in two ways."""
    bits = max(1, (len(rows) - 1).bit_length())
    coordinates, share = principal_components(rows, 3)
    zeros = np.array([zero_bits(v, bits) for v in range(len(rows))])
    classes = np.array([rotation_class(v, bits) for v in range(len(rows))])
    order = np.unique(classes, return_inverse=True)[1]
    panels = [
        partial(_draw_plane, at=coordinates, share=share, axes=axes, colours=colours, name=name)
        for axes in ((0, 1), (1, 2))
        for colours, name in ((zeros, "zero bits"), (order, "rotation class"))
    ]
    return draw_panels(panels, path, title=title)


def _draw_plane(
    axis: Any, at: np.ndarray, share: np.ndarray, axes: tuple[int, int], colours: np.ndarray, name: str
) -> None:
    x, y = axes
    scheme = "viridis" if name == "zero bits" else "prism"
    points = axis.scatter(at[:, x], at[:, y], c=colours, s=10, cmap=scheme)
    axis.figure.colorbar(points, ax=axis, label=name)
    axis.set_xlabel(f"component {x + 1} ({share[x]:.0%} of the variance)")
    axis.set_ylabel(f"component {y + 1} ({share[y]:.0%})")
