"""A GPT: pre-LayerNorm transformer decoder with learned positions or RoPE, logits only where they are asked for.

B batch, T tokens, C channels, H heads, D channels per head (C = H * D), V vocabulary.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.batch import Rows, SupervisedBatch
from core.loss import cross_entropy_sum

INIT_STD = 0.02  # GPT-2's value (Radford et al., 2019, released code)


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model. Raises ValueError for shapes that cannot be built."""

    num_tokens: int  # V, ids are 0 .. num_tokens - 1
    n_positions: int  # longest sequence the model is built for
    n_layer: int
    n_head: int
    n_embd: int
    positions: Literal["learned", "rope"] = "learned"
    tied: bool = True  # the output projection is the embedding matrix
    dropout: float = 0.0  # after the embedding, on attention weights and on both residual branches, as in GPT-2
    rope_theta: float = 10_000.0
    tokens_per_number: int = 1  # learned positions: above 1, the sum of one for the number and one for the digit in it

    def __post_init__(self) -> None:
        for name in ("num_tokens", "n_positions", "n_layer", "n_head", "n_embd", "tokens_per_number"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a model needs at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"width {self.n_embd} cannot be split over {self.n_head} heads; use a multiple of the heads"
            )
        if self.positions == "rope" and (self.n_embd // self.n_head) % 2:
            raise ValueError(f"RoPE turns pairs of channels, but {self.n_embd // self.n_head} per head is odd")
        if self.positions == "rope" and self.tokens_per_number > 1:
            raise ValueError("positions by number and digit are learned ones; RoPE has none to learn")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")


def parse_size(size: str) -> tuple[int, int, int]:
    """Layers, heads and width of a size such as `12_12_768`. Raises ValueError if it is none that can be built."""
    if not re.fullmatch(r"[1-9]\d*_[1-9]\d*_[1-9]\d*", size):
        raise ValueError(f"{size!r} is not a size; write layers_heads_width, such as 12_12_768")
    layers, heads, width = map(int, size.split("_"))
    if width % heads:
        raise ValueError(f"{size!r}: width {width} cannot be split over {heads} heads; use a multiple of {heads}")
    return layers, heads, width


def rotations(positions: int, channels: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, each float32 (T, D/2) (RoFormer, Su et al., 2021, 3.2.2)."""
    frequencies = theta ** (-torch.arange(0, channels, 2, dtype=torch.float32) / channels)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair (x[i], x[i + D/2]) by the angle of its position.

    x is (B, H, T, D); cos and sin are (T, D/2), or (B, 1, T, D/2).
    """
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1).type_as(x)


def causal_from(first: int, T: int) -> Tensor:
    """What the positions first .. T - 1 see of T, for attention."""
    from torch.nn.attention.bias import causal_lower_right  # with torch.compile, a second that many commands can spare

    return causal_lower_right(T - first, T)


class Linear(nn.Linear):
    """A linear map of which some outputs alone may be asked for."""

    def forward(self, x: Tensor, outputs: slice | None = None) -> Tensor:
        if outputs is None:
            return super().forward(x)
        return F.linear(x, self.weight[outputs], self.bias[outputs])


class Attention(nn.Module):
    """Causal self-attention over all earlier tokens of the same row, or those that a mask allows."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.heads, self.dropout = config.n_head, config.dropout
        self.qkv = Linear(config.n_embd, 3 * config.n_embd)  # rows: all of q, all of k, all of v; heads within
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, seen: Tensor | Rows | None = None, first: int = 0
    ) -> Tensor:
        """What positions from `first` on read, (B, T - first, C), before `proj`, which `Block` applies where needed.

        x is (B, T, C). `seen`: which tokens each sees, a mask (..., T, T), or rows, each of which sees itself.
        """
        if isinstance(seen, Rows):
            return self.by_row(x, rotation, seen)[:, first:]
        (_, T, C), mask = x.shape, seen
        if first:
            (q,) = self.split_heads(self.qkv(x[:, first:], slice(C)), 1)  # (B, H, T - first, D)
            k, v = self.split_heads(self.qkv(x, slice(C, None)), 2)
            mask = causal_from(first, T) if mask is None else mask[..., first:, :]
        else:
            q, k, v = self.split_heads(self.qkv(x), 3)  # each (B, H, T, D)
        if rotation is not None:
            q, k = rotate(q, *(part[..., first:, :] for part in rotation)), rotate(k, *rotation)
        return self.read(q, k, v, mask)

    def by_row(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, rows: Rows) -> Tensor:
        """Of rows that share contexts: each by itself beside the others, (R, L), so that attention needs no mask."""
        assert rows.gather is not None
        assert rows.scatter is not None
        tokens = self.qkv(x).flatten(0, 1).index_select(0, rows.gather.flatten())
        q, k, v = self.split_heads(tokens.unflatten(0, tuple(rows.gather.shape)), 3)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        return self.read(q, k, v).flatten(0, 1).index_select(0, rows.scatter).view_as(x)

    def read(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, H, T, D) each to (B, T, H * D)."""
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None)
        return y.transpose(1, 2).flatten(2)

    def split_heads(self, x: Tensor, parts: int) -> list[Tensor]:
        """(B, T, parts * C) to as many (B, H, T, D). Split first, the gradient is put together by one copy, not two."""
        return [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in x.chunk(parts, dim=2)]


