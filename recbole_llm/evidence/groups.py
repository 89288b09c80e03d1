"""Which runs belong together: those that differ only in seed are one model, shown as mean and spread.

``compare`` and ``plot`` both start here: :func:`same_data` refuses runs that rank other queries, :func:`grouped` makes
one :class:`Group` of the seeds of each model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError, unknown
from recbole_llm.evidence.run_folder import MODES, SETTINGS, find_folder, read_manifest
from recbole_llm.evidence.tables import label
from recbole_llm.values import read_yaml

#: What chance is drawn from.
SEEDS = ("seed", "text_control_seed")
#: Settings that two runs of one model may differ in: where things lie, how they are shown, stored and counted.
ASIDE = {
    *SEEDS, "run_name", "checkpoint_dir", "resume", "data_path", "raw_path", "download", "candidates_seed",
    "candidates_beside", "split_seed", "state", "show_progress", "log_wandb", "wandb_project", "loss_decimal_place",
    "metric_decimal_place",
    "metrics", "topk", "top_size", "eval_batch_size", "save_vectors", "save_dataset", "save_dataloaders",
    "dataset_save_path", "dataloaders_save_path", "text_batch_tokens", "worker", "device", "use_gpu", "gpu_id",
    "local_rank", "group_offset", "world_size", "ip", "port",
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """The runs of one model.

    Attributes:
        label: model and what sets it apart from the other groups, without seed.
        runs: one :class:`recbole_llm.Run` a seed, in the order given.
    """

    label: str
    runs: Sequence[Any]

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return [r.manifest["seed"] for r in self.runs]


def grouped(runs: Sequence[Any], labels: Sequence[str] | None = None, *, each: bool = False) -> list[Group]:
    """The runs as groups that differ only in seed (and in where they lie: :data:`ASIDE`), in the order of mention.

    A composite's runs belong together if the runs they are made of do: its parts' names count as their models.

    Args:
        labels: a name a group, instead of the made ones.
        each: every run is a group of its own; its seed stands in its label.

    Raises:
        UserError: a model was given twice with one seed, or ``labels`` are not one a group.
    """
    identities = [_identity(r.folder, r.manifest) for r in runs]
    at: dict[str, list[int]] = {}
    for i, identity in enumerate(identities):
        at.setdefault(f"{i}" if each else json.dumps(identity, sort_keys=True, default=str), []).append(i)
    for same in at.values():
        drawn: dict[Any, int] = {}
        for i in same:
            j = drawn.setdefault(_chance(runs[i].manifest), i)
            if j != i:
                raise UserError(
                    f"{runs[i].folder.name} and {runs[j].folder.name} are the same model with the same seed.",
                    "Leave one out: seeds of a model are counted as independent.",
                )
    members = list(at.values())
    if labels is not None and len(labels) != len(members):
        found = "; ".join(", ".join(runs[i].folder.name for i in same) for same in members)
        raise UserError(f"{len(labels)} labels for {len(members)} groups of runs: {found}.", "Give one label a group.")
    names = list(labels) if labels is not None else _labels(runs, [m[0] for m in members], identities, each)
    return [Group(name, [runs[i] for i in same]) for name, same in zip(names, members)]


def same_data(runs: Sequence[Any], part: str = "test", mode: str | None = None, *, unfinished: bool = False) -> str:
    """The seen mode in which these runs may stand side by side.

    Args:
        part: ``test`` or ``valid``: what is compared.
        mode: ``kept`` or ``masked``; ``None``: the runs' own.
        unfinished: whether runs may still be going on.

    Raises:
        UserError: a run that is not finished or was not evaluated on ``part``, runs of other data, another split or
            other candidates (the difference is named), or some that mean seen items kept and others masked.
    """
    for run in runs:
        if not unfinished and run.manifest.get("status", "finished") != "finished":
            raise UserError(
                f"{run.folder.name} is not finished (it is {run.manifest['status']}).",
                f"Continue it: run_recbole --resume={run.folder}",
            )
        if run.manifest["split"]["sha256"].get(part) is None:
            raise UserError(f"{run.folder.name} has no {part} part.", "Runs of a fold 1, 2 or 3 have no test part.")
    first = runs[0]
    for run in runs[1:]:
        ours, theirs = first.manifest, run.manifest
        found = []
        if ours["dataset"] != theirs["dataset"]:
            found.append(f"dataset {theirs['dataset']} against {ours['dataset']}")
        else:
            here, there = ours["data"].get("files", {}), theirs["data"].get("files", {})
            found += [f"{f} is another file" for f in sorted({*here} & {*there}) if here[f] != there[f]]
        if ours["split"]["sha256"].get(part) != theirs["split"]["sha256"].get(part):
            found.append(f"other {part} sessions or targets")
        asked, before = _protocol(run), _protocol(first)
        found += [f"{k} {asked[k]} against {before[k]}" for k in asked if asked[k] != before[k]]
        beside = [r.result["sampled"] for r in (run, first) if r.result.get("sampled")]
        if len(beside) == 2:  # one without is compared by the full ranking
            found += [f"{k} {beside[0][k]} against {beside[1][k]}" for k in beside[0] if beside[0][k] != beside[1][k]]
        if found:
            raise UserError(
                f"{run.folder.name} cannot stand beside {first.folder.name}: {', '.join(found)}.",
                "Compare runs of one dataset and one split.",
            )
    modes = {r.result.get("mode") or _meant(r) for r in runs} if mode is None else {mode}
    if len(modes) > 1:
        raise UserError(
            "Some of these runs mean seen items kept, others masked.", f"Say --mode={' or --mode='.join(MODES)}."
        )
    return str(modes.pop())


def settings_of(run: Any) -> Mapping[str, Any]:
    """A run's resolved settings; the user's own where it does not hold them."""
    path = run.folder / SETTINGS
    return read_yaml(path) if path.is_file() else run.manifest["settings"]  # type: ignore[no-any-return]


def _meant(run: Any) -> str:
    """The seen mode of a run that has no result yet."""
    return "masked" if settings_of(run).get("mask_seen") else "kept"


def baseline_first(groups: Sequence[Group], baseline: str | None) -> list[Group]:
    """The groups with the one called ``baseline`` (or that holds a run of that name) first.

    Raises:
        UserError: there is none.
    """
    if baseline is None:
        return list(groups)
    for group in groups:
        if baseline == group.label or baseline in [r.folder.name for r in group.runs]:
            return [group, *(g for g in groups if g is not group)]
    raise unknown("model", baseline, [g.label for g in groups])


def _protocol(run: Any) -> dict[str, Any]:
    """What competes in a run's ranking."""
    path = run.folder / SETTINGS
    said = read_yaml(path) if path.is_file() else {}
    candidates = said.get("candidates")
    return {
        "candidates": candidates,
        "candidates_seed": None if candidates is None else said.get("candidates_seed"),
        "eval_args.mode": (said.get("eval_args") or {}).get("mode"),
    }


