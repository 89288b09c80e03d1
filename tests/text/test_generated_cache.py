"""`recbole-llm cache` knows answers and intents too."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recbole_llm import UserError
from recbole_llm.cli.main import main
from recbole_llm.text import generated_cache
from recbole_llm.text.generating import generate_texts
from recbole_llm.text.generation_store import FILE, GenerationStore
from recbole_llm.text.session_intents import Made, keep_intents
from tests.text.generation import Planned, ask


@pytest.fixture
def folder(home):
    folder = home / "dataset_atomic" / "d"
    return filled(folder)


def filled(folder):
    generator = Planned()
    store = GenerationStore(folder, "planned", generator.fingerprint())
    generate_texts(generator, ask("a", "b"), store, progress=False)
    store.close()
    made = Made(
        np.ones((2, 3), np.float32), np.ones((4, 2), np.int64), {"missing": 0, "sessions": 3, "distinct_texts": 1}
    )
    keep_intents(folder / "intents" / "llm4sbr-1", made, {"label": "planned (plan-1)"})
    return folder


def test_they_are_listed_checked_and_removed(folder, capsys):
    assert main(["cache", "ls", "d", "--json"]) == 0
    rows = {r["kind"]: r for r in json.loads(capsys.readouterr().out)}
    assert rows["answers"]["counts"] == {"answered": 2} and rows["answers"]["model"] == "plan-1"
    assert rows["intents"]["holds"] == "1 texts of 3 sessions" and rows["intents"]["model"] == "planned (plan-1)"
    assert main(["cache", "verify", "d"]) == 0 and capsys.readouterr().out.count("whole") == 2
    assert main(["cache", "gc", "d", f"--drop={rows['answers']['store']}", "--dry-run"]) == 0
    assert len(generated_cache.generated(folder)) == 2
    assert main(["cache", "gc", "d", f"--drop={rows['answers']['store']}"]) == 0
    assert [g.kind for g in generated_cache.generated(folder)] == ["intents"]


def test_damage_is_told_with_what_to_run(folder, capsys):
    (answers, _) = generated_cache.generated(folder)
    file = answers.path / FILE
    file.write_bytes(file.read_bytes()[:100] + b"\0" * 5000)
    assert main(["cache", "verify", "d"]) == 2
    assert f"--drop={answers.path.name}" in capsys.readouterr().err


def test_a_folder_of_any_name(tmp_path):
    (answers, _) = generated_cache.generated(filled(tmp_path / "100% #1?"))
    assert answers.counts == {"answered": 2} and generated_cache.fault(answers) is None


def test_a_store_that_somebody_writes_is_not_removed(folder):
    store = GenerationStore(folder, "planned", Planned().fingerprint())
    with store.writing():
        store.claim([store.key(ask("c")[0])])
        with pytest.raises(UserError, match="being written"):
            generated_cache.remove(generated_cache.generated(folder)[0])
