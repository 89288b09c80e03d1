"""A finished run's model on its own data once more: other candidates, longer lists, a part or facts it did not keep."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import EvaluatorType, init_seed
from tqdm import tqdm

from recbole_llm.bridge import checkpoint
from recbole_llm.bridge.collector import collector_for
from recbole_llm.bridge.cost import peak_memory_mb
from recbole_llm.bridge.data_facts import data_facts
from recbole_llm.bridge.dataset import create_dataset
from recbole_llm.bridge.intents import fill_intents
from recbole_llm.bridge.loaders import prepare_data
from recbole_llm.bridge.queries import queries, query_facts
from recbole_llm.bridge.recbole_faults import without_pandas_advice
from recbole_llm.bridge.recommend import Recommender, config_of
from recbole_llm.bridge.scoring import Scorer
from recbole_llm.datasets import convert
from recbole_llm.errors import UserError
from recbole_llm.evidence import run_folder
from recbole_llm.evidence.slices import QueryFacts
from recbole_llm.evidence.values import Evaluated
from recbole_llm.plugins import PluginHouse
from recbole_llm.values import read_yaml

#: Sessions scored before the clock is looked at, those timed at most, and the seconds after which it is enough.
WARM_UP, TIMED, SECONDS = 20, 300, 20.0


class Reevaluation(Trainer):  # type: ignore[misc]
    """The model of a run folder beside the data it was evaluated on.

    It is a RecBole trainer only in how RecBole's own models are asked for scores; it neither trains nor logs.

    Args:
        folder, manifest: of a finished run.
        changed: settings of the evaluation that are others now: ``candidates``, ``candidates_seed``, ``topk``,
            ``top_size``.
        model_class: the model, where nobody registers it under its name.

    Raises:
        UserError: the run is not finished, keeps no weights, is measured without ranks (AUC), or its data or split are
            not what they were.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        plugins: PluginHouse,
        changed: Mapping[str, Any] | None = None,
        model_class: type | None = None,
    ):
        if manifest["status"] != "finished":
            raise UserError(
                f"{folder.name} is not finished (it is {manifest['status']}).",
                f"Continue it: run_recbole --resume={folder}",
            )
        config = config_of(folder, manifest, plugins, model_class)
        if config["eval_type"] == EvaluatorType.VALUE:
            raise UserError(f"{folder.name} is measured by AUC or LogLoss, which need no ranking; it has none.")
        recommender = Recommender(folder, manifest, plugins, model_class) if config.resolved.ours else None
        self.config = config if recommender is None else recommender.config
        self.device = self.config["device"]
        self.test_batch_size = self.config["eval_batch_size"]
        for key, value in (changed or {}).items():
            self.config[key] = value
        self.parts, train = self._data(folder, manifest)
        if recommender is not None:
            self.model = recommender.model
            intents = fill_intents(self.config, train._dataset, recommender.tokens, self.config.plugins)
            if intents is not None:
                setattr(self.model, intents.slot, intents)
        else:
            self.model = self.config.model_class(self.config, train._dataset).to(self.device).eval()
            checkpoint.load_weights(self.model, folder, self.device)
        self.eval_collector = collector_for(self.config, self.model)
        self.eval_collector.data_collect(train)

    def _data(self, folder: Path, manifest: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Evaluation loaders by part, and that of training."""
        config = self.config
        where = Path(str(read_yaml(folder / run_folder.SETTINGS).get("data_path", "")))
        if where.is_dir():  # else the dataset of that name here
            config["data_path"] = str(where)
        convert.ensure(
            config["dataset"],
            data_path=Path(config["data_path"]).parent,
            raw_path=config["raw_path"],
            download=config["download"],
            progress=False,
            plugins=config.plugins,
        )
        init_seed(config["seed"], config["reproducibility"])
        with without_pandas_advice():
            dataset = create_dataset(config)
            train, valid, test = prepare_data(config, dataset)
        now = data_facts(config, dataset, train._dataset, valid, test)
        files = {k: (v, manifest["data"]["files"].get(k)) for k, v in now["data"]["files"].items()}
        changed = [k for k, (new, old) in files.items() if new != old]
        if changed or now["split"]["sha256"] != manifest["split"]["sha256"]:
            what = f"{', '.join(changed)} in {config['data_path']}" if changed else "its split"
            raise UserError(
                f"The data of {folder.name} is not what it was: {what} changed since the run was evaluated.",
                "Bring the old files back, or run it again on the data as it is now.",
            )
        return {"valid": valid, "test": test}, train

    def loader(self, part: str) -> Any:
        """The loader of ``valid`` or ``test``.

        Raises:
            UserError: the split has no such part.
        """
        if self.parts[part] is None:
            raise UserError(f"The run's split has no {part} part.", "Choose the other --part.")
        return self.parts[part]

    @torch.no_grad()
    def ranked(self, part: str, progress: bool = False) -> Evaluated:
        """The rankings of ``valid`` or ``test``, in both seen modes."""
        data, collector = self.loader(part), self.eval_collector
        self._look_at(data)
        scorer = Scorer(self)
        for batch in tqdm(data, ncols=100, desc="Evaluate   ", disable=not progress, leave=False):
            for rows, scores in scorer(batch):
                collector.collect(rows, scores, *batch[1:])
        rankings = collector.rankings()
        passes = {int(k.removeprefix("at")): r for k, r in collector.passes.items() if k.startswith("at")}
        return Evaluated(rankings, queries(data), QueryFacts(**query_facts(data)), passes)

    @torch.no_grad()
    def latency(self, part: str, k: int = 10) -> dict[str, Any]:
        """Milliseconds from one session to its best ``k`` items, one session at a time, and the memory of the process.

        The item side of the scores is made once before, as a server would; the sessions are drawn from the part.
        """
        data = self.loader(part)
        self._look_at(data)
        self.eval_collector.max_rows = 1
        scorer = Scorer(self)
        n = int(data.sample_size)
        chosen = np.random.default_rng(0).permutation(n)
        makes_lists: Any = getattr(self.model, "list_scores_of", None)
        spent: list[float] = []
        began = time.perf_counter()
        for at in range(WARM_UP + TIMED):
            batch = data.collate_fn([int(chosen[at % n])])
            self._settle()
            start = time.perf_counter()
            for _, scores in scorer(batch):
                if makes_lists is not None:
                    scores = makes_lists(list(scores))
                some = scores[0] if isinstance(scores, tuple) else scores
                some.topk(min(k, some.shape[1] - 1), dim=1)
            self._settle()
            if at >= WARM_UP:
                spent.append((time.perf_counter() - start) * 1000)
            if len(spent) >= 30 and time.perf_counter() - began > SECONDS:
                break
        p50, p95 = np.percentile(spent, [50, 95])
        return {
            "p50_ms": round(float(p50), 4),
            "p95_ms": round(float(p95), 4),
            "queries": len(spent),
            "k": k,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            **peak_memory_mb(),
        }

    def _look_at(self, data: Any) -> None:
        self.model.eval()
        self.tot_item_num = data._dataset.item_num
        self.item_tensor = data._dataset.get_item_feature().to(self.device)
        self.eval_collector.begin(data)

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