def _identity(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is, but for its seed: model and settings, a part's name replaced by what the part is."""
    path = folder / SETTINGS
    settings = read_yaml(path) if path.is_file() else manifest["settings"]
    parts = {}
    for said in (manifest.get("parts") or {}).values():
        try:
            there = find_folder(said["run"], folder.parent)
            parts[said["run"]] = _identity(there, read_manifest(there))
        except UserError:
            parts[said["run"]] = said["model"]  # gone: its model is all that is known

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return parts.get(Path(value).name, value) if isinstance(value, str) else value

    said = {k: plain(v) for k, v in settings.items() if k not in ASIDE}
    return {**said, **_language_model(manifest), "model": manifest["model"], "dataset": manifest["dataset"]}


def _language_model(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Which language model and adapter a run read, wherever they lie."""
    found = manifest.get("language_model")
    if not found or not found.get("content"):
        return {}  # one of the hub, whose name and revision say it
    return {"lm": found["content"], "lm_adapter": (found.get("adapter") or {}).get("content")}


def _chance(manifest: Mapping[str, Any]) -> tuple[Any, ...]:
    """Everything that chance was drawn from: the run's seeds and those of the runs it is made of."""
    own = [manifest["settings"].get(k) for k in SEEDS[1:]]
    return (manifest["seed"], *own, *(p["weights"] or p["seed"] for p in (manifest.get("parts") or {}).values()))


def _labels(runs: Sequence[Any], first: Sequence[int], identities: Sequence[Any], each: bool) -> list[str]:
    """A label a group: the model, and where that is not enough the settings that differ, else the folder."""
    names = [label(runs[i], seed=each) for i in first]
    out = []
    for i, name in zip(first, names):
        twins = [identities[j] for j, other in zip(first, names) if other == name and j != i]
        differs = sorted({k for t in twins for k in {*t, *identities[i]} if t.get(k) != identities[i].get(k)})
        own = {k: runs[i].manifest["settings"].get(k) for k in ("lm", "lm_adapter")}  # a place says more than a digest
        said = [
            f"{k}={own.get(k) or identities[i].get(k)}"
            for k in differs
            if not isinstance(identities[i].get(k), (dict, list))
        ]
        if twins and (not said or len(said) > 3):
            said = [runs[i].folder.name]
        out.append(f"{name} ({', '.join(said)})" if twins else name)
    return out
