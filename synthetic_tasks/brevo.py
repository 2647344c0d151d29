"""Brevo: a directed acyclic graph given by its edges, then everything that a node depends on, in topological order."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from core.batch import Batch
from synthetic_tasks import _graph_rows, _graphs
from synthetic_tasks._example_task import ExampleTask

LARGEST_ID = 2**20
SYMBOLS, SHORTEST, LONGEST = 4, 2, 4  # of names, where they have several tokens
OWN_ANSWER_ID = 9996

Node = tuple[int, ...]


class BrevoTask(ExampleTask):
    """The model reads the edges, parent before child, in any order, and lists all ancestors of a node, parents first.

    The graph has n nodes, 3 <= n <= N, smaller ones likelier: P(n) is proportional to 1 / (n + sqrt N). With `qa`,
    n = N. The first 1 .. (n - 1) // 4 + 1 of them have no parents, each later one has 1 .. max_in among the earlier
    ones that have fewer than max_in children; every number and choice is uniform. Asked for is the last node, and the
    answer ends with it. A node is one token, 1 .. N, or with `multi` a name of 2 .. 4 tokens: 1 .. 4, the last one
    4 more.

        BrevoTask(N=4, max_in=2)
        input_ids   <bos> 1 4 4 2 <query> 2 <ans> 1 4 2 <eos>
        loss                                <ans> 1 4 2 <eos>     1 is the parent of 4, and 4 that of 2

    An answer in any topological order is right: `validate_example` accepts them all, so it also judges what a model
    has written. "Physics of Language Models: Part 4.1" (Allen-Zhu, 2025, arXiv 2512.17351), with the token ids of its
    released generator, but for <ans>, which there is <eos>: two things, so here two ids unless `documented_ids` is set.
    """

    examples_per_block: ClassVar[int] = 256
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"brevo1_{N}": {"N": N} for N in (70, 90, 110)},
        **{f"brevo2_{N}": {"N": N, "multi": True} for N in (30, 40, 50)},
    }

    N: int = Field(70, ge=3, le=2**12, description="most nodes in a graph")
    multi: bool = Field(False, description="nodes have names of several tokens")
    qa: bool = Field(False, description="for evaluation: n = N")
    max_in: int = Field(4, ge=1, le=2**8, description="most parents, and most children, of a node")
    bos_token_id: int = Field(9999, ge=0, le=LARGEST_ID, description="first token of a row")
    eos_token_id: int = Field(9998, ge=0, le=LARGEST_ID, description="last token of a row")
    query_token_id: int = Field(9997, ge=0, le=LARGEST_ID, description="stands before the node asked for")
    answer_token_id: int | None = Field(
        None,
        ge=0,
        le=LARGEST_ID,
        description=f"stands before the answer; null: {OWN_ANSWER_ID}, or with documented_ids <eos>",
    )
    documented_ids: bool = Field(False, description="<ans> may be <eos>, as in the released generators")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.multi:
            _graphs.check_names(self.N, SYMBOLS, SHORTEST, LONGEST)
        single = {
            "bos_token_id": self.bos_token_id,
            "query_token_id": self.query_token_id,
            "eos_token_id": self.eos_token_id,
        }
        if self.answer != self.eos_token_id or not self.documented_ids:
            single["answer_token_id"] = self.answer
        if self.answer == self.eos_token_id and not self.documented_ids:
            raise ValueError(
                f"answer_token_id {self.answer} is eos_token_id as well; set documented_ids if that is meant"
            )
        _graphs.check_ids({"nodes": range(1, (2 * SYMBOLS if self.multi else self.N) + 1)}, **single)
        return self

    @property
    def answer(self) -> int:
        """The token before the answer."""
        if self.answer_token_id is not None:
            return self.answer_token_id
        return self.eos_token_id if self.documented_ids else OWN_ANSWER_ID

    @property
    def pad_token(self) -> int:
        nodes = 2 * SYMBOLS if self.multi else self.N
        return 1 + max(nodes, self.bos_token_id, self.eos_token_id, self.query_token_id, self.answer)

    @property
    def num_tokens(self) -> int:
        return self.pad_token + 1

    @property
    def most_edges(self) -> int:
        few = min(self.max_in, self.N - 1)  # node i has at most i parents
        return few * (few + 1) // 2 + (self.N - 1 - few) * few

    @property
    def block_size(self) -> int:
        longest = LONGEST if self.multi else 1
        return 4 + (2 * self.most_edges + 1 + self.N) * longest

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        tokens = np.empty((size, self.block_size), dtype=np.int64)
        is_target = np.zeros(tokens.shape, dtype=np.bool_)
        lengths = np.empty(size, dtype=np.int64)
        ids = self.bos_token_id, self.query_token_id, self.answer, self.eos_token_id
        sizes, shape = _graphs.size_chances(self.N), (SYMBOLS, SHORTEST, LONGEST)
        _graph_rows.write_ancestries(
            rng, self.qa, sizes, self.max_in, self.most_edges, self.multi, shape, ids, tokens, is_target, lengths
        )
        return self.batch(tokens, is_target, lengths)

    def prompt(self, batch: Batch) -> np.ndarray:
        """Everything before the answer, since several answers are right."""
        ids = batch.input_ids.numpy()
        return np.where((ids == self.query_token_id).cumsum(axis=1) > 0, 0, ids)

    def question(self, tokens: list[int]) -> list[int]:
        """A row up to and including <ans>."""
        return tokens[: tokens.index(self.answer, tokens.index(self.query_token_id)) + 1]

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer, with <eos>."""
        return self.N * (LONGEST if self.multi else 1) + 1

    # --- Checking, on sets of nodes

    def answer_mask(self, tokens: list[int]) -> list[bool]:
        if len(tokens) < 8 or tokens[0] != self.bos_token_id or tokens[-1] != self.eos_token_id:
            ends = f"{self.bos_token_id} and {self.eos_token_id}"
            raise ValueError(f"the row of {len(tokens)} tokens is too short or does not stand between {ends}")
        if tokens.count(self.query_token_id) != 1 or self.answer not in tokens[:-1]:
            raise ValueError(f"the row should hold one {self.query_token_id}, and {self.answer} after it")
        query, answer = tokens.index(self.query_token_id), tokens.index(self.answer)
        parents = self._parents(self._nodes(tokens[1:query]))
        asked, listed = self._nodes(tokens[query + 1 : answer]), self._nodes(tokens[answer + 1 : -1])
        if len(asked) != 1 or asked[0] not in parents:
            raise ValueError(f"the row asks for {asked}; it should ask for one node that occurs in an edge")
        if any(asked[0] in those for those in parents.values()):
            raise ValueError(f"the row asks for {asked[0]}, which has children; it should ask for the last node")

        needed, waiting = set(asked), list(asked)
        while waiting:
            new = parents[waiting.pop()] - needed
            needed |= new
            waiting += new
        if Counter(listed) != Counter(needed):
            raise ValueError("the answer does not list each ancestor, and the node itself, once")
        place = {node: i for i, node in enumerate(listed)}
        for node in listed:
            for parent in parents[node]:
                if place[parent] > place[node]:
                    raise ValueError(f"the answer lists {node} before its parent {parent}")
        return [False] * answer + [True] * (len(tokens) - answer)

    def _parents(self, nodes: list[Node]) -> dict[Node, set[Node]]:
        """The parents of each node. Raises ValueError unless the edges make a graph that occurs."""
        edges = list(zip(nodes[::2], nodes[1::2], strict=False))
        if len(nodes) % 2 or len(set(edges)) < len(edges):
            raise ValueError("the nodes do not make edges that are all different")
        parents: dict[Node, set[Node]] = {node: set() for node in nodes}
        for parent, child in edges:
            parents[child].add(parent)
        children = Counter(parent for parent, _ in edges)
        if max(map(len, parents.values()), default=0) > self.max_in or max(children.values(), default=0) > self.max_in:
            raise ValueError(f"a node has more than {self.max_in} parents or children")

        # Nodes without parents may occur in no edge at all: with n nodes, n - len(parents) of them do not.
        roots = sum(not those for those in parents.values())
        n = self.N if self.qa else max(3, len(parents))
        if not len(parents) <= n <= self.N or roots + n - len(parents) > (n - 1) // 4 + 1:
            raise ValueError(f"{len(parents)} nodes, {roots} of them without parents, make no graph of this task")

        left = dict(parents)
        while left:
            free = [node for node, those in left.items() if not those & left.keys()]
            if not free:
                raise ValueError("the edges make a cycle")
            for node in free:
                del left[node]
        return parents

    def _nodes(self, tokens: list[int]) -> list[Node]:
        if self.multi:
            return _graphs.split_names(tokens, SYMBOLS, SHORTEST, LONGEST)
        for token in tokens:
            if not 1 <= token <= self.N:
                raise ValueError(f"token {token} stands where a node is expected, 1 .. {self.N}")
        return [(token,) for token in tokens]

    def token_name(self, token: int) -> str:
        self.check_token(token)
        names = {
            self.answer: "<ans>",
            self.bos_token_id: "<bos>",
            self.eos_token_id: "<eos>",
            self.query_token_id: "<query>",
        }
        return names.get(token, "<pad>" if token == self.pad_token else str(token))
