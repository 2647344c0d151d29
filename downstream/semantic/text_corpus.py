"""English text or source code as a corpus: windows of token files, perplexity, bits per byte."""

from typing import Any

from core.distributed import World
from core.errors import UserError
from core.evaluate import Evaluation, Slices
from core.model import LanguageModel
from core.token_files import TokenFile
from core.windows import Windows, bits_per_byte, evaluation_windows
from downstream.semantic.config import TextConfig
from downstream.semantic.corpus import Corpus
from downstream.semantic.exam import perplexity
from downstream.semantic.text_files import is_ready, make_ready


class TextCorpus(Corpus):
    def __init__(self, config: TextConfig, world: World):
        """Raises UserError for data that are missing, empty, or too short for a row."""
        ready = make_ready(config, config.rows(world.size))
        length, isolated = config.seq_length, config.isolated
        try:
            self.source = Windows([ready.train], length, config.seed, name="semantic", document_mask=isolated)
        except ValueError as error:
            raise UserError(f"seq_length: {error}") from error
        batches = evaluation_windows(
            ready.validation, length, config.eval_windows, config.at_once, document_mask=isolated
        )
        if not batches:
            tokens = len(ready.validation)
            raise UserError(f"seq_length: {ready.validation.path} has {tokens:,} tokens, too few for one of {length}")
        self.num_tokens = ready.tokenizer.num_tokens
        self.passes = config.rows(world.size) / len(self.source)
        self.digest = f"{ready.train.digest[:16]}-{ready.validation.digest[:16]}"
        self._validation = ready.validation
        self._evaluation = Evaluation(batches[world.rank :: world.size], world)
        rows = sum(len(batch.input_ids) for batch in batches)
        self.facts = {
            "tokenizer": f"{ready.tokenizer.name} ({ready.tokenizer.num_tokens:,} tokens)",
            "training": counts(ready.train),
            "validation": {**counts(ready.validation), "rows": rows, "digest": ready.validation.digest[:16]},
            "held_out": ready.held_out,
            "prepared": str(ready.train.path.parent),
        }

    @classmethod
    def is_ready(cls, config: TextConfig, world: World) -> bool:
        return is_ready(config, config.rows(world.size))

    def validate(self, model: LanguageModel) -> Slices:
        metrics = self._evaluation(model)
        del metrics["exact_match"]  # of a whole row
        metrics["perplexity"] = perplexity(metrics["loss"])
        metrics["bits_per_byte"] = bits_per_byte(metrics["loss"], self._validation)
        return [({"split": "validation"}, metrics)]

    def test(self, model: LanguageModel) -> Slices:
        return []  # there is no third set: what is reported was measured on the validation set


def counts(file: TokenFile) -> dict[str, Any]:
    assert file.meta is not None
    numbers = {name: file.meta[name] for name in ("documents", "tokens", "bytes")}
    dropped = {f"dropped_as_{reason.replace(' ', '_')}": n for reason, n in file.meta["dropped"].items()}
    return {**numbers, **dropped}
