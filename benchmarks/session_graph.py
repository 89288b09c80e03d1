"""Session graphs of 2048 prefixes: ours, ragged and built on the fly, against RecBole's ``SRGNN._get_slice``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from session_data import prefixes
from timing import interleaved, row, single_thread

N_ITEMS = 12_102


def main() -> dict[str, dict[str, Any]]:
    from recbole.model.sequential_recommender.srgnn import SRGNN

    from recbole_llm.models.layers.session_graph import SessionGraph

    single_thread()
    batch = prefixes(2048, N_ITEMS)
    seq, lengths = batch["item_id_list"], batch["item_length"]
    recbole = SimpleNamespace(device="cpu")

    def ours() -> SessionGraph:
        return SessionGraph.build(seq, lengths, N_ITEMS)

    def peer() -> Any:
        return SRGNN._get_slice(recbole, seq)

    assert edges(ours()) == their_edges(*peer()[1:3]), "the graphs differ"
    return {"session graphs, 2048 prefixes": row(*interleaved(ours, peer, repeat=20), equal=True)}


def edges(graph: Any) -> dict[tuple[int, int, int], tuple[float, float]]:
    """(session, from item, to item) → the edge's two weights, as float32."""
    rows = graph.node_rows[graph.src].tolist()
    ends = zip(graph.nodes[graph.src].tolist(), graph.nodes[graph.dst].tolist())
    weights = zip(graph.in_weight.tolist(), graph.out_weight.tolist())
    found = {(b, u, v): w for b, (u, v), w in zip(rows, ends, weights)}
    assert len(found) == len(rows), "an edge stands twice"
    return found


def their_edges(a: Any, items: Any) -> dict[tuple[int, int, int], tuple[float, float]]:
    n = a.shape[1]
    a, items = a.numpy(), items.numpy()
    found = {}
    for b, v, u in zip(*np.nonzero(a[:, :, :n])):  # A_in[v, u], A_out[u, v]
        found[int(b), int(items[b, u]), int(items[b, v])] = (float(a[b, v, u]), float(a[b, u, n + v]))
    assert len(found) == np.count_nonzero(a[:, :, n:]), "an edge is in one direction only"
    return found


if __name__ == "__main__":
    print(main())
