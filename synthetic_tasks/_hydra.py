"""Hydra's grammar of overrides (`model=recurrent_olmo3 train.max_steps=400`) over the files in `conf/`."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.errors import UserError

CONF = Path(__file__).parent / "conf"


def composed(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The keys of `conf/NAME/config.yaml` with its groups and the overrides. Raises UserError."""
    of_hydra = [word for word in overrides if word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    if of_hydra:
        raise UserError(f"{of_hydra[0]}: Hydra only reads the keys here; output_dir says where a curve goes")
    try:
        with initialize_config_dir(str(CONF / name), version_base=None):
            keys = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group that is set to null
        raise UserError(_in_a_line(error)) from error
    assert isinstance(keys, dict)
    return {str(key): value for key, value in keys.items()}


def swept(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Each combination of the values that overrides such as `train.batch_size=8,16` list. Raises UserError."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        choices = [
            [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
            if o.is_sweep_override()
            else [o.input_line]
            for o in parsed
        ]
    except HydraException as error:
        raise UserError(_in_a_line(error)) from error
    for chosen in product(*choices):
        yield [str(word) for word in chosen]


def _in_a_line(error: Exception) -> str:
    """Hydra's message, which spreads over several lines, without what is said about its own insides."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    inner = ("full_key:", "object_type=", "reference_type=", "provider=", "Config search", "To append", "See ")
    said = [line for line in lines if line and not line.startswith(inner)]
    return "; ".join(said).replace(":; ", ": ").rstrip(".") + (
        "; there is no such key" if "Could not override '" in said[0] else ""
    )
