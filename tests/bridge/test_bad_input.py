"""What a user can get wrong in a run: one message naming the thing, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import time

import pytest

import recbole_llm
from recbole_llm.bridge.config import Config
from recbole_llm.cli.main import guard
from recbole_llm.cli.main import main as recbole_llm_command
from recbole_llm.cli.run_recbole import main as run_recbole
from recbole_llm.errors import UserError

WORDS = [
    "--dataset=planted", "--text_encoder=hashing", "--text_fields=[title]", "--epochs=1", "--embedding_size=8",
    "--MAX_ITEM_LIST_LENGTH=8", "--show_progress=False", "--state=ERROR", "--train_batch_size=512",
]  # fmt: skip


def command(*words: str, model: str = "SemNISER") -> int:
    given = {w.partition("=")[0] for w in words}
    return run_recbole([f"--model={model}", *(w for w in WORDS if w.partition("=")[0] not in given), *words])


def refused(capsys, code: int, *says: str) -> str:
    """The message of a refused command: short, without traceback, naming what it must."""
    told = capsys.readouterr().err
    assert code == 2, told
    assert "Traceback" not in told and len(told[told.index("Error:") :].splitlines()) <= 20
    for word in says:
        assert word in told
    return told


def runs(home) -> list[str]:
    return sorted(p.name for p in (home / "saved").iterdir()) if (home / "saved").is_dir() else []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--backbone=NISR"], "NISER"),
        (["--backbone=SemNISER"], "not a SessionEncoder"),
        (["--valid_metric=NDCG@7"], "ndcg@10"),
        (["--metrics=[]"], "metrics is empty"),
        (["--topk=[]"], "positive integers"),
        (["--text_fields=title"], "[title]"),
        (["--eval_args={'mode': 'ful'}"], "full"),
        (["--eval_args={'order': 'XX'}"], "TO"),
        (["--eval_args={'spilt': {'RS': [0.8, 0.1, 0.1]}}"], "split"),
        (["--eval_args={'split': {'XX': [0.8, 0.1, 0.1]}}"], "split_by"),
        (["--user_inter_num_interval=abc"], "[5,inf)"),
        (["--run_name=../../elsewhere"], "checkpoint_dir"),
        (["--checkpoint_dir=occupied"], "checkpoint_dir"),
        (["--candidates=99"], "Lower candidates"),
        (["--ITEM_ID_FIELD=sku"], "item_id"),
        (["--load_col={'inter': ['user_id', 'timestamp']}"], "item_id"),
        (["--semantic=init", "--init_fit=pca", "--embedding_size=500"], "500"),
        (["--learning_rate=1e30", "--epochs=3"], "learning_rate"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_bad_settings_leave_nothing(planted, capsys, words, says):
    (planted / "occupied").write_text("")
    refused(capsys, command(*words), says)
    assert runs(planted) == []


def test_valid_metric_need_not_be_computed_where_nothing_is_validated(planted):
    for settings in ({"eval_step": 0}, {"split_by": "session_time", "fold": "final"}):
        assert Config("NISER", "planted", config_dict={"topk": [7], **settings})["topk"] == [7]
    with pytest.raises(UserError, match="valid_metric"):
        Config("NISER", "planted", config_dict={"topk": [7]})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("u1\ti1\t3\tsoon", "line 2"),
        ("u1\ti1\t3\tnan", "line 2"),
        ("u1\ti1\t3\tinf", "line 2"),
        ("u1\ti1", "line 2"),
    ],
)
def test_interactions_without_a_usable_time_are_refused_by_line(planted, capsys, row, says):
    path = planted / "dataset_atomic/planted/planted.inter"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, row, *rows]) + "\n")
    refused(capsys, command(), "timestamp" if row.count("\t") == 3 else "columns", says, "validate planted")
    assert runs(planted) == []


def test_a_missing_column_is_named_with_its_file(planted, capsys):
    path = planted / "dataset_atomic/planted/planted.inter"
    text = path.read_text()
    path.write_text(text.replace("item_id:token", "itemid:token", 1))
    refused(capsys, command(), "planted.inter has no column 'item_id'", "itemid")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    refused(capsys, command(), "byte-order mark")
    path.write_text(text.split("\n")[0] + "\n")
    refused(capsys, command(), "there is no interaction")


@pytest.mark.parametrize("model", ["FM", "GRU4RecF"])
def test_what_recboles_models_miss_is_told_as_recboles(planted, capsys, model):
    refused(capsys, command(model=model), model, "RecBole's own code")
    assert runs(planted) == []


def test_our_own_faults_stay_faults(planted, capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("ours")

    monkeypatch.setattr("recbole_llm.bridge.assembly.data_facts", broken)
    assert command() == 1
    assert "Traceback" in capsys.readouterr().err


def test_too_little_memory_is_a_message(capsys):
    def too_much():
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    refused(capsys, guard(too_much), "can't allocate memory", "train_batch_size")


def test_no_space_leaves_no_run(planted, capsys):
    """A limit on file sizes stands for the full disk: the weights do not fit, everything before them does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        code = command("--embedding_size=64")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(capsys, code, "model.safetensors", "Make room")
    assert runs(planted) == []


