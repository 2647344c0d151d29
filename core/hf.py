"""The same weights as folders that `transformers` loads.

Learned positions are a GPT2LMHeadModel, rotary ones a GPTNeoXForCausalLM. Positions that are a sum of number and digit
are written as the table they add up to, which is all that `transformers` needs; the parts, which ours needs to go on
training, stand beside it in `position_parts.safetensors`.
"""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.files import write_tensors
from core.model import GPT, GPTConfig

GPT2_NAMES = {  # ours -> theirs, inside a block
    "ln_1": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.proj": "attn.c_proj",
    "ln_2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
NEOX_NAMES = {
    "ln_1": "input_layernorm",
    "attn.qkv": "attention.query_key_value",
    "attn.proj": "attention.dense",
    "ln_2": "post_attention_layernorm",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}
GPT2_REQUIRED = {  # settings of a GPT2Config that our model has no other form of
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
NEOX_REQUIRED = {  # the same of a GPTNeoXConfig
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": False,
    "attention_bias": True,
}
NEOX_DEFAULTS = {"hidden_act": "gelu", "use_parallel_residual": True}  # what a key that is left out means there
PARTS_OF_POSITIONS = ("wpe.weight", "wde.weight")  # of number and digit ...
POSITION_PARTS = "position_parts.safetensors"  # ... and the file that they are in


class UnreadableModel(ValueError):
    """A folder holds no model, a damaged one, or one that ours cannot express."""


@runtime_checkable
class OwnLayout(Protocol):
    """A model of another kind than GPT, which knows the folders that it is kept in."""

    def save_pretrained(self, folder: Path) -> None: ...

    def load_weights(self, folder: Path) -> None: ...


def save(model: nn.Module, folder: Path, pad_token: int | None = None, eos_token: int | None = None) -> None:
    """Writes `config.json` and `model.safetensors` into an existing folder.

    Ids of tokens that the vocabulary does not have are written as null: GPT-2's own 50256 would lie outside it.
    """
    if isinstance(model, OwnLayout):
        return model.save_pretrained(folder)
    assert isinstance(model, GPT)
    special = {"bos_token_id": None, "eos_token_id": eos_token, "pad_token_id": pad_token}
    (folder / "config.json").write_text(json.dumps(config_to_hf(model.config) | special, indent=2) + "\n")
    write_tensors(weights_to_hf(model), folder / "model.safetensors", metadata={"format": "pt"})
    if model.config.tokens_per_number > 1:
        parts = {name: p.detach() for name, p in model.named_parameters() if name in PARTS_OF_POSITIONS}
        write_tensors(parts, folder / POSITION_PARTS)


def load(folder: Path, length: int = 1) -> GPT:
    """The model in a folder that `save` or `transformers` wrote. Raises UnreadableModel with the reason.

    `length`: tokens of the longest sequence it is to read, for which rotary positions go on as far as needed.
    """
    try:
        config = config_from_hf(json.loads((folder / "config.json").read_text()))
        weights = read_weights(folder)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise UnreadableModel(f"{folder} holds no readable model: {error}") from error
    except UnreadableModel:
        raise
    except KeyError as error:
        raise UnreadableModel(f"{folder}/config.json: {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UnreadableModel(f"{folder}/config.json: {error}") from error
    if config.positions == "rope":
        config = replace(config, n_positions=max(config.n_positions, length))
    if PARTS_OF_POSITIONS[1] not in weights:  # `transformers` saved it, which keeps their sum alone
        config = replace(config, tokens_per_number=1)
    model = GPT(config)
    load_weights(model, weights, folder)
    return model


def restore(model: nn.Module, folder: Path) -> None:
    """Puts the weights that `save` wrote into a model of the same shape. Raises UnreadableModel."""
    if isinstance(model, OwnLayout):
        return model.load_weights(folder)
    assert isinstance(model, GPT)
    load_weights(model, read_weights(folder), folder)


def download(name: str) -> Path:
    """The folder of a model of the Hugging Face hub, from its cache on this machine or else fetched.

    Raises UnreadableModel if there is no such model or it cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, allow_patterns=["config.json", "*.safetensors", "*.safetensors.index.json"])
        )
    except (OSError, ValueError, RuntimeError) as error:  # what the hub's errors are, and those of its connections
        reason = str(error).strip().partition("\n")[0]
        raise UnreadableModel(f"{name} is no folder, and the hub gave no such model: {reason}") from error


def load_grown(model: GPT, folder: Path) -> int:
    """Puts a trained model of the same shape into a new one whose vocabulary may be larger; returns the rows kept.

    Row v goes on meaning token v, further rows keep their initial values; with RoPE, sequences may have any length.
    Raises UnreadableModel, before the new model is touched, for any other difference.
    """
    old = load(folder)
    free = {"num_tokens", "dropout"} | ({"n_positions"} if model.config.positions == "rope" else set())
    ours, theirs = asdict(model.config), asdict(old.config)
    wrong = [f"{name} is {theirs[name]}, not {ours[name]}" for name in ours if theirs[name] != ours[name]]
    wrong = [text for text in wrong if text.partition(" ")[0] not in free]
    if old.config.num_tokens > model.config.num_tokens:
        wrong.append(f"num_tokens is {old.config.num_tokens}, more than {model.config.num_tokens}")
    if wrong:
        raise UnreadableModel(f"{folder}: {'; '.join(wrong)}")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in old.named_parameters():
            parameters[name][: len(parameter)] = parameter
    return old.config.num_tokens


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor that `save` or `transformers` wrote, in one file or several, under the names it has there."""
    whole, index, old = (folder / n for n in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"))
    if whole.exists() or not (index.exists() or old.exists()):
        parts = folder / POSITION_PARTS
        return load_file(whole) | (load_file(parts) if parts.exists() else {})
    if index.exists():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return {name: tensor for file in files for name, tensor in load_file(folder / Path(file).name).items()}
    weights = read_pickled(old)
    if not isinstance(weights, dict):
        raise UnreadableModel(f"{old} holds {type(weights).__name__}, not named tensors")
    return weights


def read_pickled(path: Path) -> Any:
    """What `torch.save` wrote, read without running any code in it. Raises UnreadableModel in one line."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail in any way
        text = str(error)
        reason = "it holds more than tensors and plain values" if "weights_only" in text else text.partition("\n")[0]
        raise UnreadableModel(f"{path} holds no readable model: {reason or type(error).__name__}") from error


def load_weights(model: GPT, weights: dict[str, Tensor], source: Path) -> None:
    """Copies tensors in the layout of `transformers` into the model; raises UnreadableModel unless all of them fit."""
    fill(model, weights_from_hf(weights, model.config), source)


def fill(model: nn.Module, own: dict[str, Tensor], source: Path) -> None:
    """Copies tensors under our own names (without a tied head) into the model; raises UnreadableModel as above."""
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in own.items()}
    wrong = [f"{n} is {found.get(n, 'missing')}, not {s}" for n, s in expected.items() if found.get(n) != s]
    wrong += [f"{n} is not part of the model" for n in found if n not in expected]
    if wrong:
        raise UnreadableModel(f"{source}: {'; '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}")
    model.load_state_dict(own, strict=False)  # checked above; a tied head is not in `own`


def unwrapped(name: str) -> str:
    """The name a parameter has without `torch.compile` and DistributedDataParallel around its module."""
    return re.sub(r"(^|(?<=\.))(_orig_mod|module)\.", "", name)


def config_to_hf(config: GPTConfig) -> dict[str, Any]:
    """The content of config.json: of a GPT2Config for learned positions, else of a GPTNeoXConfig."""
    common = {
        "vocab_size": config.num_tokens,
        "tie_word_embeddings": config.tied,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "float32",
    }
    if config.positions == "learned":
        return common | {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_positions": config.n_positions,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "attn_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
            **GPT2_REQUIRED,
            **({"tokens_per_number": config.tokens_per_number} if config.tokens_per_number > 1 else {}),
        }
    return common | {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "max_position_embeddings": config.n_positions,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd,
        "attention_dropout": config.dropout,
        "hidden_dropout": config.dropout,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": 1.0,
        },
        **NEOX_REQUIRED,
    }


def config_from_hf(raw: dict[str, Any]) -> GPTConfig:
    """Raises ValueError for an architecture or a setting that our model does not have."""
    kind = raw.get("model_type")
    if kind not in ("gpt2", "gpt_neox"):
        raise ValueError(f"model_type is {kind!r}; readable are gpt2 and gpt_neox")
    required = GPT2_REQUIRED if kind == "gpt2" else NEOX_REQUIRED
    defaults = required if kind == "gpt2" else required | NEOX_DEFAULTS
    for key, value in required.items():
        found = raw.get(key, defaults[key])
        if found != value:
            raise ValueError(f"{key} is {found!r}; readable is {value!r}")
    tied = raw.get("tie_word_embeddings", kind == "gpt2")  # the defaults of transformers differ
    if kind == "gpt2":
        if raw.get("n_inner") not in (None, 4 * raw["n_embd"]):
            raise ValueError(f"n_inner is {raw['n_inner']}; readable is {4 * raw['n_embd']}")
        shape = (raw["vocab_size"], raw["n_positions"], raw["n_layer"], raw["n_head"], raw["n_embd"])
        dropout, per_number = raw.get("resid_pdrop", 0.1), raw.get("tokens_per_number", 1)
        return GPTConfig(*shape, positions="learned", tied=tied, dropout=dropout, tokens_per_number=per_number)
    if raw["intermediate_size"] != 4 * raw["hidden_size"]:
        raise ValueError(f"intermediate_size is {raw['intermediate_size']}; readable is {4 * raw['hidden_size']}")
    rope = raw.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor") != 1.0:
        raise ValueError(f"rope_parameters are {rope}; readable are rope_type 'default' with partial_rotary_factor 1.0")
    layers, heads = raw["num_hidden_layers"], raw["num_attention_heads"]
    shape = (raw["vocab_size"], raw["max_position_embeddings"], layers, heads, raw["hidden_size"])
    dropout = raw.get("hidden_dropout", 0.0)
    return GPTConfig(*shape, positions="rope", tied=tied, dropout=dropout, rope_theta=rope["rope_theta"])


def weights_to_hf(model: GPT) -> dict[str, Tensor]:
    """Every parameter once (a tied head only as the embedding), under the names and in the shapes of `transformers`."""
    own = {name: p.detach() for name, p in model.named_parameters()}
    if model.config.tokens_per_number > 1:
        own = {name: x for name, x in own.items() if name not in PARTS_OF_POSITIONS}
        own["wpe.weight"] = model.position_table().detach()
    return {_name_to_hf(name, model.config): _tensor_to_hf(name, x, model.config) for name, x in own.items()}


def weights_from_hf(weights: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """The inverse. Unknown tensors keep their names; buffers of old GPT-2 files and the copy of a tied head go."""
    names = {_name_to_hf(name, config): name for name in GPT(_smallest_like(config)).state_dict()}
    own = {}
    for theirs, tensor in weights.items():
        theirs = unwrapped(theirs)
        if theirs.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", ".attention.bias")):
            continue
        if config.tokens_per_number > 1 and theirs in PARTS_OF_POSITIONS:
            own[theirs] = tensor
            continue
        if config.tokens_per_number > 1 and theirs == "transformer.wpe.weight":
            continue  # the sum of the parts
        if config.positions == "learned" and not theirs.startswith(("transformer.", "lm_head.")):
            theirs = "transformer." + theirs  # a GPT2Model saved without its head
        name = names.get(theirs, theirs)
        if name == "head.weight" and config.tied:
            continue
        own[name] = _tensor_from_hf(name, tensor, config)
    return own


def _smallest_like(config: GPTConfig) -> GPTConfig:
    """A model with the same parameter names at no cost."""
    width = 2 if config.positions == "rope" else 1
    parts = config.tokens_per_number
    return GPTConfig(
        1, 1, config.n_layer, 1, width, positions=config.positions, tied=config.tied, tokens_per_number=parts
    )


def _name_to_hf(name: str, config: GPTConfig) -> str:
    learned = config.positions == "learned"
    if name.startswith("blocks."):
        _, layer, rest = name.split(".", 2)
        module, _, kind = rest.rpartition(".")
        if learned:
            return f"transformer.h.{layer}.{GPT2_NAMES[module]}.{kind}"
        return f"gpt_neox.layers.{layer}.{NEOX_NAMES[module]}.{kind}"
    if name == "head.weight":
        return "lm_head.weight" if learned else "embed_out.weight"
    if learned:
        return f"transformer.{name}"
    module, _, kind = name.partition(".")
    return {"wte": "gpt_neox.embed_in", "ln_f": "gpt_neox.final_layer_norm"}[module] + f".{kind}"


def _is_matrix(name: str) -> bool:
    return name.startswith("blocks.") and name.endswith(".weight") and ".ln_" not in name


def _tensor_to_hf(name: str, tensor: Tensor, config: GPTConfig) -> Tensor:
    if config.positions == "learned":  # GPT-2's Conv1D keeps its matrices transposed
        return tensor.t().contiguous() if _is_matrix(name) else tensor.contiguous()
    if ".attn.qkv." in name:  # ours (3, H, D), NeoX (H, 3, D)
        return tensor.unflatten(0, (3, config.n_head, -1)).transpose(0, 1).flatten(0, 2).contiguous()
    return tensor.contiguous()


def _tensor_from_hf(name: str, tensor: Tensor, config: GPTConfig) -> Tensor:
    if config.positions == "learned":
        return tensor.t() if _is_matrix(name) else tensor
    if ".attn.qkv." in name and tensor.shape[0] % (3 * config.n_head) == 0:
        return tensor.unflatten(0, (config.n_head, 3, -1)).transpose(0, 1).flatten(0, 2)
    return tensor
