"""Depo: a cycle given by its edges, then questions for the node k steps ahead."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numba import njit
from pydantic import Field, model_validator

from core.batch import Batch
from core.split import draw_block
from synthetic_tasks import _graph_rows, _graphs
from synthetic_tasks._example_task import ExampleTask, Spans

LARGEST_ID = 2**20


class DepoTask(ExampleTask):
    """The model reads the edges of one directed cycle in any order and names the k-th successor of the nodes asked for.

    The cycle has n nodes, 3 <= n <= N, smaller ones likelier: P(n) is proportional to 1 / (n + sqrt N). With `qa`,
    n = N. Node names are distinct and have min_tlen .. max_tlen tokens: 1 .. mini_vocab, the last one mini_vocab more,
    so that a name ends by itself. min(n, M) distinct nodes are asked for, each with a k of its own.

        DepoTask(N=3, K=2, M=1, mini_vocab=2, min_tlen=1, max_tlen=2, fixed_k=2)
        input_ids   <bos> 1 3 4  4 2 3  2 3 1 3  <query_2> 4 <ans> 1 3
        loss                                               <ans> 1 3     names are 1 3, 4 and 2 3; 4 to 2 3 to 1 3

    "Physics of Language Models: Part 4.1" (Allen-Zhu, 2025, arXiv 2512.17351), with the token ids of its released
    generator. <ans> is learned at once and says nothing of the answer: `spans` leaves it out.
    """

    examples_per_block: ClassVar[int] = 128
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"depo1_{N}": {"N": N} for N in (225, 300, 375)},
        **{f"depo2_{N}": {"N": N, "K": 16, "mini_vocab": 3, "min_tlen": 5, "max_tlen": 7} for N in (75, 100, 125)},
    }

    N: int = Field(225, ge=3, le=2**14, description="most nodes in a cycle")
    K: int = Field(8, ge=1, le=2**14, description="most steps asked for; at most N")
    M: int = Field(10, ge=1, le=2**14, description="most questions in a row")
    qa: bool = Field(
        False, description="for evaluation: n = N, and k a power of two up to K, 24 if K is 32, or K itself"
    )
    separator: bool = Field(False, description="a separator before each edge")
    mini_vocab: int = Field(50, ge=1, le=2**14, description="V, symbols that names are made of")
    min_tlen: int = Field(1, ge=1, le=62, description="fewest tokens in a name")
    max_tlen: int = Field(2, ge=1, le=62, description="most tokens in a name")
    fixed_k: int | None = Field(None, ge=1, le=2**14, description="every question is for this many steps")
    bos_token_id: int = Field(0, ge=0, le=LARGEST_ID, description="first token of a row")
    separator_token_id: int = Field(9700, ge=0, le=LARGEST_ID, description="stands before an edge")
    query_token_base: int = Field(9000, ge=0, le=LARGEST_ID, description="a question for k steps begins with this + k")
    answer_token_id: int = Field(9500, ge=0, le=LARGEST_ID, description="stands before the answer")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.K > self.N:
            raise ValueError(f"K {self.K} steps go around a cycle of N {self.N} nodes; K must be at most N")
        if self.fixed_k is not None and self.fixed_k > self.K:
            raise ValueError(f"fixed_k {self.fixed_k} is beyond K {self.K}; use a k in 1 .. {self.K}, or a larger K")
        if self.min_tlen > self.max_tlen:
            raise ValueError(f"min_tlen {self.min_tlen} is above max_tlen {self.max_tlen}")
        _graphs.check_names(self.N, self.mini_vocab, self.min_tlen, self.max_tlen)
        _graphs.check_ids(
            {"names": range(1, 2 * self.mini_vocab + 1), "query_token_base": self._queries},
            bos_token_id=self.bos_token_id,
            separator_token_id=self.separator_token_id,
            answer_token_id=self.answer_token_id,
        )
        return self

    @property
    def hops(self) -> list[int]:
        """The k that occur, all with equal chances."""
        if self.fixed_k is not None:
            return [self.fixed_k]
        if not self.qa:
            return list(range(1, self.K + 1))
        powers = {2**i for i in range(self.K.bit_length())}
        return sorted(powers | {self.K} | ({24} if self.K == 32 else set()))

    @property
    def _queries(self) -> range:
        """Tokens that begin a question, for 1 .. K steps."""
        return range(self.query_token_base + 1, self.query_token_base + self.K + 1)

    @property
    def pad_token(self) -> int:
        return 1 + max(
            2 * self.mini_vocab, self._queries[-1], self.bos_token_id, self.separator_token_id, self.answer_token_id
        )

    @property
    def num_tokens(self) -> int:
        return self.pad_token + 1

    @property
    def block_size(self) -> int:
        return 1 + self.N * (self.separator + 2 * self.max_tlen) + min(self.N, self.M) * (2 + 2 * self.max_tlen)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        tokens = np.empty((size, self.block_size), dtype=np.int64)
        is_target = np.zeros(tokens.shape, dtype=np.bool_)
        lengths = np.empty(size, dtype=np.int64)
        sizes = _graphs.size_chances(self.N)
        names = self.mini_vocab, self.min_tlen, self.max_tlen
        ids = self.bos_token_id, self.separator_token_id if self.separator else -1, self.query_token_base
        _graph_rows.write_cycles(
            rng,
            self.qa,
            sizes,
            np.array(self.hops),
            self.M,
            names,
            (*ids, self.answer_token_id),
            tokens,
            is_target,
            lengths,
        )
        return self.batch(tokens, is_target, lengths)

    def prompt(self, batch: Batch) -> np.ndarray:
        """The edges: all questions about one presentation of a cycle belong to the same split."""
        return _until(batch.input_ids.numpy(), self._queries[0], self._queries[-1])

    def _is_query(self, ids: np.ndarray) -> np.ndarray:
        return (ids >= self._queries[0]) & (ids <= self._queries[-1])

    def spans(self, batch: Batch) -> Spans:
        """The answers, without the <ans> before them; their kind is k."""
        ids = batch.input_ids.numpy()
        row, query = np.nonzero(self._is_query(ids))
        _, before = np.nonzero(ids == self.answer_token_id)
        ends_name = (ids > self.mini_vocab) & (ids <= 2 * self.mini_vocab)
        T = ids.shape[1]
        next_end = np.minimum.accumulate(np.where(ends_name, np.arange(T), T)[:, ::-1], axis=1)[:, ::-1]  # (B, T)
        return Spans(row, before + 1, next_end[row, before] + 1, ids[row, query] - self.query_token_base)

    def at_hops(self, hops: Sequence[int], seed: int, split: str, block: int) -> dict[int, Batch]:
        """For each of `hops` the examples of one block, on the same cycles and with the same nodes asked for."""
        stream = self.replace(fixed_k=None).fingerprint
        return {k: draw_block(self.replace(fixed_k=k), seed, split, block, stream) for k in hops}

    # --- Checking, by walking along a dictionary

    def answer_mask(self, tokens: list[int]) -> list[bool]:
        if not tokens or tokens[0] != self.bos_token_id:
            raise ValueError(f"the row of {len(tokens)} tokens does not begin with {self.bos_token_id}")
        starts = [t for t, token in enumerate(tokens) if token in self._queries]
        if not starts:
            raise ValueError(f"the row of {len(tokens)} tokens asks nothing")
        successor = self._cycle(tokens[1 : starts[0]])
        if len(starts) != min(len(successor), self.M):
            raise ValueError(f"the row asks {len(starts)} questions; it should ask {min(len(successor), self.M)}")
        asked = set()
        mask = [False] * starts[0]
        for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
            k, question = tokens[start] - self.query_token_base, tokens[start + 1 : stop]
            if k not in self.hops:
                raise ValueError(f"position {start} asks for {k} steps; it should ask for one of {self.hops}")
            if question.count(self.answer_token_id) != 1:
                raise ValueError(f"the question at position {start} holds no or several {self.answer_token_id}")
            before = question.index(self.answer_token_id)
            node, answer = self._one_name(question[:before]), self._one_name(question[before + 1 :])
            if node not in successor or node in asked:
                raise ValueError(f"position {start} asks for {node}, which is no node or was asked for before")
            asked.add(node)
            for _ in range(k):
                node = successor[node]
            if answer != node:
                raise ValueError(f"the answer to the question at position {start} is {answer}; it should be {node}")
            mask += [False] * (before + 1) + [True] * (len(question) - before)
        return mask

    def _cycle(self, tokens: list[int]) -> dict[tuple[int, ...], tuple[int, ...]]:
        """The successor of each node. Raises ValueError unless the edges make one cycle of a size that occurs."""
        if self.separator:
            tokens, separators = self._without_separators(tokens)
        names = self._names(tokens)
        if len(names) % 2:
            raise ValueError(f"{len(names)} names do not make edges")
        successor = dict(zip(names[::2], names[1::2], strict=True))
        if self.separator and separators != [sum(map(len, names[:i])) for i in range(0, len(names), 2)]:
            raise ValueError("separators do not stand before each edge")
        n = len(names) // 2
        if not (self.N if self.qa else 3) <= n <= self.N:
            raise ValueError(f"there are {n} edges; there should be {self.N if self.qa else 3} .. {self.N}")
        seen, node = set(), names[0]
        while node in successor and node not in seen:
            seen.add(node)
            node = successor[node]
        if len(seen) != n or node != names[0]:
            raise ValueError(f"the {n} edges do not make one cycle")
        return successor

    def _without_separators(self, tokens: list[int]) -> tuple[list[int], list[int]]:
        """The other tokens, and before how many of them each separator stands."""
        rest: list[int] = []
        places: list[int] = []
        for token in tokens:
            if token == self.separator_token_id:
                places.append(len(rest))
            else:
                rest.append(token)
        return rest, places

    def _names(self, tokens: list[int]) -> list[tuple[int, ...]]:
        return _graphs.split_names(tokens, self.mini_vocab, self.min_tlen, self.max_tlen)

    def _one_name(self, tokens: list[int]) -> tuple[int, ...]:
        names = self._names(tokens)
        if len(names) != 1:
            raise ValueError(f"{tokens} should be one name")
        return names[0]

    def token_name(self, token: int) -> str:
        self.check_token(token)
        if token in self._queries:
            return f"<query_{token - self.query_token_base}>"
        names = {self.bos_token_id: "<bos>", self.separator_token_id: "<sep>", self.answer_token_id: "<ans>"}
        return names.get(token, "<pad>" if token == self.pad_token else str(token))


@njit(cache=True, nogil=True)
def _until(ids: np.ndarray, low: int, high: int) -> np.ndarray:
    """Each row up to its first id in low .. high, and zeros from there on."""
    start = np.zeros_like(ids)
    for row in range(len(ids)):
        t = 0
        while not low <= ids[row, t] <= high:
            start[row, t] = ids[row, t]
            t += 1
    return start
