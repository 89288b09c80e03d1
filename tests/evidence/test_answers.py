"""Table 7 of Boz et al. from run folders."""

from __future__ import annotations

from types import SimpleNamespace

from recbole_llm.evidence.answers import answers_table
from recbole_llm.evidence.tables import as_text


def a_run(**grounding):
    said = {"label": "openai (gpt)", "sessions": 10, "without_answer": 1, "missing": 7, "grounding": grounding}
    return SimpleNamespace(manifest={"intents": said})


def test_figures_are_means_over_a_models_runs():
    one = a_run(titles=200, ungrounded=0.1, similarity=0.8, unique=30, similarity_of="vectors")
    two = a_run(titles=100, ungrounded=0.3, similarity=None, unique=40, similarity_of="vectors")
    order = a_run(titles=20, ungrounded=0.0, similarity=None, unique=5, similarity_of="letters")
    silent = SimpleNamespace(manifest={})
    table = answers_table([("GenItem", [one, two]), ("Rank", [order]), ("LLMSeqSim", [silent]), ("later", [])])
    assert table is not None and [row[0] for row in table.rows] == ["GenItem", "Rank"]
    shown = as_text([table])
    assert "20.00" in shown and "0.8000" in shown and "openai (gpt)" in shown
    values = [getattr(cell, "value", cell) for cell in table.rows[0]]
    assert values[2:] == [10, 1, 150, 20.0, 0.8, "vectors", 35]
    assert table.rows[1][6] is None and table.rows[1][7] is None


def test_models_that_write_one_text_a_session_are_shown_too():
    run = SimpleNamespace(
        manifest={
            "intents": {
                "label": "replay", "sessions": 3, "missing": 2,
                "grounding": {"titles": 1, "ungrounded": 1.0, "similarity": 0.5, "unique": 1},
            }
        }
    )  # fmt: skip
    table = answers_table([("FewShotLLM", [run])])
    assert table is not None and [getattr(c, "value", c) for c in table.rows[0][2:]] == [
        3,
        2,
        1,
        100.0,
        0.5,
        "vectors",
        1,
    ]


def test_without_answers_there_is_no_table():
    assert answers_table([("SASRec", [SimpleNamespace(manifest={"intents": {"label": "x"}})])]) is None
