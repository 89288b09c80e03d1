"""An experiment file: several runs of one protocol over seeds and encoders, beside published values, as one table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm import paths
from recbole_llm.errors import UserError, nearest, unknown
from recbole_llm.evidence import findings
from recbole_llm.evidence.cells import Cell, Kind, check_references, expand, with_needed
from recbole_llm.evidence.claims import Claim, read_claims
from recbole_llm.evidence.published import Published, read_published
from recbole_llm.values import read_yaml

#: What an experiment file may say.
KNOWN = (
    "about", "settings", "runs", "seeds", "encoders", "metrics", "compare", "claims", "published", "protocol",
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """What a ``yaml/experiment/<name>.yaml`` says.

    Attributes:
        about: one paragraph for the reader of the table.
        settings: of every run.
        runs: label → settings of that run (``model`` among them). A value ``@<label>`` stands for the earlier run of
            that label and the same seed, ``@<label>@all`` for the list of its runs of all seeds; both may stand in
            lists.
        seeds: runs that train are made once a seed.
        metrics: columns of the table, as ``ndcg@10``; all where empty.
        compare: pairs of labels, the first tested against the second on the metric that selected the epochs.
        encoders: name → settings; runs that read text are made once an encoder.
        claims: findings that are held against the runs.
        published: values of others, and the protocol of each.
        protocol: what a reader must know of ours beside theirs that the manifests do not say.
    """

    name: str
    about: str
    settings: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    metrics: Sequence[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    compare: Sequence[Sequence[str]] = ()
    encoders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    claims: Sequence[Claim] = ()
    published: Sequence[Published] = ()
    protocol: str = ""

    def cells(self, kind: Callable[[str, Mapping[str, Any]], Kind], only: Sequence[str] = ()) -> list[Cell]:
        """Every run to be made; with ``only``, those labels and the runs they are made of.

        Raises:
            UserError: ``only`` names no label, or a run's seeds do not fit those it refers to.
        """
        cells = expand(self.name, self.runs, self.settings, self.overrides, self.seeds, self.encoders, kind)
        known = {*self.runs, *(c.label for c in cells)}
        only = joined_labels(only, known)
        for label in only:
            if label not in known:
                close = nearest(label, known, 1)
                hint = f"Did you mean '{close[0]}'?" if close else f"Labels: {', '.join(self.runs)}."
                raise UserError(f"{self.name} has no run '{label}'.", hint)
        return with_needed(cells, only) if only else cells


def joined_labels(parts: Sequence[str], known: Collection[str]) -> list[str]:
    """Labels that were written with commas between them, some of which have a comma of their own: as many parts as
    make a known label, the most first; a part that begins none stays alone."""
    found, at = [], 0
    while at < len(parts):
        ends = (end for end in range(len(parts), at + 1, -1) if ", ".join(parts[at:end]) in known)
        end = next(ends, at + 1)
        found.append(", ".join(parts[at:end]))
        at = end
    return found


def names() -> list[str]:
    """The shipped experiments."""
    return sorted(p.stem for p in (paths.yaml_dir() / "experiment").glob("*.yaml"))


def read_experiment(name: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """A shipped experiment by name, or a yaml file.

    Args:
        overrides: settings of every run; ``seeds`` and ``encoders`` replace the file's.

    Raises:
        UserError: there is none, or the file lacks ``runs`` or says something it may not.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = paths.yaml_dir() / "experiment" / f"{name}.yaml"
        if not path.is_file():
            raise unknown("experiment", name, names())
    said = read_yaml(path)
    for key in sorted(set(said) - set(KNOWN)):
        close = nearest(key, KNOWN, 1)
        hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(KNOWN)}."
        raise UserError(f"{path} has the unknown key '{key}'.", hint)
    runs = said.get("runs")
    if not isinstance(runs, dict) or not all(isinstance(r, dict) and "model" in r for r in runs.values()) or not runs:
        raise UserError(f"{path} must name `runs`: a label and its settings, with a model, each.")
    runs = {str(label): own for label, own in runs.items()}
    check_references(str(path), runs)
    given = dict(overrides or {})
    seeds = given.pop("seeds", None)
    if "seed" in given:
        one = given.pop("seed")
        seeds = [one] if seeds is None else seeds
    encoders = given.pop("encoders", None)
    if "text_encoder" in given:
        encoders = []  # one for all; the file's are not made
    return Experiment(
        path.stem,
        str(said.get("about") or "").strip(),
        _mapping(path, "settings", said.get("settings")),
        runs,
        read_seeds(said.get("seeds", [2020]) if seeds is None else seeds, str(path)),
        _words(path, "metrics", said.get("metrics")),
        given,
        _pairs(path, said.get("compare") or (), runs),
        read_encoders(said.get("encoders") or [] if encoders is None else encoders, str(path)),
        read_claims(said.get("claims"), runs, str(path)),
        read_published(said.get("published"), str(path)),
        " ".join(str(said.get("protocol") or "").split()),
    )


def read_seeds(value: Any, where: str) -> list[int]:
    """``1``, ``1,2,3`` or a list, as a yaml file or a command line gives it.

    Raises:
        UserError: no whole numbers, none at all, or one twice.
    """
    many = list(value) if isinstance(value, (list, tuple)) else [value]
    if not many or not all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**32 for s in many):
        raise UserError(
            f"{where}: seeds is {value!r}.",
            "Write whole numbers from 0: --seeds 1,2,3, or seeds: [1, 2, 3] in the file.",
        )
    twice = sorted({s for s in many if many.count(s) > 1})
    if twice:
        raise UserError(f"{where}: the seed {twice[0]} is named twice.", "A seed makes one run of each label.")
    return many


def read_encoders(value: Any, where: str) -> dict[str, dict[str, Any]]:
    """Encoder names, or a mapping of names to settings, as ``{name: settings}``.

    Raises:
        UserError: neither, or a name twice.
    """
    if isinstance(value, dict) and all(isinstance(s, dict) for s in value.values()):
        return {str(name): {"text_encoder": str(name), **own} for name, own in value.items()}
    many = value.split(",") if isinstance(value, str) else value
    if not isinstance(many, (list, tuple)) or not all(isinstance(n, str) and n.strip() for n in many):
        raise UserError(
            f"{where}: encoders is {value!r}.", "Write names: encoders: [minilm], or {name: {text_encoder: sbert}}."
        )
    found = [n.strip() for n in many]
    if len(set(found)) < len(found):
        raise UserError(f"{where}: encoders names one twice: {', '.join(found)}.")
    return {n: {"text_encoder": n} for n in found}


def _mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{path}: {key} must hold `key: value` lines, not {value!r}.")
    return value or {}


def _words(path: Path, key: str, value: Any) -> list[str]:
    words = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(w, str) for w in words):
        raise UserError(f"{path}: {key} is {value!r}.", f"Write names: {key}: [ndcg@10, recall@10]")
    return [w.lower() for w in words]


def _pairs(path: Path, pairs: Any, runs: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    if not findings.check_pairs(pairs, runs):
        raise UserError(f"{path}: compare is {pairs!r}.", "Write pairs of run labels: compare: [[fused, shuffled]]")
    return pairs
