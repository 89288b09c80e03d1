"""Which encoder may be called when, and whose it is: remote encoders, paper encoders."""

from __future__ import annotations

import pytest

from recbole_llm.errors import UserError
from recbole_llm.registry import Entry


def test_a_remote_encoder_is_never_called_in_training(tmp_path, toy):
    toy.write_items(tmp_path, toy.titles)
    keys = {"text_encoder": "cloud", "text_model": "big model", "text_fields": ["title"]}
    with pytest.raises(UserError) as e:
        toy.build(tmp_path, toy.house, **keys)
    assert toy.calls == [] and not (tmp_path / "vectors").exists()
    assert "6 of 6 item texts of toy are not stored" in e.value.message
    command = "recbole-llm embed toy --text_encoder=cloud '--text_model=big model' '--text_fields=[title]'"
    assert command in e.value.hint
    toy.build(tmp_path, toy.house, allow_remote=True, **keys)
    assert [len(c) for c in toy.calls] == [3, 3]
    toy.calls.clear()
    assert toy.build(tmp_path, toy.house, **keys).info["texts_stored"] == 6  # stored now: training may use them
    assert toy.calls == []


def test_the_embed_command_can_be_run_as_printed(tmp_path, toy):
    """What a user copies from the message must parse back to the same configuration."""
    import shlex

    from recbole_llm.values import parse_value

    toy.write_items(tmp_path, toy.titles)
    keys = {"text_encoder": "cloud", "text_model": "it's", "text_template": "{title}\nof $HOME"}
    with pytest.raises(UserError) as e:
        toy.build(tmp_path, toy.house, **keys)
    words = shlex.split(e.value.hint.splitlines()[0].removeprefix("Run: "))
    assert words[:3] == ["recbole-llm", "embed", "toy"]
    parsed = {k: parse_value(v) for k, v in (w.removeprefix("--").split("=", 1) for w in words[3:])}
    toy.build(tmp_path, toy.house, allow_remote=True, **parsed)
    assert toy.build(tmp_path, toy.house, **keys).info["texts_encoded"] == 0


@pytest.mark.parametrize(
    ("encoder", "model", "paper"),
    [
        ("angle", "WhereIsAI/UAE-Large-V1", "SemSR"),
        ("angle", "some/other", None),
        ("hashing", "WhereIsAI/UAE-Large-V1", None),
    ],
)
def test_the_house_decides_what_a_paper_encoder_is(tmp_path, toy, encoder, model, paper):
    toy.write_items(tmp_path, toy.titles)
    info = toy.build(tmp_path, toy.house, text_encoder=encoder, text_model=model).info
    assert info["paper_encoder"] is (paper is not None) and info["paper"] == paper


def test_a_plugin_cannot_claim_a_paper_encoder(tmp_path, toy):
    """The same name and model from somebody else's distribution is a substitute."""
    toy.write_items(tmp_path, toy.titles)
    toy.house.registry.drop("angle")
    toy.house.registry.add(
        Entry("encoder", "angle", toy.house.get("encoder", "hashing"), "theirs", "recbole-llm-theirs 1.0")
    )
    info = toy.build(tmp_path, toy.house, text_encoder="angle", text_model="WhereIsAI/UAE-Large-V1").info
    assert info["paper_encoder"] is False
