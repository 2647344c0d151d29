"""Where a run's numbers go: `metrics.jsonl` always, the progress bar, and Weights & Biases when asked."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from core.errors import UserError
from core.files import write_whole

METRICS = "metrics.jsonl"
PATIENCE = {"init_timeout": 30, "finish_timeout": 30}  # seconds for a server of W&B's that does not answer


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; those that a crash cut off or a power cut spoiled are left out.

    None of them is one that a checkpoint builds on: up to there the file is on the disk (see `Tracker.flush`).
    """
    return [row for row in map(_row, _lines(run_dir / METRICS)) if row is not None]


def _lines(path: Path) -> list[bytes]:
    """Those that were ended, as the last one of a killed run may not be."""
    return path.read_bytes().split(b"\n")[:-1]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def forget_after(run_dir: Path, step: int, say: Callable[[str], None]) -> None:
    """Drops the lines of updates after `step`, which a resumed run will write again, and those that are spoiled."""
    path = run_dir / METRICS
    if not path.exists():
        return
    found = _lines(path)
    rows = read_metrics(run_dir)
    if len(rows) < len(found):
        say(f"{path}: {len(found) - len(rows)} of {len(found)} lines cannot be read and are dropped")
    lines = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
    write_whole(path, "".join(lines))


def check_wandb(key: str) -> None:
    """Raises UserError if Weights & Biases, which `key` asks for, is not installed."""
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise UserError(f"{key}: the package wandb is missing; pip install wandb, or set it to false") from None


class Wandb:
    """Weights & Biases as a guest: what fails in it is said once, and the run goes on without it."""

    def __init__(self, **settings: Any):
        import wandb  # its absence was said by check_wandb

        self._run: Any = None
        self._guard(lambda: setattr(self, "_run", wandb.init(settings=PATIENCE, **settings)))

    def log(self, values: dict[str, float], step: int) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.log(values, step=step))

    def finish(self, status: int) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.finish(exit_code=status))

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # a guest may fail in any way; the numbers are in metrics.jsonl all the same
            tqdm.write(f"Weights & Biases is off from here on: {type(error).__name__}: {error}", file=sys.stderr)
            self._run = None


class Tracker:
    """Writes metrics and, if `is_shown`, draws the bar. On ranks other than the main one it does nothing."""

    def __init__(
        self,
        run_dir: Path,
        step: int,
        total: int,
        is_main: bool,
        wandb: dict[str, Any] | None = None,
        is_shown: bool = True,
    ):
        self._file = (run_dir / METRICS).open("a") if is_main else None
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=step,
            unit="step",
            disable=not (is_main and is_shown),
            dynamic_ncols=on_terminal,
            mininterval=0.2 if on_terminal else 15,
        )
        self._shown: dict[str, str] = {}
        self._wandb = Wandb(**wandb) if wandb is not None and is_main else None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._bar.close()
        if self._file is not None:
            self._file.close()
        if self._wandb is not None:
            self._wandb.finish(status=0 if kind is None else 1)

    def advance(self) -> None:
        self._bar.update()

    def show(self, **values: float) -> None:
        """Numbers beside the bar, kept until they are replaced."""
        self._shown |= {name: f"{value:.4g}" for name, value in values.items()}
        self._bar.set_postfix(self._shown, refresh=False)

    def log(self, where: dict[str, Any], values: dict[str, float]) -> None:
        """One line: `where` (step, phase, tokens, examples, split, ...) and the values measured there.

        The line holds nothing that depends on the clock, so that a resumed run's file equals an uninterrupted one's.
        """
        if self._file is None:
            return
        self._file.write(json.dumps(where | values, allow_nan=False) + "\n")
        self._file.flush()
        if self._wandb is not None:
            group = "/".join(
                str(v) for k, v in where.items() if k in ("split", "seq_length", "part", "generator", "cell", "stage")
            )
            self._wandb.log({f"{group}/{name}": value for name, value in values.items()}, step=where["step"])

    def flush(self) -> None:
        """Makes sure that the lines so far survive a power cut; called before a checkpoint that builds on them."""
        if self._file is not None:
            os.fsync(self._file.fileno())