def gelu(x: Tensor) -> Tensor:
    """GELU, by tanh. Ours is for one thread of a CPU; PyTorch's divides work among several, or gives it to a GPU."""
    is_plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32
    if is_plain and torch.get_num_threads() == 1 and not torch.compiler.is_compiling():
        from core.gelu import Gelu  # with numba, half a second that many commands can spare

        return Gelu.apply(x)
    return F.gelu(x, approximate="tanh")


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(config.n_embd), Attention(config)
        self.ln_2, self.mlp = nn.LayerNorm(config.n_embd), MLP(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        positions: Tensor | None = None,
        seen: Tensor | Rows | None = None,
        first: int = 0,
    ) -> Tensor:
        """(B, T, C) to (B, T, C), or to (N, C) for `positions` (N,), indices into the flattened (B * T).

        None of `positions` may lie before the column `first`, whose queries are not computed.
        """
        read = self.attn(self.ln_1(x), rotation, seen, first)
        if positions is not None:
            if first:
                positions = positions - (positions // x.shape[1] + 1) * first
                x = x[:, first:]
            x, read = (y.flatten(0, 1).index_select(0, positions) for y in (x, read))
        x = x + self.dropout(self.attn.proj(read))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class LanguageModel(nn.Module, ABC):
    """What training, evaluation and generation ask of a model."""

    head: nn.Linear  # from what `hidden` gives to logits, (..., C) to (..., V), without a bias
    num_tokens: int  # V
    n_positions: int  # longest sequence
    is_stochastic: bool  # whether training draws random numbers, beside the data
    number: int = 1  # of models that it is, side by side
    recomputes: bool = False  # blocks keep their input alone for the backward pass, which computes them once more
    compiles: bool = False  # what is made of a large vocabulary is compiled, as blocks are

    @abstractmethod
    def hidden(
        self, input_ids: Tensor, positions: Tensor | None = None, rows: Rows | None = None, first: int = 0
    ) -> Tensor:
        """What `head` turns into logits: (B, T, C), or (N, C) for `positions` (N,), indices into the flattened (B * T).

        None of `positions` lies before the column `first`, so that a model may do without what only those before need.
        Where several `rows` share a context, each counts its own positions and sees itself alone. Then it is rows, not
        contexts, that must fit into `n_positions`.
        """

    @abstractmethod
    def compile_blocks(self) -> None:
        """Compiles the parts that are alike in place, so that this is paid once."""

    def compile_parts(self) -> None:
        """Compiles what most of the time goes into."""
        self.compile_blocks()
        self.compiles = True

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor | None = None,
        rows: Rows | None = None,
        labels: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """Logits of the next token, as many as `hidden` has rows; or, given `labels` (N,), their loss.

        The loss is the cross-entropy in nats summed over the positions, float32, as of `core.loss`.
        """
        x = self.hidden(input_ids, positions, rows, first)
        return self.head(x) if labels is None else cross_entropy_sum(x, self.head.weight, labels, self.compiles)

    def through(self, block: nn.Module, *inputs: Any) -> Tensor:
        """What a block makes of its inputs (Chen et al., 2016, if the model recomputes)."""
        if not (self.recomputes and torch.is_grad_enabled()):
            return block(*inputs)
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=self.is_stochastic)

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


