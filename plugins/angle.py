"""The encoder ``angle``: AnglE's UAE-Large-V1 (BERT-large, CLS pooling, 1024 dimensions), SemSR's encoder (a).

angle-emb pins versions that cannot sit beside current ones; on the same weights it equals sentence-transformers to
1.5e-8, so the model runs there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from recbole_llm import hookimpl
from recbole_llm_plugins.sbert import DTYPES, Sbert

HOOK_API = 1

MAX_TOKENS = 512


@dataclass
class Options:
    model: str = field(
        default="WhereIsAI/UAE-Large-V1", metadata={"help": "A BERT-type AnglE checkpoint: id or local folder."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the id; default: main."})
    dtype: str = field(default="float32", metadata={"choices": DTYPES, "help": "bf16 is faster and less exact."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 …; default: CUDA if present."})
    max_tokens: int | None = field(default=MAX_TOKENS, metadata={"range": (1, None), "help": "Texts are cut here."})
    prompt: str | None = field(default=None, metadata={"help": "Put before every item text."})
    query_prompt: str | None = field(
        default="Represent this sentence for searching relevant passages: ",
        metadata={"help": "Put before every query (UAE's retrieval prompt)."},
    )


class Angle(Sbert):
    """A transformer and the state of its first token; vectors are not of unit length."""

    name: ClassVar[str] = "angle"
    Options: ClassVar[type] = Options

    def fingerprint(self) -> dict[str, Any]:
        o = self.options
        return {
            "provider": "angle",
            **self.source.fingerprint(),
            "pooling": "cls",
            "max_tokens": o.max_tokens,
            "prompt": o.prompt,
            "query_prompt": o.query_prompt,
            "dtype": o.dtype,
        }

    def build(self, folder: Path) -> Any:
        import sentence_transformers as st

        try:
            from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
        except ImportError:  # sentence-transformers 5
            from sentence_transformers.models import Pooling, Transformer  # type: ignore[assignment,no-redef]

        transformer = Transformer(str(folder), max_seq_length=self.options.max_tokens)
        pooling = Pooling(transformer.auto_model.config.hidden_size, pooling_mode="cls")
        return st.SentenceTransformer(modules=[transformer, pooling], device="cpu")


@hookimpl
def register_encoders(register):
    register("angle", Angle)
