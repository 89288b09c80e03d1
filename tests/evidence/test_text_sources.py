"""What stands behind a table is said: encoders, language models, and what is none."""

from __future__ import annotations

from recbole_llm.evidence.text_sources import text_sources


def test_a_baseline_is_called_one_and_another_model_a_substitute():
    template = {"label": "template [BASELINE, NOT AN LLM]", "baseline": True}
    runs = [
        {"text": None},
        {"text": {"encoder": "minilm", "paper_encoder": False, "generated": {"lamar": template}}},
        {"text": {"encoder": "angle", "paper_encoder": True}},
        {"text": None, "item_texts": {"generated": {"signal": {"label": "hf_local (tiny)"}}}},
        {"text": None, "intents": {"encoder": "minilm", "label": "hf_local (tiny)", "generator": {"baseline": False}}},
    ]
    assert text_sources(runs) == [
        "Text vectors by angle: the paper encoder.",
        "Text vectors by minilm: same protocol, substitute encoder.",
        "The column 'lamar': written by template [BASELINE, NOT AN LLM].",
        "The column 'signal': written by hf_local (tiny), same protocol, substitute language model.",
        "What sessions mean: written by hf_local (tiny), same protocol, substitute language model.",
    ]


def test_a_language_model_that_moved_is_said_once():
    def of(where, content):
        return {"settings": {"lm": where}, "language_model": {"model": "(local)", "content": content}}

    found = text_sources([of("/here/lm", "11"), of("/moved/lm", "11"), of("minilm", "22")])
    assert [line.split(":")[0] for line in found] == ["Language model /here/lm", "Language model minilm"]
