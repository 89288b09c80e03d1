"""RecBole-GNN's sequential models through this command.

RecBole-GNN is on no package index and needs torch_geometric, so these tests run a stand-in: a package of its name and
layout (modules, dataset and transform methods, fields of a batch), written for the test. Its own code is not run here.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import recbole_llm
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.model_names import resolve_model
from recbole_llm.bridge.recbole_gnn import gnn_models
from recbole_llm.errors import UserError
from recbole_llm.plugins import house
from recbole_llm.settings import catalogue
from recbole_llm.testing.planted import write_planted
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset

NETWORK = '''
    import torch
    from recbole.model.abstract_recommender import SequentialRecommender

    class {name}(SequentialRecommender):
        """The last click's node, moved by what its predecessors say."""

        def __init__(self, config, dataset):
            super().__init__(config, dataset)
            self.width = config["embedding_size"]
            self.positions = dataset.field2seqlen[self.ITEM_SEQ]
            self.item_embedding = torch.nn.Embedding(self.n_items, self.width, padding_idx=0)
            self.move = torch.nn.Linear(self.width, self.width)
            {extra}

        def states(self, batch):
            x, (source, target) = batch["x"], batch["edge_index"]
            h = self.item_embedding(x)
            h = h + 0.1 * torch.zeros_like(h).index_add(0, target, self.move(h)[source])
            clicks = h[batch["alias_inputs"]]
            self.seen = x[batch["alias_inputs"]]
            return self.move(self.gather_indexes(clicks, batch[self.ITEM_SEQ_LEN] - 1))

        def full_sort_predict(self, batch):
            return self.states(batch) @ self.item_embedding.weight.T

        def predict(self, batch):
            return (self.states(batch) * self.item_embedding(batch[self.ITEM_ID])).sum(1)

        def calculate_loss(self, batch):
            return torch.nn.functional.cross_entropy(self.full_sort_predict(batch), batch[self.POS_ITEM_ID])
