"""An experiment file: several runs of one protocol over seeds, as one table. Finished runs are not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm import paths
from recbole_llm.errors import UserError, nearest, unknown
from recbole_llm.evidence import findings
from recbole_llm.evidence.run_folder import MANIFEST, MODES, read_json
from recbole_llm.evidence.tables import table
from recbole_llm.values import read_yaml

#: What an experiment file may say.
KNOWN = ("about", "settings", "runs", "seeds", "metrics", "compare")


@dataclass(frozen=True)
class Experiment:
    """What a ``yaml/experiment/<name>.yaml`` says.

    Attributes:
        about: one paragraph for the reader of the table.
        settings: of every run.
        runs: label → settings of that run (``model`` among them). A value ``@<label>`` stands for the earlier run
            of that label and the same seed, also inside a list; there ``@<label>@all`` stands for the list of its
            runs of all seeds.
        seeds: every run is made once a seed; one that names ``@<label>@all`` is made once, after the others, with
            the first.
        metrics: columns of the table, as ``ndcg@10``; all where empty.
        compare: pairs of labels, the first tested against the second on the metric that selected the epochs.
    """

    name: str
    about: str
    settings: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    metrics: Sequence[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    compare: Sequence[Sequence[str]] = ()

    def planned(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """``(label, seed, settings)`` of every run, in the order they are made."""
        once = [label for label, own in self.runs.items() if _of_all_seeds(own)]
        each = [label for label in self.runs if label not in once]
        for seed, labels in [*((seed, each) for seed in self.seeds), (self.seeds[0], once)]:
            for label in labels:
                yield label, seed, {**self.settings, **self.runs[label], **self.overrides, "seed": seed}


def names() -> list[str]:
    """The shipped experiments."""
    return sorted(p.stem for p in (paths.yaml_dir() / "experiment").glob("*.yaml"))


def read_experiment(name: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """A shipped experiment by name, or a yaml file.

    Raises:
        UserError: there is none, or the file lacks ``runs``.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = paths.yaml_dir() / "experiment" / f"{name}.yaml"
        if not path.is_file():
            raise unknown("experiment", name, names())
    said = read_yaml(path)
    strange = sorted(set(said) - set(KNOWN))
    if strange:
        raise UserError(f"{path} has the unknown keys {', '.join(strange)}.", f"Known: {', '.join(KNOWN)}.")
    runs = said.get("runs")
    if not isinstance(runs, dict) or not all(isinstance(r, dict) and "model" in r for r in runs.values()):
        raise UserError(f"{path} must name `runs`: a label and its settings, with a model, each.")
    _check_references(path, runs)
    given = dict(overrides or {})
    seeds = given.pop("seeds", None) or ([given.pop("seed")] if "seed" in given else said.get("seeds", [2020]))
    if (
        not isinstance(seeds, list)
        or not all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
        or not seeds
    ):
        raise UserError(f"{path}: seeds is {seeds!r}.", "Write whole numbers: seeds: [2020, 2021]")
    return Experiment(
        path.stem,
        str(said.get("about", "")).strip(),
        said.get("settings", {}),
        runs,
        seeds,
        said.get("metrics", ()),
        given,
        _pairs(path, said.get("compare", ()), runs),
    )


