"""RecBole-GNN's sequential models under this command, where the package `recbole_gnn` is importable.

Its models read session graphs from their batches, which its own datasets build before training and its own loaders
attach. Here a model carries that with it: the graphs of a batch are made when the batch arrives, by RecBole-GNN's own
dataset and transform, so every loader, evaluation and recommendation serves it. Its Python loop over sessions then
runs in every epoch, not once (some 6 s for 134k prefixes beside about 40 s of training, measured of RecBole-GNN).

Nothing of the package is imported before one of its models is asked for. It needs torch_geometric (LESSR: dgl).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from recbole.data.interaction import Interaction

from recbole_llm.errors import UserError, nearest

PREFIX = "recbole_gnn."  #: before a name: RecBole-GNN's model
_MODELS = "recbole_gnn.model.sequential_recommender"
_SILENT = logging.getLogger(f"{__name__}.silent")
_SILENT.disabled = True  # it would tell of every batch's graphs


def gnn_models() -> list[str]:
    """The sequential models of the installed RecBole-GNN, as its property files name them; none without it."""
    spec = importlib.util.find_spec("recbole_gnn")
    found: set[str] = set()
    for folder in spec.submodule_search_locations or () if spec else ():
        modules = {m.name for m in pkgutil.iter_modules([f"{folder}/model/sequential_recommender"])}
        names = (Path(folder) / "properties" / "model").glob("*.yaml")
        found |= {p.stem for p in names if p.stem.lower() in modules}
    return sorted(found)


def gnn_model(name: str) -> type:
    """RecBole-GNN's model ``name`` (without the prefix), made to build the graphs of its batches.

    Raises:
        UserError: there is no such model, no RecBole-GNN, or what it needs is not installed.
    """
    known = gnn_models()
    if not known:
        raise UserError(
            f"{PREFIX}{name} needs RecBole-GNN, which is not importable.",
            "Clone https://github.com/RUCAIBox/RecBole-GNN and put its folder on PYTHONPATH; it has no package.",
        )
    if name not in known:
        close = nearest(name, known)
        hint = f"Did you mean {' or '.join(PREFIX + c for c in close)}?" if close else f"It has {', '.join(known)}."
        raise UserError(f"RecBole-GNN has no sequential model {name}.", hint)
    try:
        network = getattr(importlib.import_module(f"{_MODELS}.{name.lower()}"), name)
        datasets = importlib.import_module("recbole_gnn.data.dataset")
        importlib.import_module("recbole_gnn.data.transform")
    except ImportError as e:
        raise UserError(
            f"RecBole-GNN's model {name} cannot be imported: {e}.", "Install what it names (torch_geometric, dgl)."
        ) from e
    builder = getattr(datasets, f"{name}Dataset", None) or datasets.SessionGraphDataset
    return with_graphs(network, builder)


@cache
def with_graphs(network: Any, builder: type) -> type:
    """``network`` reading plain batches: ``builder`` is the RecBole-GNN dataset whose graphs it was written for."""
    body = {"graph_builder": builder, "__module__": network.__module__, "__doc__": network.__doc__}
    return type(network.__name__, (BuildsGraphs, network), body)


class BuildsGraphs:
    """Mixed in before a RecBole-GNN network.

    Attributes:
        graph_builder: the dataset class whose ``session_graph_construction`` (and ``reverse_session``) is used.
    """

    graph_builder: type

    def __init__(self, config: Any, dataset: Any):
        fields = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"]
        # plain tuples and strings: a torch module is not yet one before its own constructor
        object.__setattr__(self, "_graph_fields", fields)
        object.__setattr__(self, "_transform", _transform(config))
        super().__init__(config, AsGraphDataset(dataset, config, self))  # type: ignore[call-arg]

    def with_graph(self, interaction: Any) -> Interaction:
        """The batch with what RecBole-GNN's loader would have added, on the batch's device."""
        columns = interaction.interaction if isinstance(interaction, Interaction) else interaction
        device = columns[self._graph_fields[0]].device  # type: ignore[attr-defined]
        batch = Interaction({k: v.detach().cpu() for k, v in columns.items()})
        return self._transform(self.graphs_of(batch), batch).to(device)  # type: ignore[attr-defined, no-any-return]

    def graphs_of(self, batch: Interaction) -> Any:
        """A RecBole-GNN dataset of these rows alone, its graphs built; reversed sessions replace the batch's."""
        items, lengths = self._graph_fields  # type: ignore[attr-defined]
        rows: Any = object.__new__(self.graph_builder)
        rows.logger, rows.inter_feat = _SILENT, batch
        rows.item_id_list_field, rows.item_list_length_field = items, lengths
        batch.interaction[items] = batch.interaction[items].clone()
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar a batch
            if hasattr(rows, "reverse_session"):
                rows.reverse_session()
            rows.session_graph_construction()
        return rows

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        return super().calculate_loss(self.with_graph(interaction))  # type: ignore[misc, no-any-return]

    def predict(self, interaction: Any) -> torch.Tensor:
        return super().predict(self.with_graph(interaction))  # type: ignore[misc, no-any-return]

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        return super().full_sort_predict(self.with_graph(interaction))  # type: ignore[misc, no-any-return]


class AsGraphDataset:
    """A dataset as RecBole-GNN's constructors ask it: also the widths of list fields, and every training prefix as a
    row of a dense table (for GCE-GNN's global graph), reversed where its dataset reverses them."""

    def __init__(self, dataset: Any, config: Any, model: BuildsGraphs):
        self._dataset, self._model = dataset, model
        self.field2seqlen = {config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]: config["MAX_ITEM_LIST_LENGTH"]}

    def num(self, field: str) -> int:
        return int(self._dataset.num(field))

    @property
    def inter_feat(self) -> Interaction:
        rows = self._dataset[torch.arange(len(self._dataset.inter_feat))]
        return self._model.graphs_of(rows).inter_feat if hasattr(self._model.graph_builder, "reverse_session") else rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


def _transform(config: Any) -> Any:
    if config["gnn_transform"] is None:
        raise UserError("A model of RecBole-GNN needs gnn_transform.", "Leave it at sess_graph.")
    return importlib.import_module("recbole_gnn.data.transform").gnn_construct_transform(config)
