"""Looking at examples: token by token, in numbers, and for rows that come twice."""

import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO

import numpy as np
from pydantic import Field

from core.batch import IGNORE, Batch, row_lengths
from core.config import Config
from core.errors import UserError
from core.source import TaskSource
from core.split import SHARES
from core.task import Task
from core.tokenizer import GPT2_REPOSITORIES, gpt2

DIM, GREEN, RESET = "\x1b[2m", "\x1b[92m", "\x1b[0m"
UNCOLOURED_WIDTH = 100  # columns where there is no terminal
COMMONEST = 5  # answers that are named
LONGEST_ANSWER = 12  # tokens of them that are written


class ShowConfig(Config):
    """The keys of every `inspect`."""

    show: int = Field(3, ge=0, le=10_000, description="examples to print")
    first: int = Field(0, ge=0, description="number of the first of them")
    split: Literal["train", "validation", "test"] = Field("train", description="split they are taken from")
    max_tokens: int = Field(-1, ge=-1, description="tokens printed of each; -1: all")
    text_chars: int = Field(500, ge=0, description="characters printed of each text, where examples are texts")
    tokenizer_name_or_path: str | None = Field(
        None, description="write ids as this tokenizer does, not by their meaning"
    )
    colorize_loss_mask: bool = Field(True, description="on a terminal, dim tokens without loss and green ones with it")
    validate_examples: bool = Field(True, description="recompute each answer that is printed")
    stats: bool = Field(False, description="lengths, share of scored tokens and commonest answers of `examples`")
    duplicates: bool = Field(False, description="rows that come twice among `examples` of each split, or in two splits")
    examples: int = Field(1000, ge=1, description="examples that stats and duplicates look at")


@dataclass(frozen=True)
class View:
    """Examples that can be looked at and written to files: those of a task, or of anything else that serves batches."""

    title: str
    batch: Callable[[str, int, int], Batch]  # examples start .. stop - 1 of a split
    token_name: Callable[[int], str]
    pad_token: int | None = None
    check: Callable[[Sequence[int]], None] | None = None
    text: Callable[[Batch], list[str]] | None = None  # of tasks whose examples are texts
    splits: tuple[str, ...] = tuple(SHARES)

    @classmethod
    def of_task(cls, task: Task, seed: int) -> "View":
        given = ", ".join(f"{name}={value!r}" for name, value in task.model_dump().items())
        text = getattr(task, "texts", None)
        return cls(
            f"{task.name}({given})", TaskSource(task, seed).batch, task.token_name, task.pad_token, task.check, text
        )

    def rows(self, batch: Batch) -> Iterator[tuple[list[int], list[int]]]:
        """Each row's tokens without pads, and beside each the label at that very token, IGNORE where it has no loss.

        Where the last target lies beyond the input, as in a window of a longer sequence, it ends the row.
        """
        ids, targets = batch.input_ids.cpu().numpy(), batch.targets.cpu().numpy()
        for row, labels, length in zip(ids, targets, row_lengths(batch, self.pad_token), strict=True):
            beyond = [int(labels[length - 1])] if labels[length - 1] != IGNORE else []
            yield row[:length].tolist() + beyond, [IGNORE, *labels[: length - 1].tolist(), *beyond]


def inspect(view: View, config: ShowConfig, out: TextIO | None = None) -> None:
    """Prints what `config` asks for."""
    out = sys.stdout if out is None else out
    names = names_of(config.tokenizer_name_or_path) if config.tokenizer_name_or_path else view.token_name
    colour = config.colorize_loss_mask and out.isatty() and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size().columns if out.isatty() else UNCOLOURED_WIDTH
    print(textwrap.fill(view.title, width, subsequent_indent="    "), file=out)
    if config.show:
        marks = f"{DIM}no loss{RESET}, {GREEN}loss{RESET}" if colour else "[...] is what is to be predicted"
        print(f"{config.split}, from example {config.first}; {marks}", file=out)
        batch = view.batch(config.split, config.first, config.first + config.show)
        texts = view.text(batch) if view.text else [None] * config.show
        for number, ((tokens, labels), text) in enumerate(zip(view.rows(batch), texts, strict=True), config.first):
            row = batch.input_ids[number - config.first].tolist()  # with its pads, which belong to it
            verdict = f", {_verdict(view.check, row)}" if config.validate_examples and view.check else ""
            scored = sum(label != IGNORE for label in labels)
            print(f"\n--- example {number}: {len(tokens)} tokens, {scored} with loss{verdict}", file=out)
            if text is not None and config.text_chars:
                print(textwrap.fill(repr(text[: config.text_chars]), width), file=out)
            shown = len(tokens) if config.max_tokens < 0 else config.max_tokens
            for line in lines_of(tokens[:shown], labels[:shown], names, colour, width):
                print(line, file=out)
            if shown < len(tokens):
                print(f"  ... {len(tokens) - shown} more tokens", file=out)
    if config.stats:
        print("\n" + stats(view, config.split, config.examples, names), file=out)
    if config.duplicates:
        print("\n" + duplicates(view, config.examples), file=out)


