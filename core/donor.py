"""A trained model to take weights from, in whatever form it was left."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core import checkpoint, hf
from core.hf import UnreadableModel
from core.model import GPT, GPTConfig


@dataclass(frozen=True)
class Donor:
    path: Path
    model: GPT
    knows_heads: bool  # a file of tensors alone does not say how many heads its attention has

    @property
    def config(self) -> GPTConfig:
        return self.model.config

    def digest(self) -> str:
        """Of its weights: the same wherever they lie, and in whatever form."""
        total = hashlib.blake2b(digest_size=8)
        for name, parameter in self.model.named_parameters():
            total.update(f"{name} {tuple(parameter.shape)} ".encode())
            total.update(parameter.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()


def read(path: Path) -> Donor:
    """The model in a checkpoint folder (ours, or one of `transformers`' GPT-2 and GPT-NeoX) or in a file of tensors.

    A file holds tensors under the names of `GPT2LMHeadModel` or of our own model, alone or under the key `model` or
    `state_dict`, as `torch.save` or safetensors writes them. Names may carry the prefixes that `torch.compile` and
    DistributedDataParallel add. Raises UnreadableModel, in one line, for anything else.
    """
    model = _of_file(path) if path.is_file() else _of_folder(path)
    spoiled = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    if spoiled:
        raise UnreadableModel(f"{path}: {spoiled[0]} holds values that are not finite; the run behind it diverged")
    return Donor(path, model, knows_heads=path.is_dir())


def _of_folder(path: Path) -> GPT:
    if problem := checkpoint.missing(path):
        raise UnreadableModel(problem)
    problem = checkpoint.damage(path) if (path / checkpoint.MANIFEST).exists() else None
    if problem:
        raise UnreadableModel(f"{path} is damaged: {problem}")
    return hf.load(path)


def _of_file(path: Path) -> GPT:
    try:
        content = load_file(path) if path.suffix == ".safetensors" else hf.read_pickled(path)
    except (OSError, SafetensorError) as error:
        raise UnreadableModel(f"{path} holds no readable model: {error}") from error
    weights = _named_tensors(content, path)
    config = _shape(weights, path)
    model = GPT(config)
    if any(name.startswith("blocks.") for name in weights):
        hf.fill(model, {n: x for n, x in weights.items() if not (config.tied and n == "head.weight")}, path)
    else:
        hf.load_weights(model, weights, path)
    return model


def _named_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        content = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), dict)), content)
    tensors = {n: x for n, x in content.items() if isinstance(x, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise UnreadableModel(f"{path} holds no named tensors, neither by themselves nor under model or state_dict")
    return {hf.unwrapped(str(name)): tensor for name, tensor in tensors.items()}


def _shape(weights: dict[str, Tensor], path: Path) -> GPTConfig:
    """The shape that the tensors have, as with one head. Without learned positions it has rotary ones."""

    def find(ending: str) -> Tensor | None:
        matrices = (x for name, x in weights.items() if name.endswith(ending) and x.dim() == 2)
        return next(matrices, None)

    embedding, positions, head = find("wte.weight"), find("wpe.weight"), find("head.weight")
    blocks = {m[1] for name in weights if (m := re.search(r"(?:^|\.)(?:h|blocks)\.(\d+)\.", name))}
    if embedding is None or not blocks:
        some = ", ".join(list(weights)[:3])
        raise UnreadableModel(f"{path} holds no GPT that can be read from a single file; its tensors are {some}, ...")
    try:
        return GPTConfig(
            num_tokens=len(embedding),
            n_positions=1 if positions is None else len(positions),
            n_layer=len(blocks),
            n_head=1,
            n_embd=embedding.shape[1],
            positions="rope" if positions is None else "learned",
            tied=head is None or torch.equal(head, embedding),
        )
    except ValueError as error:
        raise UnreadableModel(f"{path}: {error}") from error