@pytest.fixture
def finished(planted):
    return recbole_llm.run(
        "SemNISER",
        "planted",
        command_line={w[2:].split("=")[0]: w.split("=")[1] for w in WORDS[1:]} | {"run_name": "r"},
    )


def test_every_damaged_file_of_a_run_is_named(finished, capsys):
    def recommend() -> int:
        return recbole_llm_command(["recommend", "r", "--items", "i1,i2", "-k", "3"])

    assert recommend() == 0
    for name in (
        "manifest.json",
        "result.json",
        "config.yaml",
        "items.txt",
        "vectors.safetensors",
        "model.safetensors",
    ):
        path = finished.folder / name
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", b"\xff\xfe\n", b"[1]\n", pickle.dumps({"a": 1})):
            if name == "config.yaml" and damaged == whole[: len(whole) // 2]:
                continue  # half of a YAML file may be YAML
            path.write_bytes(damaged)
            refused(capsys, recommend(), name)
        path.unlink()
        if name not in ("result.json", "vectors.safetensors"):  # not needed; made again from the dataset
            refused(capsys, recommend(), name.split(".")[0] if name != "model.safetensors" else "no weights")
        path.write_bytes(whole)
    (finished.folder / "manifest.json").write_text("{}")
    refused(capsys, recommend(), "not a run folder")


def test_a_foreign_training_state_is_refused_without_advice_to_trust_it(finished, capsys):
    path = finished.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "interrupted"}))
    (finished.folder / "checkpoint.pt").write_bytes(pickle.dumps(os.getcwd))
    said = refused(capsys, run_recbole(["--resume=r"]), "checkpoint.pt", "--resume")
    assert "weights_only" not in said
    assert finished.folder.is_dir() and "model.safetensors" in {p.name for p in finished.folder.iterdir()}


def test_sessions_to_recommend_for_must_be_text(finished, capsys):
    (finished.folder.parent.parent / "in.jsonl").write_bytes(b"\xff\xfe\x00")
    refused(capsys, recbole_llm_command(["recommend", "r", "--input", "in.jsonl"]), "in.jsonl", "UTF-8")