class GPT(LanguageModel):
    """The model. Its initial weights are a function of `config` and `seed` alone."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.num_tokens, config.n_embd)
        if config.positions == "learned":
            self.wpe = nn.Embedding(-(-config.n_positions // config.tokens_per_number), config.n_embd)
            if config.tokens_per_number > 1:
                self.wde = nn.Embedding(config.tokens_per_number, config.n_embd)
        else:
            cos, sin = rotations(config.n_positions, config.n_embd // config.n_head, config.rope_theta)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.num_tokens, bias=False)
        if config.tied:
            self.head.weight = self.wte.weight
        self.initialise(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws all weights as GPT-2 does: normal, projections into the residual stream smaller by sqrt(2 layers)."""
        residual_std = INIT_STD / math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                std = residual_std if name.endswith(("attn.proj.weight", "mlp.down.weight")) else INIT_STD
                parameter.normal_(0.0, std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)  # LayerNorm's gain

    def hidden(
        self, input_ids: Tensor, positions: Tensor | None = None, rows: Rows | None = None, first: int = 0
    ) -> Tensor:
        """As in `LanguageModel`. Positions that are not asked for end in the last block, once others have read them:
        with an answer half as long as the sequence, half of that block's queries and MLP and of the head is never
        computed.
        """
        length = input_ids.shape[1]
        if rows is None and length > self.config.n_positions:
            raise ValueError(
                f"a sequence of {length} tokens is longer than the {self.config.n_positions} positions of the model"
            )
        x = self.wte(input_ids)
        place = slice(length) if rows is None else own_positions(rows.starts)
        seen = None if rows is None else rows if rows.gather is not None else own_rows(rows.starts)
        rotation = None
        if self.config.positions == "learned":
            x = self.add_positions(x, place)
        else:
            rotation = self.rotation(place, rows)
        x = self.dropout(x)
        *body, last = self.blocks
        for block in body:
            x = self.through(block, x, rotation, None, seen)
        x = self.through(last, x, rotation, positions, seen, first)
        return self.ln_f(x)

    def add_positions(self, x: Tensor, place: slice | Tensor) -> Tensor:
        """x (B, T, C) with what is learned about its positions; `place`: the first T, or each token's own (B, T)."""
        return x + self.position_table()[place]

    def position_table(self) -> Tensor:
        """What is learned about each position, (n_positions, C)."""
        table = self.wpe.weight
        if self.config.tokens_per_number > 1:
            table = (table.unsqueeze(-2) + self.wde.weight.unsqueeze(-3)).flatten(-3, -2)  # (numbers, digits, C)
        return table[..., : self.config.n_positions, :]

    def rotation(self, place: slice | Tensor, rows: Rows | None) -> tuple[Tensor, Tensor]:
        """Cosine and sine of what attention looks at: whole contexts, their tokens one by one, or rows."""
        if rows is None:
            return self.cos[place], self.sin[place]
        if rows.gather is not None:
            longest = rows.gather.shape[1]
            return self.cos[:longest], self.sin[:longest]
        return self.cos[place].unsqueeze(1), self.sin[place].unsqueeze(1)  # the same for all heads

    def compile_blocks(self) -> None:
        """Compiles each block in place. Blocks share their code, so this is paid once, and once more for the last one,
        whose number of positions may change from batch to batch."""
        for block in self.blocks:
            block.compile()

    @property
    def num_tokens(self) -> int:  # type: ignore[override]
        return self.config.num_tokens

    @property
    def n_positions(self) -> int:  # type: ignore[override]
        return self.config.n_positions

    @property
    def is_stochastic(self) -> bool:  # type: ignore[override]
        return self.config.dropout > 0


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While entered, the model is in evaluation mode; then in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def own_positions(starts: Tensor) -> Tensor:
    """Each token's position in its row, int64 (B, T)."""
    return torch.arange(starts.shape[1], device=starts.device) - starts


def own_rows(starts: Tensor) -> Tensor:
    """Which tokens each sees, bool (B, 1, T, T)."""
    index = torch.arange(starts.shape[1], device=starts.device)
    is_earlier = index[:, None] >= index
    is_same_row = starts[:, :, None] == starts[:, None, :]
    return (is_same_row & is_earlier).unsqueeze(1)


def loss_sum(model: nn.Module, batch: SupervisedBatch) -> Tensor:
    """Cross-entropy in nats, summed over the scored positions of the batch, float32."""
    return model(batch.input_ids, batch.positions, batch.rows, batch.labels, batch.first)
