"""Which encoders and generators stand behind a table: said wherever its numbers appear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SAME, OTHER = "the paper encoder", "same protocol, substitute encoder"


def text_sources(manifests: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence an encoder, a generator and a language model of these runs, in order of their names, each once.

    A generator that is no language model is called a baseline by its label; the papers' own language models are not
    known here, so any other is called a substitute.
    """
    encoders: set[tuple[str, bool]] = set()
    generated: set[tuple[str, str, bool]] = set()
    models: dict[Any, str] = {}
    for manifest in manifests:
        text, intents = manifest.get("text") or {}, manifest.get("intents") or {}
        for said in (text, intents):
            if said.get("encoder"):
                encoders.add((str(said["encoder"]), bool(said.get("paper_encoder"))))
        if manifest.get("language_model"):
            which = manifest["language_model"]
            name = str(manifest["settings"].get("lm") or which.get("model"))
            models.setdefault(which.get("content") or name, name)  # a folder that moved is the same model
        read = manifest.get("item_texts") or {}
        for column, about in {**(text.get("generated") or {}), **(read.get("generated") or {})}.items():
            label = str(about.get("label") or "an unknown generator")
            generated.add((f"The column '{column}'", label, bool(about.get("baseline"))))
        if intents:
            about = intents.get("generator") or {}
            label = str(intents.get("label") or about.get("generator"))
            generated.add(("What sessions mean", label, bool(about.get("baseline"))))
    found = [f"Text vectors by {name}: {SAME if paper else OTHER}." for name, paper in sorted(encoders)]
    for what, label, baseline in sorted(generated):
        found.append(f"{what}: written by {label}{'' if baseline else ', same protocol, substitute language model'}.")
    return found + [
        f"Language model {name}: same protocol, substitute language model." for name in sorted(models.values())
    ]
