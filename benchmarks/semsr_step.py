"""A training step of SemNISER-F against one of NISER: 12k items, text of 384 columns, batch 2048, short prefixes.

"Equal" says that the fused model with its text halves at zero and identity maps gives NISER's own loss.
"""

from __future__ import annotations

from typing import Any

import torch
from session_data import prefixes
from timing import interleaved, row, single_thread

from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.products import quick_products
from recbole_llm.models.semsr import SemNISER
from recbole_llm.models.session_encoders.niser import NISER
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset

N_ITEMS, TEXT_WIDTH, BATCH = 12_102, 384, 2048


class _SemNISER(SemNISER):
    find_encoder = staticmethod(lambda name: NISER)


def main() -> dict[str, dict[str, Any]]:
    single_thread()
    torch.manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(N_ITEMS, TEXT_WIDTH), dim=1)
    text[0] = 0
    config = ToyConfig(MAX_ITEM_LIST_LENGTH=50, embedding_size=100)
    niser = session_model_for(NISER)(config, ToyDataset(N_ITEMS))
    fused = _SemNISER(config, ToyDataset(N_ITEMS), Inputs(text))
    batch = prefixes(BATCH, N_ITEMS)
    assert same_loss(niser, fused, batch), "without its text the fused model is another one"
    return {
        "SemNISER-F over NISER, a training step": row(*interleaved(step(fused, batch), step(niser, batch)), equal=True)
    }


def same_loss(niser: SessionModel, fused: SessionModel, batch: dict[str, torch.Tensor]) -> bool:
    saved = {k: v.clone() for k, v in fused.state_dict().items()}
    encoder: Any = fused.encoder
    with torch.no_grad():
        encoder.backbone.load_state_dict(niser.encoder.state_dict())
        for half in (encoder.session_from_text, encoder.item_from_text):
            half.weight.zero_()
        for half in (encoder.session_from_model, encoder.item_from_model):
            half.weight.copy_(torch.eye(encoder.width))
        a, b = (m.eval().calculate_loss(batch).item() for m in (niser, fused))
    fused.load_state_dict(saved)
    return abs(a - b) < 1e-5


def step(model: SessionModel, batch: dict[str, torch.Tensor]) -> Any:
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def run() -> None:
        with quick_products(torch.empty(0, 64)):  # as our trainer
            optimiser.zero_grad()
            model.calculate_loss(batch).backward()
            optimiser.step()

    return run


if __name__ == "__main__":
    print(main())