'''
DATASETS = """
    import torch
    from tqdm import tqdm
    from recbole.data.dataset import SequentialDataset

    class SessionGraphDataset(SequentialDataset):
        def session_graph_construction(self):
            self.logger.info("never told")
            rows = zip(self.inter_feat[self.item_id_list_field], self.inter_feat[self.item_list_length_field])
            x, edges, alias = [], [], []
            for seq, n in tqdm(list(rows)):
                nodes, at = torch.unique(seq, return_inverse=True)
                x.append(nodes)
                alias.append(at[:n])
                edges.append(torch.stack([at[:n][:-1], at[:n][1:]]).unique(dim=-1))
            self.inter_feat.interaction["graph_idx"] = torch.arange(len(x))
            self.graph_objs = {"x": x, "edge_index": edges, "alias_inputs": alias}

    class TurnedDataset(SessionGraphDataset):
        def reverse_session(self):
            for seq, n in zip(self.inter_feat[self.item_id_list_field], self.inter_feat[self.item_list_length_field]):
                seq[:n] = seq[:n].flip(0)
"""
TRANSFORM = """
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from recbole.data.interaction import Interaction

    def gnn_construct_transform(config):
        return {"sess_graph": SessionGraph}[config["gnn_transform"]](config)

    class SessionGraph:
        def __init__(self, config):
            pass

        def __call__(self, dataset, batch):
            which = batch["graph_idx"].tolist()
            x, edges, alias, shift = [torch.zeros(1, dtype=torch.long)], [], [], 1
            for i in which:
                x.append(dataset.graph_objs["x"][i])
                edges.append(dataset.graph_objs["edge_index"][i] + shift)
                alias.append(dataset.graph_objs["alias_inputs"][i] + shift)
                shift += len(x[-1])
            batch.update(Interaction({
                "x": torch.cat(x), "edge_index": torch.cat(edges, dim=1),
                "alias_inputs": pad_sequence(alias, batch_first=True),
            }))
            return batch
"""
SETTINGS = "embedding_size: {width}\nloss_type: CE\ngnn_transform: sess_graph\nown_key: 0.5\n"


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Path:
    """A package `recbole_gnn` with the models Lessor (its alone), SRGNN (ours too) and Turned (reversed sessions)."""
    root = tmp_path / "clone" / "recbole_gnn"
    models = root / "model" / "sequential_recommender"
    for folder in (models, root / "data", root / "properties" / "model"):
        folder.mkdir(parents=True)
    for folder in (root / "model", models, root / "data"):
        (folder / "__init__.py").touch()
    keeps = 'self.first = dataset.inter_feat["item_id_list"][:, 0].clone()'
    for name, extra in (("Lessor", "pass"), ("SRGNN", "pass"), ("Turned", keeps)):
        (models / f"{name.lower()}.py").write_text(textwrap.dedent(NETWORK.format(name=name, extra=extra)))
        (root / "properties" / "model" / f"{name}.yaml").write_text(SETTINGS.format(width=6))
    (models / "broken.py").write_text("import torch_geometric_that_is_not_here\n")
    (root / "properties" / "model" / "Broken.yaml").write_text(SETTINGS.format(width=6))
    (root / "properties" / "model" / "LightGCN.yaml").write_text("n_layers: 2\n")  # a general model: not offered
    (root / "data" / "dataset.py").write_text(textwrap.dedent(DATASETS))
    (root / "data" / "transform.py").write_text(textwrap.dedent(TRANSFORM))
    monkeypatch.syspath_prepend(str(root.parent))
    _forget()
    yield root
    _forget()


def _forget() -> None:
    importlib.invalidate_caches()
    catalogue.cache_clear()
    for name in [m for m in sys.modules if m.split(".")[0] == "recbole_gnn"]:
        del sys.modules[name]


def config(model: str, home: Path) -> Config:
    write_planted(home / "dataset_atomic" / "toy", sessions=40)
    return Config(model, "toy", None, {"MAX_ITEM_LIST_LENGTH": 8}, None, house())


def batch() -> dict[str, torch.Tensor]:
    seq = torch.tensor([[3, 5, 3, 7, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0], [9, 9, 4, 0, 0, 0, 0, 0]])
    return {"item_id_list": seq, "item_length": torch.tensor([4, 1, 3]), "item_id": torch.tensor([1, 2, 3])}


def model(name: str, **keys: object) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = ToyConfig(embedding_size=6, gnn_transform="sess_graph", **keys)
    return resolve_model(name, house()).cls(settings, ToyDataset())


def test_models_are_named_without_importing_them(stand_in):
    assert gnn_models() == ["Broken", "Lessor", "SRGNN", "Turned"]
    assert not [m for m in sys.modules if m.startswith("recbole_gnn.model")]


def test_names(stand_in):
    """The prefix is always right; a bare name is its model only where nobody else has one."""
    for name in ("recbole_gnn.Lessor", "Lessor"):
        found = resolve_model(name, house())
        assert (found.name, found.cls.__module__) == (
            "recbole_gnn.Lessor",
            "recbole_gnn.model.sequential_recommender.lessor",
        )
    assert resolve_model("recbole_gnn.SRGNN", house()).cls.__module__.startswith("recbole_gnn.")
    assert resolve_model("SRGNN", house()).cls.__module__.startswith("recbole_llm.")
    with pytest.raises(UserError, match="no sequential model Lesor") as e:
        resolve_model("recbole_gnn.Lesor", house())
    assert "recbole_gnn.Lessor" in str(e.value.hint)
    with pytest.raises(UserError, match="torch_geometric_that_is_not_here"):
        resolve_model("recbole_gnn.Broken", house())


@pytest.mark.skipif(bool(gnn_models()), reason="RecBole-GNN is importable here")
def test_without_the_package():
    with pytest.raises(UserError, match="not importable") as e:
        resolve_model("recbole_gnn.LESSR", house())
    assert "PYTHONPATH" in str(e.value.hint)
    with pytest.raises(UserError, match="LESSR"):
        resolve_model("LESSR", house())


def test_only_its_own_files_speak_of_its_models(stand_in, home):
    """Both have an SRGNN: neither's defaults reach the other's."""
    theirs, ours = config("recbole_gnn.SRGNN", home), config("SRGNN", home)
    assert (theirs["embedding_size"], theirs["own_key"], theirs["gnn_transform"]) == (6, 0.5, "sess_graph")
    assert (ours["embedding_size"], ours["own_key"], ours["gnn_transform"]) == (64, None, None)
    assert theirs["step"] is None


def test_a_batch_gets_its_graphs(stand_in, capsys):
    """The nodes at `alias_inputs` are the clicks again, edges join each click to the next, the batch itself stays."""
    found, plain = model("Lessor"), batch()
    before = {k: v.clone() for k, v in plain.items()}
    made = found.with_graph(plain)
    assert torch.equal(made["x"][made["alias_inputs"]], plain["item_id_list"][:, :4])
    pairs = {tuple(p) for p in made["x"][made["edge_index"]].T.tolist()}
    assert pairs == {(3, 5), (5, 3), (3, 7), (9, 9), (9, 4)}
    assert set(plain) == set(before)
    assert all(torch.equal(plain[k], v) for k, v in before.items())
    out = capsys.readouterr()
    assert not out.out + out.err, "a progress bar a batch"


def test_scores_and_loss_agree(stand_in):
    found, plain = model("Lessor"), batch()
    scores = found.full_sort_predict(plain)
    torch.testing.assert_close(found.predict(plain), scores[torch.arange(3), plain["item_id"]])
    expected = torch.nn.functional.cross_entropy(scores, plain["item_id"])
    torch.testing.assert_close(found.calculate_loss(plain), expected)
    alone = found.full_sort_predict({k: v[2:] for k, v in plain.items()})
    torch.testing.assert_close(alone, scores[2:])


def test_sessions_a_dataset_reverses(stand_in, home):
    """As GCE-GNN's: the model sees reversed sessions, in its batches and in the training rows its constructor reads."""
    done = recbole_llm.run("recbole_gnn.Turned", write_toy(home), config_dict={**RUN, "epochs": 1})
    assert done.result["test"]["kept"]["recall@5"] >= 0
    rows = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])

    class Rows(ToyDataset):
        inter_feat = range(2)

        def __getitem__(self, index: torch.Tensor):
            from recbole.data.interaction import Interaction

            return Interaction({"item_id_list": rows[index], "item_length": torch.tensor([3, 2])[index]})

    settings = ToyConfig(embedding_size=6, gnn_transform="sess_graph")
    found = resolve_model("Turned", house()).cls(settings, Rows())
    assert found.first.tolist() == [3, 5]
    assert rows.tolist() == [[1, 2, 3, 0], [4, 5, 0, 0]]
    found.full_sort_predict(batch())
    assert found.seen.tolist() == [[7, 3, 5, 3], [2, 0, 0, 0], [4, 9, 9, 0]]


RUN = {
    "epochs": 12,
    "train_batch_size": 64,
    "learning_rate": 0.02,
    "embedding_size": 32,
    "MAX_ITEM_LIST_LENGTH": 8,
    "topk": [5],
    "metrics": ["Recall"],
    "valid_metric": "Recall@5",
    "show_progress": False,
    "state": "ERROR",
}


def write_toy(home: Path) -> str:
    write_planted(home / "dataset_atomic" / "toy", sessions=150)
    return "toy"


def test_trains_evaluates_and_recommends(stand_in, home):
    done = recbole_llm.run("Lessor", write_toy(home), config_dict=RUN)
    assert done.manifest["model"] == "recbole_gnn.Lessor"
    assert done.result["test"]["kept"]["recall@5"] > 2 * 5 / 40
    again = recbole_llm.load(done.folder)
    best = done.recommend(["kit-kettle"], k=3)
    assert len(best) == 3
    assert [t for t, _ in again.recommend(["kit-kettle"], k=3)] == [t for t, _ in best]
