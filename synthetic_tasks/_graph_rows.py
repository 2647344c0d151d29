"""Rows of the two tasks on graphs, written by compiled code.

All of it in this one file: numba keeps compiled functions on disk and does not notice when one that they call changes
in another file.
"""

import numpy as np
from numba import njit

# B rows of W tokens. `sizes` is cumulative, as `size_chances` gives it; `shape` is that of names: symbols, fewest and
# most tokens. What is filled in: `tokens` int64 (B, W), `is_target` bool (B, W), `lengths` int64 (B,).


@njit(cache=True, nogil=True)
def _pick_size(rng, cumulative: np.ndarray) -> int:
    """Nodes of a graph, by `size_chances`."""
    return 3 + np.searchsorted(cumulative, rng.random(), side="right")


@njit(cache=True, nogil=True)
def _shuffle(rng, items: np.ndarray, count: int) -> None:
    """Puts a uniform choice of `count` items, in uniform order, first (Fisher and Yates)."""
    for i in range(min(count, len(items) - 1)):
        j = i + int(rng.random() * (len(items) - i))
        items[i], items[j] = items[j], items[i]


@njit(cache=True, nogil=True)
def _draw_names(rng, count, shape, names, lengths) -> None:
    """Fills the first `count` rows of `names` (N, longest) and `lengths` (N,) with distinct names in uniform order.

    A name has a uniform length and uniform tokens; names are drawn until enough of them differ.
    """
    symbols, shortest, longest = shape
    size = 8
    while size < 4 * count:
        size *= 2
    table = np.zeros(size, dtype=np.int64)  # of the codes that are taken, with open addresses; 0 is free
    order = np.arange(count)
    _shuffle(rng, order, count)  # the first names drawn are the likely ones, so they must not be those of certain nodes
    for node in order:
        is_new = False
        while not is_new:
            length = shortest + int(rng.random() * (longest - shortest + 1))
            code = 0
            for i in range(length):
                token = 1 + int(rng.random() * symbols)
                names[node, i] = token
                code = code * (symbols + 1) + token
            place = (code * 0x9E3779B97F4A7C1 >> 20) & (size - 1)
            while table[place] not in (0, code):
                place = (place + 1) & (size - 1)
            is_new = table[place] == 0
            table[place] = code
        names[node, length - 1] += symbols
        lengths[node] = length


@njit(cache=True, nogil=True)
def _write_name(out, t, name, length) -> int:
    """Writes a name to out[t], out[t + 1], ... and returns where the next token goes."""
    for i in range(length):
        out[t + i] = name[i]
    return t + length


# --- Depo


@njit(cache=True, nogil=True)
def write_cycles(rng, whole, sizes, hops, most, shape, ids, tokens, is_target, lengths) -> None:
    """Cycles, and questions for the node some of `hops` ahead. `ids`: bos, separator or -1, query base, answer."""
    bos, separator, query_base, answer = ids
    N = len(sizes) + 2
    names, name_lengths = np.empty((N, shape[2]), dtype=np.int64), np.empty(N, dtype=np.int64)
    for row in range(len(tokens)):
        out = tokens[row]
        n = N if whole else _pick_size(rng, sizes)
        _draw_names(rng, n, shape, names, name_lengths)
        order = np.arange(n)  # the successor of node i is i + 1
        _shuffle(rng, order, n)
        out[0] = bos
        t = 1
        for i in order:
            if separator >= 0:
                out[t] = separator
                t += 1
            for node in (i, (i + 1) % n):
                t = _write_name(out, t, names[node], name_lengths[node])
        questions = min(n, most)
        _shuffle(rng, order, questions)
        for i in order[:questions]:
            k = hops[int(rng.random() * len(hops))]
            out[t] = query_base + k
            t = _write_name(out, t + 1, names[i], name_lengths[i])
            out[t] = answer
            start = t
            node = (i + k) % n
            t = _write_name(out, t + 1, names[node], name_lengths[node])
            is_target[row, start:t] = True
        lengths[row] = t


# --- Brevo