def test_more_items_than_there_are_and_a_run_that_never_finished(finished):
    assert len(finished.recommend(["i1"], k=5000)) == 39
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    (finished.folder / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    (finished.folder / "result.json").unlink()
    (finished.folder / "model.safetensors").unlink()
    open_run = recbole_llm.load(finished.folder)
    assert open_run.metrics == {} and "running" in repr(open_run)
    with pytest.raises(UserError, match="no weights"):
        open_run.recommend(["i1"])


def test_a_model_given_as_a_class_recommends_and_resumes(planted):
    from recbole.model.sequential_recommender import GRU4Rec

    class Mine(GRU4Rec):
        pass

    class Other(GRU4Rec):
        pass

    settings = {w[2:].split("=")[0]: w.split("=")[1] for w in WORDS[3:]}
    run = recbole_llm.run(Mine, "planted", command_line=settings)
    found = run.recommend(["i1"], k=3)
    assert recbole_llm.load(run.folder, model=Mine).recommend(["i1"], k=3) == found
    with pytest.raises(UserError, match="named 'Mine'"):
        recbole_llm.load(run.folder).recommend(["i1"])
    with pytest.raises(UserError, match="model Mine, not Other"):
        recbole_llm.load(run.folder, model=Other).recommend(["i1"])
    path = run.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "interrupted"}))
    assert recbole_llm.run(Mine, config_dict={"resume": str(run.folder)}).metrics == run.metrics


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"config_dict": [1]}, "config_dict"),
        ({"config_files": 3}, "config_files"),
        ({"model": 3}, "a name or a class"),
        ({"model": int}, "no `type`"),
    ],
)
def test_wrong_arguments_from_python_are_named(planted, given, says):
    with pytest.raises(UserError, match=says):
        recbole_llm.run(**{"model": "NISER", "dataset": "planted", **given})


def test_a_failed_run_leaves_no_trace_in_the_process(planted):
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    settings = {w[2:].split("=")[0]: w.split("=")[1] for w in WORDS[1:]}
    first = recbole_llm.run("SemNISER", "planted", command_line=settings)
    with pytest.raises(UserError, match="titel"):
        recbole_llm.run("SemNISER", "planted", command_line={**settings, "text_fields": "[titel]"})
    assert recbole_llm.run("SemNISER", "planted", command_line=settings).result["test"] == first.result["test"]
    assert (list(root.handlers), root.level) == before
    for session in ("i1", 3, None, [], ["nope"]):
        with pytest.raises(UserError, match="Session 1"):
            first.recommend(session)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("runs: {a: {model: NISER}, b: {model: NISR}}", "run 'b'"),
        ("runs: {a: {model: NISER}}\nmetrics: [foo@10]", "foo@10"),
        ("runs: {a: {model: NISER}}\nseeds: x", "seeds"),
        ("runs: {a: {model: NISER}, b: {model: NISER, mask_seen: True}}", "run 'b' masks seen items and run 'a' keeps"),
    ],
)
def test_an_experiment_is_checked_whole_before_its_first_run(planted, capsys, text, says):
    (planted / "e.yaml").write_text(f"settings: {{dataset: planted, epochs: 1}}\n{text}\n")
    refused(capsys, recbole_llm_command(["experiment", "e.yaml"]), says)
    assert runs(planted) == []


def test_interrupted_runs_say_130_and_resume(planted):
    environment = {**os.environ, "RECBOLE_LLM_HOME": str(planted), "OMP_NUM_THREADS": "1"}
    # a shell without job control starts background processes with SIGINT ignored
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from recbole_llm.cli.run_recbole import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [
        "--model=NISER",
        *(w for w in WORDS if "epochs" not in w),
        "--epochs=2000",
        "--run_name=r",
        "--stopping_step=3000",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], cwd=planted, env=environment, stderr=subprocess.PIPE
    )
    state = planted / "saved/r/checkpoint.pt"
    for _ in range(1200):
        if state.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 130 and "Traceback" not in said
    done = len((planted / "saved/r/log.jsonl").read_text().splitlines())
    assert json.loads((planted / "saved/r/manifest.json").read_text())["status"] == "interrupted"
    resumed = recbole_llm.run(config_dict={"resume": "r", "epochs": done + 2, "state": "ERROR", "show_progress": False})
    assert resumed.manifest["status"] == "finished" and resumed.result["epochs_trained"] == done + 2
