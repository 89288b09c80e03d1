"""The RecFormer-type model through the real command's path: its rounds, its run folder, its facts, bad input."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import recbole_llm
from recbole_llm.bridge.config import Config
from recbole_llm.bridge.dataset import POSITION, create_dataset
from recbole_llm.bridge.loaders import prepare_data
from recbole_llm.bridge.rounds import Rounds
from recbole_llm.bridge.session_rows import RandomTargetDataLoader
from recbole_llm.bridge.trainer import BridgeTrainer
from recbole_llm.cli.experiment import _look
from recbole_llm.cli.main import main
from recbole_llm.errors import UserError
from recbole_llm.evidence.experiment import read_experiment
from recbole_llm.testing.tiny_lm import tiny_bert
from recbole_llm.text.columns import write_column

SESSIONS = 60
CHANCE = 5 / 40  # of recall@5
QUICK = {
    "epochs": 2,
    "stopping_step": 9,
    "table_epochs": 1,
    "table_stopping_step": 9,
    "eval_step": 1,
    "train_batch_size": 16,
    "accumulate_steps": 2,
    "learning_rate": 0.003,
    "warmup_steps": 5,
    "max_token_num": 32,
    "MAX_ITEM_LIST_LENGTH": 8,
    "text_fields": ["title"],
    "topk": [5],
    "metrics": ["Recall", "NDCG", "FullMRR", "RankAUC"],
    "valid_metric": "NDCG@5",
    "show_progress": False,
    "state": "ERROR",
}


@pytest.fixture
def shop(toy: Path) -> Path:
    """The toy, and a tiny random BERT that knows its words."""
    lines = (toy / "dataset_atomic/toy/toy.item").read_text().splitlines()
    tiny_bert(toy / "bert", [*lines, "title brand category price lamar"], hidden=16)
    return toy


def run(**settings) -> recbole_llm.Run:
    return recbole_llm.run("RecFormer", "toy", config_dict={**QUICK, "lm": "bert", **settings})


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").open()]


def weights(run: recbole_llm.Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "model.safetensors")


def test_it_learns_the_rule_and_opens_again_without_its_language_model(shop):
    done = run(epochs=6, table_epochs=1, train_batch_size=4, max_token_num=24)
    assert done.result["test"]["kept"]["recall@5"] > 3 * CHANCE
    assert {"fullmrr", "rankauc"} <= set(done.result["test"]["kept"])
    said = done.recommend(["kit-kettle", "gar-trowel"], k=40, mask_seen=False)
    shutil.rmtree(shop / "bert")
    shutil.rmtree(shop / "dataset_atomic")
    again = recbole_llm.load(done.folder)
    assert again.recommend(["kit-kettle", "gar-trowel"], k=40, mask_seen=False) == said
    assert len({token for token, _ in said}) == 40
    with pytest.raises(UserError, match="keeps no tokenizer"):
        again.recommend(["kit-kettle"], catalogue=shop / "new.item")


def test_what_is_kept_is_what_was_validated(shop):
    """The weights of the best epoch with the table it was validated with: tested again, they give its scores."""
    done = run(epochs=3)
    assert done.result["valid"]["kept"] == done.result["best_valid_result"]
    assert [r["round"] for r in records(done.folder)] == ["encode"] * 3 + ["fixed"]


def test_the_second_round_starts_from_the_best_weights_and_keeps_their_table(shop, monkeypatch):
    """Validation is told that the first epoch is the best; the second round must start from its weights."""
    kept: dict[str, dict] = {}
    score = {0: 0.9, 1: 0.1, 2: 0.1, 3: 0.95}

    def told(self, *args, **kwargs):
        self._validated = None
        kept[f"end {self._epoch}"] = {k: v.clone() for k, v in self.model.state_dict().items()}
        return score[self._epoch], {"ndcg@5": score[self._epoch]}

    learn, begin = Rounds._learn, BridgeTrainer._learn

    def before(self, train_data, epoch, *args, **kwargs):
        kept[f"before {epoch}"] = {k: v.clone() for k, v in self.model.state_dict().items()}
        kept[f"pace {epoch}"] = {
            "steps": self.pace.steps, "total": self.pace.total, "state": len(self.optimizer.state)
        }  # fmt: skip
        return learn(self, train_data, epoch, *args, **kwargs)

    def begun(self, train_data, epoch, *args, **kwargs):
        kept[f"begin {epoch}"] = {k: v.clone() for k, v in self.model.state_dict().items()}
        return begin(self, train_data, epoch, *args, **kwargs)

    monkeypatch.setattr(BridgeTrainer, "_valid_epoch", told)
    monkeypatch.setattr(Rounds, "_learn", before)
    monkeypatch.setattr(BridgeTrainer, "_learn", begun)
    done = run(epochs=3, table_epochs=1)
    same = lambda a, b: all(torch.equal(kept[a][k], kept[b][k]) for k in kept[a])  # noqa: E731
    assert same("before 3", "end 0") and not same("before 3", "end 2")
    assert torch.equal(kept["begin 3"]["table"], kept["begin 0"]["table"])  # it is the best epoch's
    assert not torch.equal(kept["begin 1"]["table"], kept["begin 0"]["table"])  # encoded anew
    assert torch.equal(kept["begin 1"]["table"], kept["end 1"]["table"])  # and frozen inside an epoch
    steps = -(-SESSIONS // QUICK["train_batch_size"])  # a session an epoch
    assert kept["pace 3"] == {"steps": 0, "total": steps, "state": 0}  # an optimiser and a rate of its own
    assert kept["pace 1"]["steps"] == steps and kept["pace 1"]["total"] == 3 * steps
    assert done.result["best_epoch"] == 3
    final = weights(done)
    assert all(torch.equal(final[k], v) for k, v in kept["end 3"].items())


@pytest.mark.parametrize("where", [1, 3])
def test_an_interrupted_run_ends_at_the_weights_of_an_uninterrupted_one(shop, monkeypatch, where):
    """In the last epoch of the first round, and in the second round."""
    settings = {"epochs": 2, "table_epochs": 2}
    straight = run(**settings, run_name="straight")
    whole = BridgeTrainer._valid_epoch

    def stopped(self, *args, **kwargs):
        if self._epoch == where:
            raise KeyboardInterrupt
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(BridgeTrainer, "_valid_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(**settings, run_name="broken")
    monkeypatch.setattr(BridgeTrainer, "_valid_epoch", whole)
    resumed = recbole_llm.run(config_dict={"resume": str(straight.folder.parent / "broken")})
    a, b = weights(straight), weights(resumed)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert resumed.result["test"] == straight.result["test"]
    mine, theirs = ([{**r, "cpu_seconds": 0} for r in records(x.folder)] for x in (resumed, straight))
    assert mine == theirs


def test_without_training_the_language_model_alone_ranks(shop):
    done = run(epochs=0, table_epochs=0)
    assert torch.isfinite(torch.tensor(done.result["test"]["kept"]["fullmrr"]))
    assert weights(done)["table"][1:].norm(dim=1).allclose(torch.ones(40))


def test_every_epoch_draws_one_target_of_each_session_and_never_an_empty_history(shop):
    config = Config("RecFormer", "toy", None, {**QUICK, "lm": "bert"})
    train, _, _ = prepare_data(config, create_dataset(config))
    part = train._dataset
    loader = RandomTargetDataLoader(config, part)
    sessions, targets = part.sessions, set(part.inter_feat[POSITION].tolist())
    bounds = list(zip(sessions.offsets.tolist(), sessions.offsets[1:].tolist()))
    seen: dict[int, set[int]] = {}
    for _ in range(60):
        drawn = []
        for batch in loader:
            for seq, n, target, user in zip(
                batch["item_id_list"],
                batch["item_length"].tolist(),
                batch["item_id"].tolist(),
                batch["user_id"].tolist(),
            ):
                session = int(np.flatnonzero(sessions.users == user)[0])
                begin, end = bounds[session]
                possible = [
                    p for p in range(begin + 1, end)
                    if p in targets and sessions.items[p] == target
                    and seq[:n].tolist() == sessions.items[max(begin, p - 8) : p].tolist()
                ]  # fmt: skip
                assert n >= 1 and not seq[n:].any() and possible
                seen.setdefault(session, set()).add(possible[0])
                drawn.append(session)
        assert sorted(drawn) == list(range(len(bounds)))
    share = [len(seen[s]) / len(targets & set(range(*bounds[s]))) for s in seen]
    assert np.mean(share) > 0.9  # sixty draws of at most twelve targets


def test_other_encoders_learn_from_a_random_prefix_too(shop):
    settings = {k: v for k, v in QUICK.items() if "table" not in k and "token" not in k}
    done = recbole_llm.run("GRU4Rec", "toy", config_dict={**settings, "train_positions": "random"})
    assert done.result["epochs_trained"] == 2


def test_the_run_says_what_was_read_of_a_session(shop):
    """T-31: a longer text leaves room for fewer items, and both arms say so."""
    plain = run(epochs=0, table_epochs=0)
    longer = run(epochs=0, table_epochs=0, text_fields=["title", "brand", "categories"])
    a, b = plain.manifest["sessions_read"], longer.manifest["sessions_read"]
    assert a["max_token_num"] == b["max_token_num"] == 32
    # "title" and "Kettle for kitchen, everyday kitchen choice" are 8 tokens
    assert plain.manifest["item_texts"]["tokens_an_item"] == {
        "mean": 8.0, "longest": 8, "items_without": 0, "attributes_cut": 0, "attributes_left_out": 0,
    }  # fmt: skip
    assert a["test"]["items"] == 4.0 and a["test"]["items_whole"] == 3.0 and a["test"]["tokens"] == 32.0
    assert b["test"]["items"] < a["test"]["items"] and b["test"]["cut"] == 1.0
    for part in ("train", "valid", "test"):
        assert set(a[part]) == {"tokens", "items", "items_whole", "cut"}


def test_the_arms_of_the_shipped_table_differ_in_their_text_alone(home):
    """T-31: LaMAR's arms differ in learning rate, batch, weight decay and items a session."""
    plan = read_experiment("recformer-beauty")
    arms = {label: said for label, said in plan.runs.items() if said["model"] == "RecFormer"}
    plain = arms["RecFormer"]
    differs = {label: {k for k in {*said, *plain} if said.get(k) != plain.get(k)} for label, said in arms.items()}
    assert differs == {
        "RecFormer": set(),
        "RecFormer + lamar": {"text_fields"},
        "RecFormer + lamar, shuffled": {"text_fields", "text_control"},
        "RecFormer, untrained": {"epochs", "table_epochs"},
    }
    assert plan.runs["RecFormer + lamar"]["text_fields"] == [*plain["text_fields"], "lamar"]
    for said in plan.runs.values():  # every key is known, and no column is left out
        Config(None, None, None, {**plan.settings, **said})
    assert len(plan.seeds) == 3


