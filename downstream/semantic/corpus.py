"""What a run on language asks of its data."""

from abc import ABC, abstractmethod
from typing import Any

from core.batch import Batch, SupervisedBatch
from core.distributed import World
from core.errors import UserError
from core.evaluate import Slices
from core.model import LanguageModel
from core.source import Source, Verdict
from downstream.semantic.config import SemanticConfig


class Corpus(ABC):
    """Data made ready: what is trained on, and fixed sets that models are measured on."""

    num_tokens: int
    pad_token: int | None = None
    source: Source
    digest: str  # differs where the data or what is measured on them do
    facts: dict[str, Any]  # for the summary and the report
    passes: float  # over the data, that the whole run makes

    @abstractmethod
    def __init__(self, config: Any, world: World):
        """Makes ready what is not, in `prepared_dir`. Raises UserError."""

    @classmethod
    @abstractmethod
    def is_ready(cls, config: Any, world: World) -> bool:
        """Whether nothing would have to be made ready."""

    @abstractmethod
    def validate(self, model: LanguageModel) -> Slices:
        """On the way; the first row decides on the best checkpoint and on early stopping."""

    @abstractmethod
    def test(self, model: LanguageModel) -> Slices:
        """At the end."""


def check_passes(corpus: Corpus, config: SemanticConfig) -> None:
    """Raises UserError if the data would be gone through more often than allowed."""
    if config.passes is not None and corpus.passes > config.passes:
        steps = int(config.max_steps / corpus.passes * config.passes)
        fewer = f"max_steps {steps} or " if steps else ""
        raise UserError(
            f"passes: {config.max_steps} updates go {corpus.passes:.3g} times through the data, {config.passes} allowed"
            f"; set {fewer}passes {-(-corpus.passes // 1):.0f}"
        )


class StopsAtPerplexity(Source):
    """A source that ends the run once the validation perplexity is below a limit."""

    goal = "perplexity"

    def __init__(self, of: Source, limit: float | None):
        self._of, self._limit = of, limit

    def batch(self, split: str, start: int, stop: int) -> Batch | SupervisedBatch:
        return self._of.batch(split, start, stop)

    def on_evaluation(self, step: int, metrics: dict[str, float]) -> Verdict:
        is_below = self._limit is not None and metrics["perplexity"] < self._limit
        return Verdict.MASTERED if is_below else Verdict.GO_ON
