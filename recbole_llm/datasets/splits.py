"""The splits: which instances are trained, which select the epoch, which are reported.

All rules work on arrays of positions (:mod:`recbole_llm.datasets.sessions`), without a Python step a session.
Selection is on ``valid`` only; nothing a rule marks for training contains a valid or test target, except
``prefix_random``, which leaks by its nature, says so in its report and exists to imitate.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_llm.datasets.presplit import Prefixes, from_files
from recbole_llm.datasets.sessions import Sessions, expand, last, no_rows
from recbole_llm.datasets.split import Split, check_ratios, finish
from recbole_llm.errors import UserError, unknown

__all__ = [
    "RULES",
    "Prefixes",
    "Split",
    "by_user",
    "from_files",
    "leave_one_out",
    "make_split",
    "prefix_random",
    "session_time",
]

#: the values of ``split_by``
RULES = ("leave_one_out", "user", "session_time", "prefix_random", "files")
FOLDS = 3

_log = logging.getLogger(__name__)


def make_split(sessions: Sessions | None, config: Any, files: Mapping[str, Sessions | Prefixes] | None = None) -> Split:
    """The split the config asks for.

    Args:
        sessions: all sessions; not used by ``split_by: files``.
        config: ``split_by``, ``split_ratios``, ``split_seed``, ``expand_eval``, ``test_ratio``, ``fold``,
            ``drop_unseen``, ``eval_sample``; a missing key is ``None`` and means its default.
        files: for ``split_by: files``, ``{"train", "valid", "test"}``.

    Raises:
        UserError: an unknown rule, a wrong value, or a split without training or test rows.
    """

    def get(key: str, default: Any) -> Any:
        value = config[key] if not isinstance(config, Mapping) else config.get(key)
        return default if value is None else value

    rule = get("split_by", "leave_one_out")
    if rule not in RULES:
        raise unknown("split_by", str(rule), RULES)
    ratios, seed = get("split_ratios", (0.8, 0.1, 0.1)), int(get("split_seed", 0))
    expand_eval = bool(get("expand_eval", False))
    fold = None
    if rule == "files":
        if files is None:
            raise UserError("split_by is 'files' and no files are given.", "Name them: benchmark_filename: [a, b, c]")
        split = from_files(files, expand_eval=expand_eval)
    elif sessions is None:
        raise ValueError(f"split_by {rule!r} needs sessions")
    elif rule == "leave_one_out":
        split = leave_one_out(sessions)
    elif rule == "user":
        split = by_user(sessions, ratios, expand_eval=expand_eval, seed=seed)
    elif rule == "session_time":
        fold = get("fold", None)
        split = session_time(sessions, get("test_ratio", 0.2), fold=fold, drop_unseen=bool(get("drop_unseen", True)))
    else:
        split = prefix_random(sessions, ratios, seed=seed)
    for name, rows in split.parts().items():
        if not len(rows) and (name == "train" or (name == "test" and fold not in (1, 2, 3))):
            raise UserError(
                f"The split '{rule}' leaves no {name} instances ({len(split.sessions)} sessions, "
                f"{len(split.raw.items)} interactions).",
                "Check the dataset's filters, or choose another split_by.",
            )
    sample = get("eval_sample", None)
    return split if sample is None else split.latest(int(sample))


def leave_one_out(sessions: Sessions) -> Split:
    """The last click of each user is test, the one before valid, every earlier prefix train.

    Rows and their order are RecBole 1.2.1's (``SequentialDataset.data_augmentation``, then order ``TO`` and split
    ``LS: valid_and_test``): a user of three clicks gives one train and one test row, of two clicks one train row,
    of one click none; users follow each other by the time of their second click, ties by id. The test prefix holds
    the valid target.
    """
    begin, end, n = sessions.offsets[:-1], sessions.offsets[1:], sessions.lengths
    held = np.clip(n - 2, 0, 2)
    users = np.flatnonzero(n >= 2)
    key = sessions.order if sessions.order is not None else sessions.times
    if key is not None:
        users = users[np.argsort(key[begin[users] + 1], kind="stable")]
    stop = end - held
    train = expand(begin[users], stop[users], users)
    has_valid, has_test = users[held[users] == 2], users[held[users] >= 1]
    valid = last(begin[has_valid], end[has_valid] - 1, has_valid)
    test = last(begin[has_test], end[has_test], has_test)
    mask = _spans(len(sessions.items), begin, stop)
    return finish(
        "leave_one_out", sessions, train, valid, test, mask, sessions, sessions_without_test=int((n < 3).sum())
    )


def by_user(sessions: Sessions, ratios: Any = (0.8, 0.1, 0.1), *, expand_eval: bool = False, seed: int = 0) -> Split:
    """Whole users (sessions) go to train, valid or test, drawn once by ``seed`` (SemSR, sec. 4.1: 80/10/10).

    Every prefix of a training session is an instance; of a valid or test session only the last item is a target,
    unless ``expand_eval``. Valid and test counts are rounded down, the rest is train. Sessions of one click give no
    instance; items never trained stay (their number is reported).
    """
    shares = check_ratios(ratios)
    n = len(sessions)
    n_valid, n_test = int(shares[1] * n + 1e-9), int(shares[2] * n + 1e-9)
    drawn = np.random.default_rng(seed).permutation(n)
    test_of = np.sort(drawn[:n_test])
    valid_of = np.sort(drawn[n_test : n_test + n_valid])
    train_of = np.sort(drawn[n_test + n_valid :])
    begin, end = sessions.offsets[:-1], sessions.offsets[1:]
    held = expand if expand_eval else last
    train = expand(begin[train_of], end[train_of], train_of)
    valid, test = (held(begin[s], end[s], s) for s in (valid_of, test_of))
    mask = _spans(len(sessions.items), begin[train_of], end[train_of])
    return finish(
        "user",
        sessions,
        train,
        valid,
        test,
        mask,
        sessions,
        sessions_by_part=[len(train_of), len(valid_of), len(test_of)],
        seed=seed,
    )


def session_time(
    sessions: Sessions, test_ratio: float = 0.2, *, fold: int | str | None = None, drop_unseen: bool = True
) -> Split:
    """Whole sessions by the time they end (Boz et al., TORS 2025; code ``main/data/temporal_split.py``).

    A session's time is its latest click, ties by session id. The latest ``ceil(test_ratio · S)`` sessions are test;
    the others, in time order, are four bins of equal count (the first ``S mod 4`` hold one more). With
    ``drop_unseen``, items absent from training leave a valid or test session *before* its last item is taken as the
    target, and sessions left with fewer than two items vanish. Training sessions are never filtered.

    ``fold`` says what is trained and what selects:

    * ``None``: train bins 1-3, valid bin 4, and the paper's test set. One run, honest selection.
    * ``1``, ``2``, ``3``: train bins 1..fold, valid bin fold + 1, no test rows. For tuning by forward chaining.
    * ``"final"``: train all four bins, no valid rows, the same test set. The paper's last fit, after tuning.

    The test set is the same in ``None`` and ``final``: its unseen items are those absent from all four bins, so
    numbers pair query by query. Targets that ``None`` never trained are counted in the report.

    Raises:
        UserError: no times, ``test_ratio`` outside (0, 1), an unknown fold, or too few sessions.
    """
    if fold not in (None, 1, 2, 3, "final"):
        raise UserError(f"fold is {fold!r}.", "Use None, 1, 2, 3 or final.")
    if isinstance(test_ratio, bool) or not isinstance(test_ratio, (int, float)) or not 0 < test_ratio < 1:
        raise UserError(f"test_ratio is {test_ratio!r}; it must lie between 0 and 1.", "For example: test_ratio: 0.2")
    by_time = np.lexsort((sessions.users, sessions.ends()))
    # 0.07 · 100 is 7.000000000000001 in floating point; without the rounding, ceil would take an eighth session
    n_test = math.ceil(round(test_ratio * len(by_time), 9))
    known, test_of = by_time[: len(by_time) - n_test], by_time[len(by_time) - n_test :]
    if len(known) < FOLDS + 1:
        raise UserError(
            f"{len(by_time)} sessions are too few for a split by time.", "At least 4 must be left for training."
        )
    bins = np.array_split(known, FOLDS + 1)
    upto = 4 if fold == "final" else 3 if fold is None else int(fold)
    train_of = np.concatenate(bins[:upto])
    valid_of = bins[upto] if upto < 4 else known[:0]
    tested = fold in (None, "final")

    begin, end = sessions.offsets[:-1], sessions.offsets[1:]
    n = len(sessions.items)
    keep = np.ones(n, bool)
    if drop_unseen:
        trained = _spans(n, begin[train_of], end[train_of])
        held = [(valid_of, trained)]
        if tested:
            held.append((test_of, _spans(n, begin[known], end[known])))
        for part, base in held:
            keep &= ~_spans(n, begin[part], end[part]) | _seen(sessions.items, base)
        before = np.r_[0, np.cumsum(keep)]
        gone = np.concatenate([part[before[end[part]] - before[begin[part]] < 2] for part, _ in held])
        keep &= ~_spans(n, begin[gone], end[gone])
    kept = sessions.keep(keep) if not keep.all() else sessions
    begin, end = kept.offsets[:-1], kept.offsets[1:]
    train = expand(begin[train_of], end[train_of], train_of)
    valid = last(begin[valid_of], end[valid_of], valid_of)
    test = last(begin[test_of], end[test_of], test_of) if tested else no_rows()
    mask = _spans(len(kept.items), begin[train_of], end[train_of])
    return finish(
        "session_time",
        kept,
        train,
        valid,
        test,
        mask,
        sessions,
        kept=None if keep.all() else keep,
        fold=fold,
        drop_unseen=drop_unseen,
        sessions_by_part=[len(train_of), len(valid_of), len(test_of) if tested else 0],
        clicks_dropped=int(n - len(kept.items)),
    )


def prefix_random(sessions: Sessions, ratios: Any = (0.8, 0.1, 0.1), *, seed: int = 0) -> Split:
    """Every prefix of every user, then a random share of the *prefixes* is valid and test: how LLM4SBR's Beauty
    counts (158,139 + 18,000 prefixes) seem to have been made. **Leaky**: a test target is an item of longer training
    prefixes of the same user. For imitation only; it logs a warning and reports ``leaky: true``.

    ``train_sessions`` leaves the held-out targets out, so graphs and popularity do not add a second leak.
    """
    shares = check_ratios(ratios)
    rows = expand(sessions.offsets[:-1], sessions.offsets[1:], np.arange(len(sessions)))
    n = len(rows)
    n_valid, n_test = int(shares[1] * n + 1e-9), int(shares[2] * n + 1e-9)
    part = np.zeros(n, np.int8)
    drawn = np.random.default_rng(seed).permutation(n)
    part[drawn[:n_test]] = 2
    part[drawn[n_test : n_test + n_valid]] = 1
    train, valid, test = (rows[np.flatnonzero(part == p)] for p in range(3))
    mask = np.ones(len(sessions.items), bool)
    mask[valid.target] = mask[test.target] = False
    _log.warning(
        "split_by: prefix_random leaks: prefixes of one session lie in train and in test. "
        "Use it only to imitate LLM4SBR's numbers."
    )
    return finish("prefix_random", sessions, train, valid, test, mask, sessions, leaky=True, seed=seed)


def _spans(n: int, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """bool ``[n]``, True inside the spans ``begin:end`` (which do not overlap)."""
    step = np.zeros(n + 1, np.int8)
    full = end > begin
    # spans may touch: one's end is the next one's begin, so add instead of assigning
    np.add.at(step, begin[full], 1)
    np.add.at(step, end[full], -1)
    return np.cumsum(step[:-1], dtype=np.int8).astype(bool)


def _seen(items: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """bool ``[N]``: whether each click's item is among the items under ``mask``."""
    known = np.zeros(int(items.max(initial=0)) + 1, bool)
    known[items[mask]] = True
    return known[items]