def _pairs(path: Path, pairs: Any, runs: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    if not findings.check_pairs(pairs, runs):
        raise UserError(f"{path}: compare is {pairs!r}.", "Write pairs of run labels: compare: [[fused, shuffled]]")
    return pairs


def run_experiment(
    experiment: Experiment,
    saved: Path,
    run: Callable[..., Any],
    load: Callable[[Path], Any],
    say: Callable[[str], None],
) -> list[tuple[str, int, Any]]:
    """Makes what is missing: finished runs are read back, interrupted ones are resumed. ``[(label, seed, run)]``."""
    done = []
    plan = list(experiment.planned())
    folders: dict[tuple[str, int], Path] = {}
    for number, (label, seed, settings) in enumerate(plan, 1):
        settings = {k: _resolved(v, seed, experiment.seeds, folders) for k, v in settings.items()}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
        folder = saved / f"{experiment.name}-{_slug(label)}-seed{seed}-{digest}"
        folders[label, seed] = folder
        status = read_json(folder / MANIFEST).get("status") if (folder / MANIFEST).is_file() else None
        what = {None: "run", "finished": "already done"}.get(status, "resume")
        say(f"[{number}/{len(plan)}] {label}, seed {seed}: {what}")
        if status == "finished":
            done.append((label, seed, load(folder)))
        elif status is None:
            own = dict(settings)
            model, dataset = own.pop("model"), own.pop("dataset", None)
            done.append(
                (label, seed, run(model, dataset, None, {**own, "run_name": folder.name, "checkpoint_dir": str(saved)}))
            )
        else:
            done.append((label, seed, run(config_dict={"resume": str(folder)})))
    return done


def summary(experiment: Experiment, done: Sequence[tuple[str, int, Any]]) -> str:
    """The table: mean (± standard deviation over seeds) of the test metrics, a block a seen mode."""
    blocks = [experiment.about] if experiment.about else []
    for mode in MODES:
        columns = list(experiment.metrics) or list(done[0][2].result["test"].get(mode, {}))
        rows = []
        for label in experiment.runs:
            results = [r.result["test"].get(mode, {}) for name, _, r in done if name == label]
            rows.append([label, *(_spread([res[m] for res in results if m in res]) for m in columns)])
        own = " (selected by)" if all(r.result["mode"] == mode for _, _, r in done) else ""
        blocks.append(f"test, seen items {mode}{own}\n{table(['run', *columns], rows)}")
    metric = str(done[0][2].result["valid_metric"]).lower()
    if experiment.compare:
        blocks += [findings.comparisons(done, experiment.compare, metric), findings.slices(done, metric)]
    blocks += [findings.trials(done), _terms(done)]
    return "\n\n".join(blocks)


def _terms(done: Sequence[tuple[str, int, Any]]) -> str:
    """What every reader must know of these numbers."""
    first = done[0][2].manifest
    seeds = sorted({s for _, s, _ in done})
    lines = [
        f"{first['dataset']}, split {first['split']['split_by'] or first['split']['eval_args']}, full ranking"
        f"{'' if not first['settings'].get('candidates') else ' of candidates'}, seeds {seeds}, "
        f"epoch by validation {done[0][2].result['valid_metric']}; {first['ties']}."
    ]
    encoders = {
        (t.get("encoder"), bool(t.get("paper_encoder")))
        for _, _, r in done
        if (t := r.manifest.get("text")) is not None
    }
    for name, paper in sorted(encoders, key=str):
        lines.append(
            f"Text vectors by {name}: {'the paper encoder' if paper else 'same protocol, substitute encoder'}."
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> Any:
    if not values:
        return None
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean
    sd = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.4f} ± {sd:.4f}"


#: Behind a label: its runs of all seeds.
_ALL = "@all"


def _references(value: Any) -> list[str]:
    """The labels, as written behind ``@``, that a value such as ``@NISER`` or ``["@NISER@all", "@Pop"]`` refers to."""
    if isinstance(value, (list, tuple)):
        return [label for v in value for label in _references(v)]
    return [value[1:]] if isinstance(value, str) and value.startswith("@") else []


def _of_all_seeds(settings: Mapping[str, Any]) -> bool:
    return any(label.endswith(_ALL) for value in settings.values() for label in _references(value))


def _resolved(value: Any, seed: int, seeds: Sequence[int], folders: Mapping[tuple[str, int], Path]) -> Any:
    """``value`` with folder names in place of references."""
    if isinstance(value, (list, tuple)):
        return [_resolved(v, seed, seeds, folders) for v in value]
    if not _references(value):
        return value
    label = value[1:]
    if label.endswith(_ALL):
        return [folders[label.removesuffix(_ALL), s].name for s in seeds]
    return folders[label, seed].name


def _check_references(path: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    earlier: list[str] = []
    for label, own in runs.items():
        for key, value in own.items():
            for named in _references(value):
                if named.removesuffix(_ALL) in earlier and (isinstance(value, list) or not named.endswith(_ALL)):
                    continue
                close = nearest(named.removesuffix(_ALL), earlier, 1)
                raise UserError(
                    f"{path}, run '{label}': {key} is '{value}', but no earlier run is called '{named}'.",
                    f"Did you mean @{close[0]}?" if close else "A run may name runs that stand above it.",
                )
        if not _of_all_seeds(own):  # a run made once is not there for each seed
            earlier.append(label)


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in label)