def test_an_experiment_knows_a_cell_by_its_generated_columns(toy):
    (toy / "e.yaml").write_text(
        "settings: {dataset: toy, seed: 1}\nseeds: [1]\n"
        "runs: {a: {model: RecFormer, text_fields: [title, lamar]}, b: {model: RecFormer, text_fields: [title]}}\n"
    )
    plan = read_experiment("e.yaml")

    def names() -> dict[str, str]:
        return {c.label: c.name for c in plan.cells(_look(plan))}

    write_column(toy / "dataset_atomic/toy", "lamar", {"kit-kettle": "boils water"}, {})
    before = names()
    write_column(toy / "dataset_atomic/toy", "lamar", {"kit-kettle": "makes tea"}, {})
    after = names()
    assert before["a"] != after["a"] and before["b"] == after["b"]


def test_an_experiment_asks_for_a_column_before_it_trains(toy, capsys):
    (toy / "e.yaml").write_text(
        "settings: {dataset: toy, seed: 1}\nseeds: [1]\n"
        "runs: {a: {model: SASRec}, b: {model: TextKNN, text_encoder: hashing, text_fields: [title, lamar]}}\n"
    )
    assert main(["experiment", "e.yaml", "--dry-run", "--only", "a"]) == 0
    assert main(["experiment", "e.yaml", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "run 'b'" in said and "no column 'lamar'" in said and "recbole-llm generate" in said
    write_column(toy / "dataset_atomic/toy", "lamar", {"kit-kettle": "boils water"}, {})
    assert main(["experiment", "e.yaml", "--dry-run"]) == 0


def test_shuffled_texts_are_other_items_texts(shop):
    plain, shuffled = run(epochs=0, table_epochs=0), run(epochs=0, table_epochs=0, text_control="shuffled")

    def texts(done):
        saved = weights(done)
        ids, offsets = saved["tokens.ids"], saved["tokens.offsets"]
        return [tuple(ids[a:b].tolist()) for a, b in itertools.pairwise(offsets[1:])]

    a, b = texts(plain), texts(shuffled)
    assert sorted(a) == sorted(b) and not any(x == y for x, y in zip(a, b))
    with pytest.raises(UserError, match="about vectors"):
        run(text_control="random_spectrum")


def test_items_without_text_share_a_vector_and_are_counted(shop, capfd):
    path = shop / "dataset_atomic/toy/toy.item"
    lines = path.read_text().splitlines()
    for at in (3, 7):
        token, _, *rest = lines[at].split("\t")
        lines[at] = "\t".join([token, "", *rest])
    path.write_text("\n".join(lines) + "\n")
    done = run(epochs=0, table_epochs=0, state="WARNING")
    assert "2 of 40 items have no text" in capfd.readouterr().err
    said = done.manifest["item_texts"]
    assert said["missing"] == said["tokens_an_item"]["items_without"] == 2
    tokens = (done.folder / "items.txt").read_text().splitlines()
    a, b = (weights(done)["table"][tokens.index(lines[at].split("\t")[0])] for at in (3, 7))
    torch.testing.assert_close(a, b)
    with pytest.raises(UserError, match="2 of 40 items have no text"):
        run(text_missing="error")


def test_more_tokens_than_the_model_reads_are_cut_and_said(shop, capfd):
    tiny_bert(shop / "short", ["title"], hidden=16, context=20)
    done = run(epochs=0, table_epochs=0, lm="short", state="WARNING")
    assert done.manifest["sessions_read"]["max_token_num"] == 20
    assert done.manifest["sessions_read"]["test"]["tokens"] == 20.0
    assert "short reads at most 20 tokens" in capfd.readouterr().err


def test_bad_input(shop):
    with pytest.raises(UserError, match="attribute_names has 'titel', which is not read"):
        run(attribute_names={"titel": "x"})
    with pytest.raises(UserError, match="calls 'title' 3"):
        run(attribute_names={"title": 3})
    with pytest.raises(UserError, match="max_attr_length is 1"):
        run(max_attr_length=1)
    with pytest.raises(UserError, match="no column 'tittle'"):
        run(text_fields=["tittle"])
    with pytest.raises(UserError, match="text_fields is empty"):
        run(text_fields=[])
    with pytest.raises(UserError, match="price would not be read"):
        run(text_fields=["title", "brand", "price"], max_attr_num=2)
    with pytest.raises(UserError, match="no model folder"):
        run(lm="./nothing")
    with pytest.raises(UserError, match="tunes every weight"):
        run(lm_dtype="bf16")
