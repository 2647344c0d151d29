"""The shape of OLMo 3 models, and how a recurrent one loops."""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from core.config import Config

YARN = ("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow")
LayerType = Literal["sliding_attention", "full_attention"]


class Olmo3Shape(Config):
    """The settings of transformers' Olmo3Config, by its names, with the defaults of a small model."""

    vocab_size: int = Field(10_064, ge=1, description="token ids")
    hidden_size: int = Field(128, ge=1, description="width")
    intermediate_size: int = Field(512, ge=1, description="width inside an MLP")
    num_hidden_layers: int = Field(4, ge=1, description="layers; those of the loop count once")
    num_attention_heads: int = Field(4, ge=1, description="query heads of a layer")
    num_key_value_heads: int | None = Field(None, ge=1, description="key and value heads; null: as many as query heads")
    max_position_embeddings: int = Field(2048, ge=1, description="longest row")
    layer_types: list[LayerType] | None = Field(
        None, description="kind of each layer; null: every fourth has full_attention, the others sliding_attention"
    )
    sliding_window: int = Field(
        4096, ge=1, description="tokens that a layer with sliding_attention sees, its own included"
    )
    rope_theta: float = Field(500_000.0, gt=1, description="base of the rotary angles")
    rope_scaling: dict[str, float | str] | None = Field(None, description="YaRN of the layers with full_attention")
    bos_token_id: int | None = Field(0, ge=0, description="written to config.json")
    eos_token_id: int | None = Field(9500, ge=0, description="written to config.json")
    pad_token_id: int | None = Field(0, ge=0, description="written to config.json")
    tie_word_embeddings: bool = Field(False, description="the output projection is the embedding matrix")
    rms_norm_eps: float = Field(1e-5, gt=0, description="added to the mean square")
    initializer_range: float = Field(0.02, gt=0, description="standard deviation of the initial weights")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="on attention weights")
    attention_bias: bool = Field(False, description="biases in the projections of attention")
    hidden_act: Literal["silu"] = Field("silu", description="OLMo 3 has no other")
    use_cache: Literal[False] = Field(False, description="there is no cache")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be split over num_attention_heads {self.num_attention_heads} "
                "with an even number of channels each"
            )
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads {self.kv_heads}"
            )
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(f"layer_types names {len(self.layer_types)} layers, there are {self.num_hidden_layers}")
        _ = self.angles("full_attention")
        return self

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def types(self) -> list[LayerType]:
        """Of each layer."""
        every: list[LayerType] = [
            "full_attention" if i % 4 == 3 else "sliding_attention" for i in range(self.num_hidden_layers)
        ]
        return self.layer_types or every

    def angles(self, kind: LayerType) -> tuple[Tensor, float]:
        """Turn per position of each pair of channels, float32 (D/2,), and the factor on cosines and sines.

        Plain RoPE, or for layers that see everything YaRN (Peng et al., 2023, arXiv 2309.00071, sections 3.2 to 3.4).
        """
        turns = self.rope_theta ** -(torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        if self.rope_scaling is None or kind == "sliding_attention":
            return turns, 1.0
        known = {*YARN, "rope_type"}
        yarn = dict(self.rope_scaling)
        numbers = {name: value for name, value in yarn.items() if isinstance(value, (int, float))}
        if yarn.pop("rope_type", "yarn") != "yarn" or set(yarn) - known or len(numbers) < len(yarn):
            raise ValueError(f"rope_scaling {self.rope_scaling}: only YaRN is known, with {', '.join(sorted(known))}")
        if not {"factor", "original_max_position_embeddings"} <= set(yarn):
            raise ValueError("rope_scaling needs factor and original_max_position_embeddings")
        factor, original = numbers["factor"], numbers["original_max_position_embeddings"]

        def pair_that_turns(times: float) -> float:  # so often within the original length
            return self.head_dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(self.rope_theta))

        low = max(math.floor(pair_that_turns(numbers.get("beta_fast", 32.0))), 0)
        high = min(math.ceil(pair_that_turns(numbers.get("beta_slow", 1.0))), self.head_dim - 1)
        ramp = ((torch.arange(self.head_dim // 2) - low) / max(high - low, 1e-3)).clamp(0, 1)
        scale = numbers.get("attention_factor", 0.1 * math.log(factor) + 1 if factor > 1 else 1.0)
        return turns / factor * ramp + turns * (1 - ramp), float(scale)

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json."""
        kinds = ("sliding_attention", "full_attention")
        rope: dict[str, Any] = {kind: {"rope_type": "default", "rope_theta": self.rope_theta} for kind in kinds}
        if self.rope_scaling is not None:
            rope["full_attention"] |= {"rope_type": "yarn", **self.rope_scaling}
        own = self.model_dump(exclude={"rope_theta", "rope_scaling"})
        resolved = {"num_key_value_heads": self.kv_heads, "layer_types": self.types}
        named = {"model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"], "rope_parameters": rope}
        return {**own, **resolved, **named}

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """The shape in a config.json. Raises ValueError for a model of another kind."""
        if raw.get("model_type") != "olmo3":
            raise ValueError(f"model_type is {raw.get('model_type')!r}, not 'olmo3'")
        keys = {name: raw[name] for name in cls.model_fields if name in raw and name != "use_cache"}
        rope = raw.get("rope_parameters") or {}
        full = dict(rope.get("full_attention") or {})
        keys["rope_theta"] = float(full.pop("rope_theta", raw.get("rope_theta", 500_000.0)))
        scaling = full if full.get("rope_type", "default") != "default" else raw.get("rope_scaling")
        keys["rope_scaling"] = dict(scaling) if scaling else None
        eos = keys.get("eos_token_id")
        keys["eos_token_id"] = eos[0] if isinstance(eos, list) else eos
        return cls.model_validate(keys)


class Act(Config):
    """Every loop's prediction counts, weighted; the weights are learned."""

    enabled: bool = Field(False, description="weigh the predictions after each loop, and train all of them")
    kl_weight: float = Field(0.01, ge=0, description="of the divergence, in nats, of the weights from equal ones")
    halting: Literal["batch", "token"] = Field("batch", description="one set of weights per batch, or one per token")


class Recurrence(Config):
    """Of the layers the first encode, the next are looped, the last decode."""

    num_loops: int = Field(4, ge=1, description="times the loop layers are applied, on average if that is drawn")
    eval_loops: int | None = Field(None, ge=1, description="the same in evaluation; null: num_loops")
    encoder_layers: int = Field(1, ge=0, description="layers before the loop")
    loop_layers: int = Field(2, ge=1, description="layers in the loop")
    decoder_layers: int = Field(1, ge=0, description="layers after the loop")
    inject_input_each_step: bool = Field(False, description="each loop also reads the encoded input, through a matrix")
    loop_attention_mode: Literal["self", "cross"] = Field(
        "self", description="what loop layers attend to: the looped state, or always the encoded input"
    )
    random_init_loop_state: bool = Field(False, description="the looped state starts as noise, not as the input")
    random_init_std: float = Field(0.5, gt=0, description="standard deviation of that noise")
    tbptt_steps: int = Field(0, ge=0, description="gradients flow back through so many loops; 0: through all")
    train_recursion_mode: Literal["fixed", "poisson"] = Field(
        "fixed", description="loops in training: num_loops, or drawn for each batch with that mean, at least 1"
    )
    poisson_mode_offset: float = Field(0.001, ge=0, description="added to that mean")
    act: Act = Field(Act(), description="adaptive computation")

    @model_validator(mode="after")
    def _lets_the_input_and_gradients_through(self) -> Self:
        if self.inject_input_each_step or self.loop_attention_mode == "cross":
            return self
        remedy = "set inject_input_each_step, or loop_attention_mode: cross"
        if self.random_init_loop_state:
            raise ValueError(
                f"random_init_loop_state cuts the input off, since nothing else leads into the loop; {remedy}"
            )
        if self.tbptt_steps:
            raise ValueError(
                f"tbptt_steps {self.tbptt_steps} leaves the embedding and the encoder without gradient, since they "
                f"reach the last loops through all others only; {remedy}, or tbptt_steps: 0"
            )
        return self

    def check_layers(self, num_hidden_layers: int) -> None:
        """Raises ValueError unless every layer has its place."""
        parts = self.encoder_layers, self.loop_layers, self.decoder_layers
        if sum(parts) != num_hidden_layers:
            raise ValueError(
                f"encoder_layers {parts[0]}, loop_layers {parts[1]} and decoder_layers {parts[2]} are {sum(parts)}, "
                f"but num_hidden_layers is {num_hidden_layers}; they must add up"
            )
