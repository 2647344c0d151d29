"""OLMo 3 with a loop: some layers encode, some are applied again and again, some decode.

OLMo 3 (Olmo team, 2025) is a decoder with RMS norms after attention and MLP, and on queries and keys; the loop is that
of depth-recurrent models (Geiping et al., 2025, arXiv 2502.05171). With one loop and nothing else it is plain OLMo 3,
whose weights it reads and writes.

B batch, T tokens, C channels, H heads, D channels per head, V vocabulary; loops are counted from 1 to `loops`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from core.batch import Rows
from core.files import write_tensors
from core.hf import UnreadableModel, fill, read_weights
from core.loss import cross_entropy_sum
from core.model import LanguageModel, own_positions, own_rows
from synthetic_tasks.models.olmo3_config import Act, Olmo3Shape, Recurrence

RECURRENT = "recurrent.safetensors"  # the weights that plain OLMo 3 does not have
EVALUATION_SEED = 0  # of the noise that loops start from outside training


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class View(NamedTuple):
    """What the layers of a kind see, and how positions turn."""

    cos: Tensor  # (T, D), or (B, 1, T, D)
    sin: Tensor
    mask: Tensor | None  # bool, (T, T) or (B, 1, T, T): which tokens each one sees; None: all up to its own

    def turn(self, x: Tensor) -> Tensor:
        """Each pair (x[i], x[i + D/2]) of (B, H, T, D) by the angle of its position."""
        left, right = x.chunk(2, dim=-1)
        return (x * self.cos + torch.cat([-right, left], dim=-1) * self.sin).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, shape: Olmo3Shape):
        super().__init__()
        width, bias, eps = shape.hidden_size, shape.attention_bias, shape.rms_norm_eps
        kv_width = shape.kv_heads * shape.head_dim
        self.heads, self.kv_heads, self.dropout = shape.num_attention_heads, shape.kv_heads, shape.attention_dropout
        self.q_proj, self.k_proj = nn.Linear(width, width, bias=bias), nn.Linear(width, kv_width, bias=bias)
        self.v_proj, self.o_proj = nn.Linear(width, kv_width, bias=bias), nn.Linear(width, width, bias=bias)
        self.q_norm, self.k_norm = RMSNorm(width, eps), RMSNorm(kv_width, eps)

    def read(self, x: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Keys and values of (B, T, C), each (B, kv heads, T, D)."""
        return view.turn(_heads(self.k_norm(self.k_proj(x)), self.kv_heads)), _heads(self.v_proj(x), self.kv_heads)

    def forward(self, x: Tensor, view: View, source: tuple[Tensor, Tensor]) -> Tensor:
        """What x (B, T, C) reads of the keys and values of `source`, as `read` gives them: (B, T, C)."""
        q = view.turn(_heads(self.q_norm(self.q_proj(x)), self.heads))
        k, v = source
        dropout = self.dropout if self.training else 0.0
        grouped = self.heads > self.kv_heads
        y = F.scaled_dot_product_attention(
            q, k.type_as(q), v.type_as(q), view.mask, dropout, is_causal=view.mask is None, enable_gqa=grouped
        )
        return self.o_proj(y.transpose(1, 2).flatten(2))


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class MLP(nn.Module):
    def __init__(self, shape: Olmo3Shape):
        super().__init__()
        width, inner = shape.hidden_size, shape.intermediate_size
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Olmo3Shape):
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), MLP(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.post_feedforward_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)

    def read(self, x: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Its keys and values of (B, T, C), as `Attention.read`."""
        attention: Attention = self.self_attn
        return attention.read(x, view)

    def forward(self, x: Tensor, view: View, source: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, T, C) to (B, T, C). `source`: keys and values to attend to, in place of those of x."""
        read = self.self_attn(x, view, self.read(x, view) if source is None else source)
        x = x + self.post_attention_layernorm(read)
        return x + self.post_feedforward_layernorm(self.mlp(x))


class RecurrentOLMo3(LanguageModel):
    """The model. Its initial weights are a function of its settings and `seed` alone.

    Raises ValueError if layers do not add up.
    """

    def __init__(self, shape: Olmo3Shape, recurrence: Recurrence, seed: int = 0):
        super().__init__()
        recurrence.check_layers(shape.num_hidden_layers)
        self.shape, self.recurrence = shape, recurrence
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        if shape.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        if recurrence.inject_input_each_step:
            self.inject = nn.Linear(2 * shape.hidden_size, shape.hidden_size, bias=False)
        if recurrence.act.enabled:
            self.exit = nn.Linear(shape.hidden_size, 1)
        for kind in set(shape.types):
            turns, scale = shape.angles(kind)
            angles = torch.outer(torch.arange(shape.max_position_embeddings).float(), turns).repeat(1, 2)
            self.register_buffer(f"{kind}_cos", angles.cos() * scale, persistent=False)
            self.register_buffer(f"{kind}_sin", angles.sin() * scale, persistent=False)
        self.initialise(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, self.shape.initializer_range, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    # --- Forward

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor | None = None,
        rows: Rows | None = None,
        labels: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """As in `LanguageModel`; with ACT the loss is the weighted one of every loop, and to it comes the weights'
        divergence from equal ones, once for each position."""
        if labels is None or not self.recurrence.act.enabled:
            return super().forward(input_ids, positions, rows, labels, first)
        return self._act_loss(list(self.steps(input_ids, positions, rows)), labels)

    def hidden(
        self, input_ids: Tensor, positions: Tensor | None = None, rows: Rows | None = None, first: int = 0
    ) -> Tensor:
        """What `head` turns into logits: after the last loop, or if tokens halt on their own (`halting: token`) after
        the first loop at which a token's weights reach one half. (B, T, C), or (N, C) for `positions`."""
        act = self.recurrence.act
        if not (act.enabled and act.halting == "token"):
            *_, last = self.steps(input_ids, positions, rows)
            return last
        steps = torch.stack(list(self.steps(input_ids, positions, rows)))  # (loops, ..., C)
        halted = self.exit_weights(steps).cumsum(dim=0) >= 0.5
        chosen = halted.int().argmax(dim=0)
        return steps.gather(0, chosen[None, ..., None].expand(1, *steps.shape[1:])).squeeze(0)

    def steps(self, input_ids: Tensor, positions: Tensor | None, rows: Rows | None) -> Iterator[Tensor]:
        """The decoded state after each loop that is of use: after all of them with ACT, otherwise after the last."""
        e, d = self.recurrence.encoder_layers, len(self.layers) - self.recurrence.decoder_layers
        views = self._views(input_ids, rows)
        encoded = self.embed_tokens(input_ids)
        for layer, kind in zip(self.layers[:e], self.shape.types[:e], strict=True):
            encoded = self.through(layer, encoded, views[kind])
        loop = list(zip(self.layers[e:d], self.shape.types[e:d], strict=True))
        is_cross = self.recurrence.loop_attention_mode == "cross"
        sources = [cast(Layer, layer).read(encoded, views[kind]) if is_cross else None for layer, kind in loop]
        loops, cut = self._loops(), self.recurrence.tbptt_steps
        z = self._first_state(encoded)
        for number in range(1, loops + 1):
            if self.recurrence.inject_input_each_step:
                z = self.inject(torch.cat([encoded, z], dim=-1))
            for (layer, kind), source in zip(loop, sources, strict=True):
                z = self.through(layer, z, views[kind], source)
            if self.recurrence.act.enabled or number == loops:
                yield self._decoded(z, views, positions)
            if cut and number % cut == 0:
                z = z.detach()

    def _decoded(self, z: Tensor, views: dict[str, View], positions: Tensor | None) -> Tensor:
        d = len(self.layers) - self.recurrence.decoder_layers
        for layer, kind in zip(self.layers[d:], self.shape.types[d:], strict=True):
            z = self.through(layer, z, views[kind])
        return self.norm(z if positions is None else z.flatten(0, 1).index_select(0, positions))

    def _loops(self) -> int:
        if not self.training:
            return self.recurrence.eval_loops or self.recurrence.num_loops
        if self.recurrence.train_recursion_mode == "fixed":
            return self.recurrence.num_loops
        rate = self.recurrence.num_loops + self.recurrence.poisson_mode_offset
        return max(1, int(torch.poisson(torch.tensor(rate))))  # with no loop at all there would be nothing to train

    def _first_state(self, encoded: Tensor) -> Tensor:
        if not self.recurrence.random_init_loop_state:
            return encoded
        std = self.recurrence.random_init_std
        if self.training:
            return torch.randn_like(encoded) * std
        T, C = encoded.shape[1:]
        drawn = T + -T % 16  # PyTorch draws normal numbers by sixteens: the last ones would depend on how many they are
        noise = torch.randn(drawn, C, generator=torch.Generator().manual_seed(EVALUATION_SEED))[:T]
        return (noise * std).to(encoded).expand_as(encoded)  # the same for every row, whatever the batch

    def _views(self, input_ids: Tensor, rows: Rows | None) -> dict[str, View]:
        T, longest = input_ids.shape[1], self.shape.max_position_embeddings
        if rows is None and longest < T:
            raise ValueError(f"a sequence of {T} tokens is longer than the {longest} positions of the model")
        place: slice | Tensor = slice(T)
        seen = None
        if rows is not None:
            place, seen = own_positions(rows.starts), own_rows(rows.starts)
        views: dict[str, View] = {}
        for kind in set(self.shape.types):
            cos, sin = (getattr(self, f"{kind}_{part}")[place] for part in ("cos", "sin"))
            if rows is not None:
                cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
            mask = seen
            if kind == "sliding_attention" and self.shape.sliding_window < T:
                index = torch.arange(T, device=input_ids.device)
                behind = index[:, None] - index
                near = (behind >= 0) & (behind < self.shape.sliding_window)
                mask = near if mask is None else mask & near
            views[kind] = View(cos, sin, mask)
        return views

    # --- ACT

    def exit_weights(self, steps: Tensor) -> Tensor:
        """Weights of the loops, float32, from their states (loops, ..., C): (loops, ...), summing to one over loops.

        With `halting: batch` one set for all positions: each loop's mean over them, divided by the sum over loops.
        """
        chances = torch.sigmoid(self.exit(steps).squeeze(-1).float())
        if self.recurrence.act.halting == "batch":
            chances = chances.flatten(1).mean(dim=1)
        return chances / chances.sum(dim=0)

    def _act_loss(self, steps: list[Tensor], labels: Tensor) -> Tensor:
        act: Act = self.recurrence.act
        weights = self.exit_weights(torch.stack(steps))  # (loops,), or (loops, N)
        from_equal = (weights * (weights * len(steps)).log()).sum(dim=0)  # KL, (), or (N,)
        if act.halting == "batch":
            losses = torch.stack([cross_entropy_sum(y, self.head.weight, labels, self.compiles) for y in steps])
            return (weights * losses).sum() + act.kl_weight * from_equal * len(labels)
        every = [F.cross_entropy(self.head(y).float(), labels, reduction="none") for y in steps]
        return (weights * torch.stack(every)).sum() + act.kl_weight * from_equal.sum()

    # --- What training and generation ask for

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]
        return self.lm_head

    @property
    def num_tokens(self) -> int:  # type: ignore[override]
        return self.shape.vocab_size

    @property
    def n_positions(self) -> int:  # type: ignore[override]
        return self.shape.max_position_embeddings

    @property
    def is_stochastic(self) -> bool:  # type: ignore[override]
        r = self.recurrence
        return self.shape.attention_dropout > 0 or r.random_init_loop_state or r.train_recursion_mode == "poisson"

    def compile_blocks(self) -> None:
        """Compiles each layer in place. Layers share their code, so this is paid once."""
        for layer in self.layers:
            layer.compile()

    # --- Files

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder that transformers loads as plain OLMo 3 of the same layers, one loop, and nothing else; what
        makes it recurrent stands in config.json under `recurrent`, and in recurrent.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {**self.shape.to_hf(), "recurrent": self.recurrence.model_dump()}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        plain, own = self._split()
        if self.shape.tie_word_embeddings:
            del plain["lm_head.weight"]
        write_tensors(plain, folder / "model.safetensors", metadata={"format": "pt"})
        if own:
            write_tensors(own, folder / RECURRENT)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, recurrence: Recurrence | None = None, seed: int = 0
    ) -> "RecurrentOLMo3":
        """The model in a folder that `save_pretrained` wrote, or with `recurrence` one made of a plain OLMo 3, whose
        further weights are new. Raises UnreadableModel."""
        folder = Path(folder)
        try:
            raw = json.loads((folder / "config.json").read_text())
            shape = Olmo3Shape.from_hf(raw)
            if recurrence is None and "recurrent" not in raw:
                raise UnreadableModel(f"{folder} holds a plain OLMo 3; say how it is to loop")
            model = cls(shape, recurrence or Recurrence.model_validate(raw["recurrent"]), seed)
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UnreadableModel(f"{folder} holds no readable model: {error}") from error
        except UnreadableModel:
            raise
        except ValueError as error:
            raise UnreadableModel(f"{folder}/config.json: {' '.join(str(error).split())}") from error
        model.load_weights(folder, is_plain=recurrence is not None)
        return model

    def load_weights(self, folder: Path, is_plain: bool = False) -> None:
        """Puts the weights of a folder into place. Raises UnreadableModel unless each is there and fits; `is_plain`:
        those that plain OLMo 3 does not have may be missing."""
        try:
            found = read_weights(folder) | (load_file(folder / RECURRENT) if (folder / RECURRENT).exists() else {})
        except (OSError, SafetensorError) as error:
            raise UnreadableModel(f"{folder} holds no readable model: {error}") from error
        if self.shape.tie_word_embeddings:
            found.pop("lm_head.weight", None)
        if is_plain:
            found = self._split()[1] | found
        names = {_hf_name(name): name for name, _ in self.named_parameters()}
        fill(self, {names.get(name, name): tensor for name, tensor in found.items()}, folder)

    def _split(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights by the names of transformers: those of plain OLMo 3, and the others."""
        named = {_hf_name(name): tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        own = {name: tensor for name, tensor in named.items() if name.startswith(("inject.", "exit."))}
        return {name: tensor for name, tensor in named.items() if name not in own}, own


def _hf_name(name: str) -> str:
    return name if name.startswith(("lm_head.", "inject.", "exit.")) else f"model.{name}"
