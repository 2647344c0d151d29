"""English text or source code as a corpus: token files that are made once, windows of them, bits per byte."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from core.config import home
from core.distributed import World
from core.errors import UserError
from core.evaluate import Evaluation, Slices
from core.files import lock
from core.model import LanguageModel
from core.token_files import TokenFile
from core.token_writer import write
from core.tokenizer import Tokenizer
from core.windows import Windows, bits_per_byte, evaluation_windows
from downstream.semantic.config import TextConfig
from downstream.semantic.corpus import Corpus
from downstream.semantic.exam import perplexity
from downstream.semantic.text_sources import Sources, sources, tokenizer_of


class TextCorpus(Corpus):
    def __init__(self, config: TextConfig, world: World):
        """Raises UserError for data that are missing, empty, or too short for a row."""
        chosen = sources(config)
        folder = self._folder(config, chosen, world)
        with lock(folder, waits=True):
            tokenizer = tokenizer_of(config, chosen.train, folder)
            validation = self._token_file(folder / "validation.bin", chosen.validation, tokenizer, config, world)
            train = self._token_file(folder / "train.bin", chosen.train, tokenizer, config, world, validation)
        length = config.seq_length
        try:
            self.source = Windows([train], length, config.seed, name="semantic", document_mask=config.isolated)
            batches = evaluation_windows(
                validation, length, config.eval_windows, config.at_once, document_mask=config.isolated
            )
        except ValueError as error:
            raise UserError(f"seq_length: {error}") from error
        if not batches:
            raise UserError(
                f"seq_length: {validation.path} has {len(validation):,} tokens, too few for one of {length}"
            )
        self.num_tokens = tokenizer.num_tokens
        self.passes = config.rows(world.size) / len(self.source)
        self._train, self._validation, self._tokenizer, self._chosen = train, validation, tokenizer, chosen
        self._evaluation = Evaluation(batches[world.rank :: world.size], world)
        self._rows = sum(len(batch.input_ids) for batch in batches)
        self.digest = f"{train.digest[:16]}-{validation.digest[:16]}"

    def _folder(self, config: TextConfig, chosen: Sources, world: World) -> Path:
        """Named by all that decides on what is in it."""
        settings: list[Any] = [config.text_column, config.tokenizer, config.max_documents]
        settings += [self._validation_documents(config)]
        settings += [config.vocab_size] if config.tokenizer == "train" else []
        settings += [self._most_tokens(config, world)]
        key = hashlib.blake2b(json.dumps([chosen.key, settings]).encode(), digest_size=8).hexdigest()
        folder = home(config.prepared_dir) / f"{config.name}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _most_tokens(self, config: TextConfig, world: World) -> int | None:
        """Of the hub no more is read than a run needs; files are read whole, as their order means something."""
        if config.data is not None:
            return None
        return -(-config.rows(world.size) // (config.passes or 1)) * config.seq_length + 1

    def _validation_documents(self, config: TextConfig) -> int | None:
        """At most; what is held out of local data is all measured on."""
        return config.validation_documents if config.data is None else None

    def _token_file(
        self,
        path: Path,
        documents: Any,
        tokenizer: Tokenizer,
        config: TextConfig,
        world: World,
        exclude: TokenFile | None = None,
    ) -> TokenFile:
        """Made if it is not whole; training files without the documents that are in the validation file."""
        if not path.with_suffix(".meta.json").exists():
            is_training = exclude is not None
            limit = config.max_documents if is_training else self._validation_documents(config)
            most = self._most_tokens(config, world) if is_training else None
            write(path, documents, tokenizer, limit=limit, most_tokens=most, exclude=[exclude] if exclude else [])
        file = TokenFile(path, tokenizer, advice="delete its folder to have it made anew")
        if not len(file):
            raise UserError(f"{'data' if config.data else 'dataset'}: there are no documents for {path.stem}")
        return file

    @cached_property
    def facts(self) -> dict[str, Any]:  # type: ignore[override]
        return {
            "tokenizer": f"{self._tokenizer.name} ({self._tokenizer.num_tokens:,} tokens)",
            "training": counts(self._train),
            "validation": {**counts(self._validation), "rows": self._rows, "digest": self._validation.digest[:16]},
            "held_out": self._chosen.held_out,
            "prepared": str(self._train.path.parent),
        }

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
