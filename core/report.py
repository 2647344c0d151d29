"""What a run says when it has ended."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def report(run_dir: Path, summary: dict[str, Any], plots: Sequence[Path], labels: Sequence[str]) -> None:
    """Prints how a run ended, its metrics and where everything lies. `labels`: as in `table`."""
    print(f"\n{summary['stopped']} after {summary['step']} updates, {summary['tokens']:,} tokens")
    print(table(summary["evaluation"], labels))
    print(f"checkpoint  {summary['checkpoint']}")
    for name, path in [("metrics", run_dir / "metrics.jsonl"), *(("curves", plot) for plot in plots)]:
        print(f"{name:<11} {path}")


def table(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> str:
    """Metrics as aligned columns, a line for each row: what `labels` name, as far as any has it, then every number."""
    numbers = dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, float))
    columns = [*(label for label in labels if any(label in row for row in rows)), *numbers]
    lines = [columns] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
