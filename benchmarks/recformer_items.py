"""Encoding the items of the RecFormer-type model anew, against the ``embed`` command's own step on the same texts:
MiniLM, on texts of the length of Amazon Beauty's titles, brands and categories. A text is a few tokens shorter here, as
its attributes stand without colons and its end without [SEP]; the row says how many tokens each side reads.

"Equal" says that, with its own embeddings at zero, the model gives what transformers' network gives for its tokens.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import interleaved, row, single_thread

from recbole_llm.lm.language_model import load_language_model
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.unit import unit
from recbole_llm.models.recformer import RecFormer, RecFormerEncoder
from recbole_llm.plugins import house
from recbole_llm.settings import provider_options
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset
from recbole_llm.text.attribute_tokens import attribute_tokens
from recbole_llm.text.embed import embed_texts
from recbole_llm.text.item_text import render
from recbole_llm.text.vector_store import VectorStore

ITEMS = 400
KINDS = "cream brush hair nail skin oil shampoo lotion gel powder palette makeup eye face lip body spray kit set pack"
OTHERS = "color matte organic natural ounce professional soft bright deep clean daily repair moisture vitamin mineral"
WORDS = KINDS.split() + OTHERS.split()


def main() -> dict[str, dict[str, Any]]:
    single_thread()
    draw = random.Random(0)

    def words(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    fields = ["title", "brand", "categories"]
    items = [{"title": words(4, 24), "brand": words(1, 3), "categories": words(4, 14)} for _ in range(ITEMS)]
    encoder = _model(items)
    texts = [render(item, fields) for item in items]
    provider = house().get("encoder", "minilm")
    minilm = provider(provider_options(provider, "text", {}))
    ours, theirs = len(encoder.tokens.ids) + ITEMS, sum(minilm.count_tokens(texts))
    assert 0.8 < ours / theirs <= 1.0, (ours, theirs)
    nth = iter(range(1000))

    with tempfile.TemporaryDirectory() as folder:

        def embed() -> None:
            store = VectorStore(Path(folder), "minilm", {"nth": next(nth)})
            embed_texts(minilm, texts, store, progress=False)

        times = interleaved(encoder.encode_items, embed, pairs=3)
    said = row(*times, equal=_equal(encoder), unit="s", factor=1.0)
    return {f"RecFormer, encoding {ITEMS} items again, against embed": {**said, "tokens": [ours, theirs]}}


def _model(items: list[dict[str, str]]) -> RecFormerEncoder:
    lm = load_language_model("minilm", device="cpu", plugins=house())

    def tokenize(texts: list[str]) -> Any:
        return lm.tokenizer(texts, add_special_tokens=False)["input_ids"]

    tokens = attribute_tokens([{}, *items], tokenize, most=4, longest=32)
    inputs = Inputs(language_model=lm, item_tokens=tokens)
    model = RecFormer(ToyConfig(max_token_num=256), ToyDataset(len(items) + 1), inputs)
    return model.eval().encoder


def _equal(encoder: RecFormerEncoder) -> bool:
    with torch.no_grad():
        for table in (encoder.token_type_embeddings, encoder.item_position_embeddings):
            table.weight.zero_()
        encoder.encode_items()
        tokens = encoder.tokens
        for item in np.random.default_rng(0).integers(1, ITEMS, 5).tolist():
            ids = tokens.ids[tokens.offsets[item] : tokens.offsets[item + 1]].long()
            whole = torch.cat([tokens.special[:1], ids]).unsqueeze(0)
            hidden = encoder.network(input_ids=whole).last_hidden_state[:, 0]
            if (unit(hidden)[0] - encoder.table[item]).abs().max() > 1e-5:
                return False
    return True


if __name__ == "__main__":
    print(main())
