"""A run, from settings to a complete run folder; and a run folder back to a model that recommends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_llm.evidence import run_folder
from recbole_llm.plugins import PluginHouse, house


class Run:
    """A finished (or interrupted) run.

    Attributes:
        folder: the run folder.
        manifest: what was run: settings, data, split, encoder, versions.
        result: ``result.json``: validation and test metrics in both seen modes; ``{}`` while unfinished.
        model: the class that was run, where it was given as a class; ``None``: found by its name.

    Args:
        moved: settings whose places are others now: ``lm``, ``lm_adapter``.
    """

    def __init__(
        self,
        folder: str | Path,
        plugins: PluginHouse | None = None,
        model: type | None = None,
        moved: Mapping[str, str | None] | None = None,
    ):
        self.folder = Path(folder)
        self.plugins = plugins or house()
        self.model = model
        self.manifest = run_folder.read_manifest(self.folder)
        self.manifest["moved"] = {k: v for k, v in (moved or {}).items() if v is not None}
        path = self.folder / run_folder.RESULT
        self.result = run_folder.read_json(path) if path.is_file() else {}
        self._recommenders: dict[tuple[str | None, bool], Any] = {}

    @property
    def metrics(self) -> dict[str, float]:
        """Test metrics in the run's own seen mode."""
        return self.result["test"][self.result["mode"]] if self.result else {}

    def rankings(self, part: str = "test") -> Any:
        """``({mode: Ranking}, query tokens)`` of ``test`` or ``valid``."""
        return run_folder.read_ranks(self.folder, part)

    def recommend(
        self,
        items: Sequence[str],
        k: int = 10,
        *,
        unknown: str = "skip",
        mask_seen: bool = True,
        catalogue: str | Path | None = None,
        call_remote: bool = False,
    ) -> list[tuple[str, float]]:
        """The best ``k`` next items of a new session given as item tokens, oldest first: ``[(token, score), …]``.

        Args:
            unknown: what happens to tokens the model never saw: ``skip`` them (named in a warning) or ``error``.
            mask_seen: whether the session's own items may not be recommended.
            catalogue: a ``.item`` file; its items that training never saw compete too, and may stand in the session, by
                their text alone. Models that know items by id alone, or trained a table of text, refuse.
            call_remote: whether a remote encoder may be called for texts that are not stored beside ``catalogue``.

        Raises:
            UserError: no known item is left, the model cannot score new sessions, or new items.
        """
        given = {"unknown": unknown, "mask_seen": mask_seen, "catalogue": catalogue, "call_remote": call_remote}
        return self.recommend_batch([items], k, **given)[0]  # type: ignore[arg-type]

    def recommend_batch(
        self,
        sessions: Sequence[Sequence[str]],
        k: int = 10,
        *,
        unknown: str = "skip",
        mask_seen: bool = True,
        catalogue: str | Path | None = None,
        call_remote: bool = False,
    ) -> list[list[tuple[str, float]]]:
        """:meth:`recommend` for many sessions at once."""
        key = (None if catalogue is None else str(Path(catalogue).resolve()), call_remote)
        if key not in self._recommenders:
            from recbole_llm.bridge.recommend import Recommender

            made = Recommender(self.folder, self.manifest, self.plugins, self.model, call_remote)
            if catalogue is not None:
                made.add_items(Path(catalogue), self.manifest, call_remote)
            self._recommenders[key] = made
        return self._recommenders[key](sessions, k, unknown=unknown, mask_seen=mask_seen)

    def __repr__(self) -> str:
        shown = ", ".join(f"{k} {v}" for k, v in list(self.metrics.items())[:3])
        return f"Run({self.folder.name}: {shown or self.manifest.get('status')})"


def load(folder: str | Path, model: type | None = None, *, lm: str | None = None, lm_adapter: str | None = None) -> Run:
    """The run of a run folder.

    Args:
        model: the model's class, where it was run as a class that no plugin registers.
        lm, lm_adapter: where the run's language model and its adapter are now, if not where they were; others than
            those of the run are refused when they are opened.

    Raises:
        UserError: it is none.
    """
    return Run(folder, model=model, moved={"lm": lm, "lm_adapter": lm_adapter})


def run(
    model: Any = None,
    dataset: str | None = None,
    config_files: Iterable[str | Path] | str | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    command_line: Mapping[str, str] | None = None,
    plugins: PluginHouse | None = None,
    saved: bool = True,
    test: bool = True,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Run:
    """Trains, selects on validation, tests by full ranking, and leaves a run folder.

    Args:
        model: a model's name (``"SemNISER"``, RecBole's ``"SASRec"`` …) or class.
        dataset: a dataset's name; converted, or fetched and converted, where its atomic files are missing.
        config_files, config_dict, command_line: settings; the last wins. ``resume`` continues a run folder.
        saved: False keeps the weights and rank files out of the folder (for searches).
        test: False leaves the test part alone; without ``saved`` too, the result holds the selected validation score
            and no second pass over the validation part (for searches).
        on_epoch: called with the epoch and its validation score after each validation; what it raises ends the run.

    Raises:
        UserError: anything the user can mend.
    """
    from recbole_llm.bridge.session import execute

    folder = execute(model, dataset, config_files, config_dict, command_line, plugins or house(), saved, test, on_epoch)
    done = Run(folder, plugins, model if isinstance(model, type) else None)
    done.plugins.finished(done)
    return done
