"""Chosen parts of trained models in a new one, and a table that says what became of every parameter."""

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from core import donor, rng
from core.config import home
from core.donor import Donor
from core.errors import UserError
from core.hf import UnreadableModel
from core.model import GPT
from core.report import table

Component = Literal["attn", "heads", "attn+ln", "ffn", "ln", "embed", "everything"]
Embedding = Literal["average", "average_noise", "partial_matching", "retain"]
Control = Literal["shuffle_weights", "reinit"]

PATTERNS: dict[Component, str] = {  # names of parameters that belong to a component
    "attn": r"blocks\.\d+\.attn\.",
    "heads": r"blocks\.\d+\.attn\.qkv\.",
    "attn+ln": r"blocks\.\d+\.(attn|ln_1)\.",
    "ffn": r"blocks\.\d+\.mlp\.",
    "ln": r"blocks\.\d+\.ln_[12]\.|ln_f\.",
    "embed": r"(wte|wpe|wde|head)\.",
    "everything": r"",
}


@dataclass(frozen=True)
class Part:
    """What to take, and where from."""

    source: Donor
    components: Sequence[Component]
    key: str  # the configuration's key that named the source, for messages


@dataclass(frozen=True)
class Transfer:
    """Which parameters of a new model start from trained ones, and which are trained on.

    `embedding` decides on the token embedding and the output projection, wherever `embed` or `everything` is taken:

    `average`: every row is the mean of the source's rows. All tokens start equal, so the first gradients reach nothing
    but an untied projection. `average_noise`: to that mean comes normal noise with the spread of the source's rows,
    channel by channel. `partial_matching`: the source's rows, and their mean for the further tokens. `retain`: the
    source's rows; the vocabularies must be equally large.

    The projection follows the source's projection, which is its embedding where the source is tied; in a tied target it
    is the embedding, and the projection of an untied source is not used. Of learned positions, those that both have are
    copied.

    `control` takes the place of the trained weights: `shuffle_weights` permutes the values within each tensor,
    `reinit` takes an untrained model of the same shape.
    """

    parts: Sequence[Part] = ()
    embedding: Embedding = "average"
    trained: Sequence[Component] = ("everything",)
    control: Control | None = None
    seed: int = 0  # of noise and controls


@dataclass
class Fate:
    """What became of one parameter."""

    became: str = "skipped"  # it keeps its initial values
    source: str = "-"
    trained: bool = True


@dataclass
class Report:
    """What became of every parameter by name."""

    fates: dict[str, Fate]
    sizes: dict[str, int]
    notes: list[str] = field(default_factory=list)

    @property
    def says_nothing(self) -> bool:
        """Whether every parameter keeps its initial value and is trained, as in a model without transfer."""
        return all(fate == Fate() for fate in self.fates.values())

    def rows(self) -> list[dict[str, Any]]:
        """A row for each group of parameters that is the same in all blocks."""
        groups: dict[tuple[str, str, str, str], int] = {}
        for name, fate in self.fates.items():
            group = re.sub(r"^blocks\.\d+\.|\.(weight|bias)$", "", name)
            key = group, fate.became, fate.source, "trained" if fate.trained else "frozen"
            groups[key] = groups.get(key, 0) + self.sizes[name]
        names = ("group", "became", "source", "then")
        return [dict(zip(names, key, strict=True)) | {"parameters": f"{n:,}"} for key, n in groups.items()]

    def __str__(self) -> str:
        return "\n".join([table(self.rows(), ("group", "parameters", "became", "then", "source")), *self.notes])


def belongs(name: str, components: Iterable[Component]) -> bool:
    return any(re.match(PATTERNS[component], name) for component in components)