@njit(cache=True, nogil=True)
def write_ancestries(rng, whole, sizes, max_in, most_edges, multi, shape, ids, tokens, is_target, lengths) -> None:
    """Acyclic graphs, and the ancestors of their last nodes. `ids`: bos, query, answer, eos."""
    bos, query, answer, eos = ids
    N = len(sizes) + 2
    edges, order = np.empty((most_edges, 2), dtype=np.int64), np.empty(most_edges, dtype=np.int64)
    listed = np.empty(N, dtype=np.int64)
    names, name_lengths = np.empty((N, shape[2]), dtype=np.int64), np.ones(N, dtype=np.int64)
    for row in range(len(tokens)):
        out = tokens[row]
        n = N if whole else _pick_size(rng, sizes)
        count = _draw_edges(rng, n, max_in, edges)
        needed = _draw_answer(rng, n, edges[:count], listed)
        if multi:
            _name_nodes(rng, n, edges[:count], shape, names, name_lengths)
        else:
            numbers = np.arange(1, N + 1)
            _shuffle(rng, numbers, n)
            names[:n, 0] = numbers[:n]
        order[:count] = np.arange(count)
        _shuffle(rng, order[:count], count)

        out[0] = bos
        t = 1
        for e in order[:count]:
            for node in edges[e]:
                t = _write_name(out, t, names[node], name_lengths[node])
        out[t] = query
        start = _write_name(out, t + 1, names[n - 1], name_lengths[n - 1])
        out[start] = answer
        t = start + 1
        for node in listed[:needed]:
            t = _write_name(out, t, names[node], name_lengths[node])
        out[t] = eos
        lengths[row] = t + 1
        is_target[row, start : t + 1] = True


@njit(cache=True, nogil=True)
def _draw_edges(rng, n, max_in, edges) -> int:
    """Fills in the edges (parent, child) of a graph on 0 .. n - 1, child after child; returns how many they are."""
    roots = 1 + int(rng.random() * ((n - 1) // 4 + 1))
    children = np.zeros(n, dtype=np.int64)
    free = np.arange(n)  # free[:count] are the earlier nodes with fewer than max_in children
    count, e = roots, 0
    for node in range(roots, n):
        parents = 1 + int(rng.random() * min(count, max_in))
        _shuffle(rng, free[:count], parents)
        for i in range(parents - 1, -1, -1):
            parent = free[i]
            edges[e, 0], edges[e, 1] = parent, node
            e += 1
            children[parent] += 1
            if children[parent] == max_in:
                count -= 1
                free[i] = free[count]
        free[count] = node
        count += 1
    return e


@njit(cache=True, nogil=True)
def _draw_answer(rng, n, edges, listed) -> int:
    """Lists the ancestors of node n - 1, then itself, in a topological order; returns how many they are.

    Kahn's algorithm from the node asked for backwards: of the nodes whose needed children are all listed, a uniform one
    comes next.
    """
    children = np.zeros(n, dtype=np.int64)  # of each node, needed ones that are not yet listed
    is_needed = np.zeros(n, dtype=np.bool_)
    is_needed[n - 1] = True
    for e in range(len(edges) - 1, -1, -1):  # edges into a node come after those into earlier ones
        if is_needed[edges[e, 1]]:
            is_needed[edges[e, 0]] = True
            children[edges[e, 0]] += 1
    first = np.searchsorted(edges[:, 1], np.arange(n + 1))  # of the edges into each node
    ready = np.empty(n, dtype=np.int64)
    ready[0], waiting = n - 1, 1
    place = is_needed.sum()
    needed = place
    while waiting:
        pick = int(rng.random() * waiting)
        node = ready[pick]
        waiting -= 1
        ready[pick] = ready[waiting]
        place -= 1
        listed[place] = node
        for e in range(first[node], first[node + 1]):
            parent = edges[e, 0]
            children[parent] -= 1
            if children[parent] == 0:
                ready[waiting] = parent
                waiting += 1
    return needed


@njit(cache=True, nogil=True)
def _name_nodes(rng, n, edges, shape, names, lengths) -> None:
    """Gives a name of several tokens to each node that occurs in an edge."""
    occurs = np.zeros(n, dtype=np.bool_)
    for e in range(len(edges)):
        occurs[edges[e, 0]] = occurs[edges[e, 1]] = True
    nodes = np.flatnonzero(occurs)
    drawn, drawn_lengths = np.empty((n, shape[2]), dtype=np.int64), np.empty(n, dtype=np.int64)
    _draw_names(rng, len(nodes), shape, drawn, drawn_lengths)
    for i in range(len(nodes)):
        names[nodes[i]], lengths[nodes[i]] = drawn[i], drawn_lengths[i]
