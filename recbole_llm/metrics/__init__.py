"""Metrics: functions of one evaluation's ranks and lists (:class:`recbole_llm.Ranking`), one family a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recbole_llm.errors import UserError, unknown
from recbole_llm.metrics.accuracy import MAP, MRR, NDCG, Hit, Precision, Recall
from recbole_llm.metrics.beyond_accuracy import (
    AveragePopularity,
    Coverage,
    GiniIndex,
    ItemCoverage,
    Novelty,
    Serendipity,
    ShannonEntropy,
    TailPercentage,
)
from recbole_llm.metrics.contracts import Metric, Ranking
from recbole_llm.metrics.whole_list import GAUC, FullMRR, RankAUC

#: every metric of the house, in the order they are listed
ALL: tuple[type[Metric], ...] = (
    Recall,
    Hit,
    MRR,
    NDCG,
    Precision,
    MAP,
    FullMRR,
    RankAUC,
    GAUC,
    Coverage,
    ItemCoverage,
    Novelty,
    Serendipity,
    AveragePopularity,
    TailPercentage,
    GiniIndex,
    ShannonEntropy,
)


#: what stands before a metric of a ranking among a few drawn items: ``sampled-ndcg@10``
SAMPLED = "sampled-"
#: the metrics that such a ranking has: those of the target's place in it
OF_SAMPLES = tuple(m.name for m in (Recall, Hit, MRR, NDCG, Precision, MAP, FullMRR))


def known(extra: Iterable[type[Metric]] = ()) -> dict[str, type[Metric]]:
    """Metric classes by name: the house's, then ``extra`` (plugins'; a name of the house cannot be taken).

    Raises:
        UserError: a name is registered twice.
    """
    out = {m.name: m for m in ALL}
    for m in extra:
        if out.setdefault(m.name, m) is not m:
            raise UserError(
                f"The metric '{m.name}' of {m.__module__} is already one of {out[m.name].__module__}.",
                "Rename it, or block its plugin with RECBOLE_LLM_DISABLE.",
            )
    return out


def find(name: str, extra: Iterable[type[Metric]] = ()) -> type[Metric]:
    """The metric written as ``name``, in any case, with or without ``@K``.

    Raises:
        UserError: there is none; the nearest names are in the hint.
    """
    table = known(extra)
    bare = str(name).split("@")[0].lower()
    if bare not in table:
        raise unknown("metric", str(name), table)
    return table[bare]


def check_topk(topk: int | Sequence[int]) -> list[int]:
    """``topk`` as a list of positive integers.

    Raises:
        UserError: it is not.
    """
    ks = [topk] if isinstance(topk, int) else list(topk)
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks):
        raise UserError(f"topk is {topk!r}; it must be a list of positive integers.", "For example: topk: [10, 20]")
    return ks


def compute(
    ranking: Ranking,
    names: str | Sequence[str],
    topk: int | Sequence[int],
    extra: Iterable[type[Metric]] = (),
) -> dict[str, float]:
    """Every named metric, ordered as RecBole does: by metric as named, then by K as given.

    Args:
        ranking: one evaluation in one seen mode.
        names: metric names, any case.
        topk: the K.
        extra: metric classes of plugins.

    Returns:
        ``{"recall@10": …, "recall@20": …, "mrr@10": …, "fullmrr": …}``, not rounded.

    Raises:
        UserError: an unknown metric (nearest names given), a bad K, no queries, or lists too short for K.
    """
    ks, extra = check_topk(topk), tuple(extra)
    classes = [find(n, extra) for n in ([names] if isinstance(names, str) else names)]
    if len(ranking.offsets) < 2:
        raise UserError("There are no queries to evaluate.", "Check the split: its report counts rows by part.")
    out: dict[str, float] = {}
    for cls in classes:
        out.update(cls().compute(ranking, ks))
    return out