def apply(model: GPT, transfer: Transfer) -> Report:
    """Puts the parts into the model and freezes what is not to be trained.

    Raises UserError, before the model is changed, if a source does not fit, if two parts claim the same parameter, or
    if nothing would be copied or trained.
    """
    parameters = dict(model.named_parameters())
    if not any(belongs(name, transfer.trained) for name in parameters):
        raise UserError(f"nothing is left to be trained; name at least one of {', '.join(PATTERNS)}")
    report = Report({name: Fate() for name in parameters}, {name: p.numel() for name, p in parameters.items()})
    values: dict[str, Tensor] = {}
    for number, part in enumerate(transfer.parts):
        source = part.source
        _check_shape(model, part)
        if not source.knows_heads:
            report.notes.append(f"{source.path} does not say how many heads it has; taken as {model.config.n_head}")
        key = rng.generator("transfer", transfer.seed, "", number).integers(2**63)
        generator = torch.Generator().manual_seed(int(key))
        controlled = _controlled(source.model, transfer.control, generator)
        copied = {None: "copied", "shuffle_weights": "shuffled", "reinit": "re-drawn"}[transfer.control]
        taken = [name for name in parameters if belongs(name, part.components)]
        if not taken:
            raise UserError(f"{part.key}: nothing was copied; name at least one of {', '.join(PATTERNS)}")
        for name in taken:
            if name in values:
                raise UserError(f"{part.key}: {name} would be taken from {report.fates[name].source}, too")
            how = transfer.embedding
            values[name], became = _value(name, parameters[name], controlled, how, copied, generator, part)
            report.fates[name] = Fate(became, str(source.path))
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
    for name, parameter in parameters.items():
        parameter.requires_grad_(belongs(name, transfer.trained))
        report.fates[name].trained = parameter.requires_grad
    return report


def read(path: str, key: str) -> Donor:
    """The model to take weights from, named by a key of the configuration. Raises UserError in one line."""
    try:
        return donor.read(home(path))
    except UnreadableModel as error:
        raise UserError(f"{key}: {error}") from error


def _check_shape(model: GPT, part: Part) -> None:
    """Depth, width, heads and the kind of positions decide on what weights mean, so they must be the same."""
    source, names = part.source, ["n_layer", "n_embd", "positions"]
    if source.knows_heads:
        names += ["n_head", *(["rope_theta"] if model.config.positions == "rope" else [])]
    if belongs("wpe.weight", part.components):
        names.append("tokens_per_number")
    pairs = [(name, getattr(source.config, name), getattr(model.config, name)) for name in names]
    wrong = [f"{name} is {theirs} there and {ours} here" for name, theirs, ours in pairs if theirs != ours]
    if wrong:
        raise UserError(f"{part.key}: {source.path} does not fit the model: {'; '.join(wrong)}")


@torch.no_grad()
def _controlled(model: GPT, control: Control | None, generator: torch.Generator) -> GPT:
    if control is None:
        return model
    model = copy.deepcopy(model)
    if control == "reinit":
        model.initialise(generator)
    if control == "shuffle_weights":
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return model


def _value(
    name: str, fresh: Tensor, source: GPT, how: Embedding, copied: str, generator: torch.Generator, part: Part
) -> tuple[Tensor, str]:
    """What a parameter becomes, and in words."""
    theirs = source.get_parameter(name).detach()
    if name in ("wte.weight", "head.weight"):
        return _rows(len(fresh), theirs, how, copied, generator, part)
    if name == "wpe.weight" and len(theirs) != len(fresh):
        shared = min(len(theirs), len(fresh))
        value = fresh.detach().clone()
        value[:shared] = theirs[:shared]
        return value, f"{shared} of {len(fresh)} rows {copied}"
    return theirs, copied


def _rows(
    number: int, theirs: Tensor, how: Embedding, copied: str, generator: torch.Generator, part: Part
) -> tuple[Tensor, str]:
    """`number` rows from `theirs` (V, C)."""
    V, C = theirs.shape
    mean = theirs.mean(dim=0)
    if how == "average":
        return mean.expand(number, C), f"mean of {V} rows"
    if how == "average_noise":
        noise = torch.randn(number, C, generator=generator) * theirs.std(dim=0, correction=0)
        return mean + noise, f"mean of {V} rows + noise"
    too_many, as_many = number < V, number == V
    if (how == "retain" and not as_many) or too_many:
        needs = "as many" if how == "retain" else "at least as many"
        raise UserError(
            f"{part.key}: {part.source.path} has {V} tokens and the model {number}; {how} needs {needs}, "
            "average takes any"
        )
    value = torch.cat([theirs, mean.expand(number - V, C)])
    return value, copied if as_many else f"{V} of {number} rows {copied}, the others their mean"