def _verdict(check: Callable[[Sequence[int]], None], row: list[int]) -> str:
    try:
        check(row)
    except ValueError as error:
        return f"WRONG: {error}"
    return "valid"


def lines_of(
    tokens: Sequence[int], labels: Sequence[int], name: Callable[[int], str], colour: bool, width: int
) -> Iterator[str]:
    """The tokens by name, those with a label marked by colour or brackets, in lines of at most `width` columns."""
    line, used = "", 0
    for token, label in zip(tokens, labels, strict=True):
        plain = name(token)
        has_loss = label != IGNORE
        if colour:
            word, columns = f"{GREEN if has_loss else DIM}{plain}{RESET}", len(plain)
        else:
            word = f"[{plain}]" if has_loss else plain
            columns = len(word)
        if line and used + 1 + columns > width:
            yield line
            line, used = "", 0
        line += (" " if line else "  ") + word
        used += columns + (1 if used else 2)
    if line:
        yield line


def names_of(tokenizer: str) -> Callable[[int], str]:
    """How GPT-2's, or a tokenizer of transformers in a folder or on the hub, writes its ids. Raises UserError."""
    piece = gpt2().piece if tokenizer in GPT2_REPOSITORIES else _pieces(tokenizer)

    def name(token: int) -> str:
        written = piece(token)
        return f"<{token}>" if written is None else written.encode("unicode_escape").decode() or "<empty>"

    return name


def _pieces(tokenizer: str) -> Callable[[int], str | None]:
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"tokenizer_name_or_path: {tokenizer!r} holds no tokenizer that can be loaded: {reason}"
        ) from error

    return lambda token: loaded.convert_ids_to_tokens(token) if token < len(loaded) else None


# --- In numbers


def stats(view: View, split: str, examples: int, name: Callable[[int], str]) -> str:
    """Lengths, share of scored tokens, and how answers, the scored tokens of a row, are distributed."""
    rows = list(view.rows(view.batch(split, 0, examples)))
    lengths = np.array([len(tokens) for tokens, _ in rows])
    answers = Counter(tuple(label for label in labels if label != IGNORE) for _, labels in rows)
    scored = np.array([sum(label != IGNORE for label in labels) for _, labels in rows])
    quartiles = "  ".join(f"{value:g}" for value in np.percentile(lengths, [0, 25, 50, 75, 100]))
    lines = [
        f"{split}, {len(rows)} examples",
        f"  tokens             mean {lengths.mean():.1f}; least, quartiles, most: {quartiles}",
        f"  tokens with loss   mean {scored.mean():.1f}, {100 * scored.sum() / lengths.sum():.1f} % of all",
        f"  different answers  {len(answers):,}",
    ]
    for answer, count in [(a, n) for a, n in answers.most_common(COMMONEST) if n > 1]:
        written = " ".join(map(name, answer[:LONGEST_ANSWER])) + (" ..." if len(answer) > LONGEST_ANSWER else "")
        lines.append(f"    {100 * count / len(rows):6.2f} %  {written}")
    return "\n".join(lines)


def duplicates(view: View, examples: int) -> str:
    """Rows that come more than once in a split, and rows of one split that are in another."""
    rows = {s: Counter(tuple(t) for t, _ in view.rows(view.batch(s, 0, examples))) for s in view.splits}
    lines = [f"of {examples} examples of each split"]
    for split, counts in rows.items():
        lines.append(f"  {split:<11} {sum(counts.values()) - len(counts):>7,} repeat an earlier one")
    for one, other in ((a, b) for i, a in enumerate(rows) for b in list(rows)[i + 1 :]):
        lines.append(f"  {one} and {other}: {len(rows[one].keys() & rows[other].keys())} rows in common")
    return "\n".join(lines)
