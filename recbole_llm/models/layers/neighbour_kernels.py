"""The loops of the neighbour search, compiled by numba; :mod:`.neighbour_search` gives the same numbers without it.

Sums are taken in the same order there as here, so both are equal to the last bit, but for :func:`products`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # no folder that the machine code could be kept in
            return njit(**options)(function)  # type: ignore[no-any-return]

    return compiled


@_compiled()
def first_shared(items, offsets, weights, postings, starts, most, ranks, dots, last):  # type: ignore[no-untyped-def]
    """Merges the postings of each prompt's items, which ascend, and stops at the ``most``-th distinct session.

    Writes, prompt after prompt, sessions into ``ranks``, the summed weights of shared items into ``dots``, the place of
    the last shared item (from 1) into ``last``. Returns where each prompt's begin, int64 ``[b + 1]``.
    """
    n_prompts = len(offsets) - 1
    begin = np.zeros(n_prompts + 1, np.int64)
    nobody = np.int32(np.iinfo(np.int32).max)
    longest = 0
    for q in range(n_prompts):
        longest = max(longest, offsets[q + 1] - offsets[q])
    at = np.empty(longest, np.int64)
    end = np.empty(longest, np.int64)
    head = np.empty(longest, np.int32)
    to = 0
    for q in range(n_prompts):
        first = offsets[q]
        n = offsets[q + 1] - first
        now = nobody
        for j in range(n):
            item = items[first + j]
            at[j], end[j] = starts[item], starts[item + 1]
            head[j] = postings[at[j]] if at[j] < end[j] else nobody
            now = min(now, head[j])
        stop = to + most
        while now != nobody and to < stop:
            after = nobody
            dot = 0.0
            place = 0
            for j in range(n):
                if head[j] == now:
                    dot += weights[first + j]
                    place = j + 1
                    at[j] += 1
                    head[j] = postings[at[j]] if at[j] < end[j] else nobody
                after = min(after, head[j])
            ranks[to], dots[to], last[to] = now, dot, place
            to += 1
            now = after
        begin[q + 1] = to
    return begin


@_compiled()
def _least_of(values, most, work):  # type: ignore[no-untyped-def]
    """The ``most``-th largest of ``values``, by Hoare's selection in ``work``, which is as long."""
    for t in range(len(values)):
        work[t] = values[t]
    place, low, high = len(values) - most, 0, len(values) - 1
    while low < high:
        pivot = work[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while work[i] < pivot:
                i += 1
            while work[j] > pivot:
                j -= 1
            if i <= j:
                work[i], work[j] = work[j], work[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
    return work[place]


@_compiled()
def nearest(similarities, offsets, most):  # type: ignore[no-untyped-def]
    """``(int64 [T'], int64 [b + 1])``: where the ``most`` largest of each prompt stand; of equal ones, the first."""
    keep = np.empty(len(similarities), np.int64)
    begin = np.zeros(len(offsets), np.int64)
    work = np.empty(len(similarities))
    to = 0
    for q in range(len(offsets) - 1):
        first, n = offsets[q], offsets[q + 1] - offsets[q]
        if n <= most:
            for t in range(n):
                keep[to + t] = first + t
            to += n
        else:
            own = similarities[first : first + n]
            least = _least_of(own, most, work)
            ties = most
            for value in own:
                ties -= value > least
            for t in range(n):
                tie = own[t] == least
                keep[to] = first + t
                to += (own[t] > least) | (tie & (ties > 0))
                ties -= tie
        begin[q + 1] = to
    return keep[:to], begin


@_compiled()
def add_up(weights, ranks, offsets, session_items, session_offsets, factor, out):  # type: ignore[no-untyped-def]
    """``out[q, i] = factor[i] * sum of the weights of q's neighbours that hold i``, where one does; else untouched."""
    total = np.zeros(out.shape[1])
    for q in range(len(offsets) - 1):
        # Three passes over the neighbours' items: to ask of each whether it was met before is dearer. Unsigned
        # numbers spare the question whether a place is counted from the end.
        for t in range(offsets[q], offsets[q + 1]):
            s, weight = ranks[t], weights[t]
            for a in range(session_offsets[s], session_offsets[s + 1]):
                total[np.uint32(session_items[a])] += weight
        for t in range(offsets[q], offsets[q + 1]):
            s = ranks[t]
            for a in range(session_offsets[s], session_offsets[s + 1]):
                i = np.uint32(session_items[a])
                out[q, i] = total[i] * factor[i]
        for t in range(offsets[q], offsets[q + 1]):
            s = ranks[t]
            for a in range(session_offsets[s], session_offsets[s + 1]):
                total[np.uint32(session_items[a])] = 0.0


@_compiled(fastmath={"reassoc", "contract"})
def products(own, vectors, rows, ranks):  # type: ignore[no-untyped-def]
    """float64 ``[T]``: ``own[rows[t]] . vectors[ranks[t]]``; in any order of summing, so not to the last bit."""
    found = np.empty(len(rows))
    for t in range(len(rows)):
        a, b = own[rows[t]], vectors[ranks[t]]
        dot = np.float32(0)
        for d in range(len(a)):
            dot += a[d] * b[d]
        found[t] = dot
    return found
