"""What is measured now and then: every stage's validation text, what is held out, and samples on the screen."""

from collections.abc import Sequence

import torch

from core.distributed import World
from core.errors import UserError
from core.evaluate import Asking, Evaluation, Slices
from core.generate import continuations
from core.model import LanguageModel
from core.token_files import TokenFile
from core.tokenizer import Tokenizer
from core.windows import bits_per_byte, evaluation_windows
from curriculum.config import TrainingConfig
from curriculum.data import VALIDATION_WINDOWS
from curriculum.plan import Files
from curriculum.stages import Text


class Validation:
    """Plain cross-entropy on fixed windows of every text, each of its own length, the last stage's first."""

    def __init__(self, config: TrainingConfig, files: Files, tokenizer: Tokenizer, world: World):
        self._config, self._tokenizer, self._world = config, tokenizer, world
        *earlier, last = config.stages
        held_out = [config.held_out] if config.held_out else []
        texts: list[Text] = [last, *earlier, *held_out]
        self._prompts = encoded(config.sample_prompts, tokenizer, "sample_prompts")
        self._measures = [(text, files[text.name]["val"], self._evaluation(text, files)) for text in texts]

    def _evaluation(self, text: Text, files: Files) -> Evaluation:
        config, world, block = self._config, self._world, text.block_size
        file, most = files[text.name]["val"], max(VALIDATION_WINDOWS, config.eval_tokens // block)
        mask = config.document_mask
        batches = evaluation_windows(file, block, most, config.batch_size_of(block), document_mask=mask)
        return Evaluation(batches[world.rank :: world.size], world)

    def __call__(self, model: LanguageModel, step: int) -> Asking[Slices]:
        slices: list[tuple[dict[str, int | str], dict[str, float]]] = []
        for text, file, measure in self._measures:
            where: dict[str, int | str] = {"split": "validation", "stage": text.name, "block_size": text.block_size}
            slices.append((where, metrics_of((yield measure), file)))
        if self._prompts and self._world.is_main:
            self._world.say(samples(self._config, self._prompts, model, self._tokenizer, step))
        return slices


def metrics_of(found: dict[str, float], file: TokenFile) -> dict[str, float]:
    """Without exact_match, which no window of running text ever is."""
    loss = found["loss"]
    per_byte = {"bits_per_byte": bits_per_byte(loss, file)} if file.meta else {}
    return {"loss": loss, "accuracy": found["accuracy"], **per_byte}


def encoded(prompts: Sequence[str], tokenizer: Tokenizer, key: str) -> list[list[int]]:
    """The ids of prompts. Raises UserError, naming their key, for one of whose characters the tokenizer has none."""
    ids = [own.tolist() for own in tokenizer.encode(prompts)]
    if unknown := [prompt for prompt, own in zip(prompts, ids, strict=True) if not own]:
        raise UserError(f"{key}: the tokenizer {tokenizer.name} has no token for {unknown[0]!r}")
    return ids


def samples(
    config: TrainingConfig, prompts: list[list[int]], model: LanguageModel, tokenizer: Tokenizer, step: int
) -> str:
    """What the model writes after each of `sample_prompts`; drawn anew, and the same, whenever this step is reached."""
    found = continuations(
        model,
        prompts,
        stop=tokenizer.end_of_text,
        most=config.sample_tokens,
        temperature=config.sample_temperature,
        generator=torch.Generator().manual_seed(step),
    )
    texts = zip(config.sample_prompts, map(tokenizer.decode, found), strict=True)
    return "\n".join([f"step {step} writes", *(f"  {prompt!r} -> {text!r}" for prompt, text in texts)])
