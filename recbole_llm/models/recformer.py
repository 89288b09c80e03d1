"""A text recommender of RecFormer's type (Li et al., KDD 2023; as LaMAR uses it, Valizadeh et al., 2025, section 4)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_llm.errors import UserError
from recbole_llm.lm.checkpointing import checkpoint_gradients
from recbole_llm.lm.language_model import LanguageModel
from recbole_llm.models.contracts import SessionEncoder, SessionState, option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.session_tokens import SessionTokens
from recbole_llm.models.layers.unit import unit
from recbole_llm.models.rounds import Round
from recbole_llm.models.session_model import SessionModel
from recbole_llm.text.attribute_tokens import AttributeTokens
from recbole_llm.text.checkpoints import length_batches

#: Tokens a batch where no gradient is needed: small batches of like length stay in a CPU's cache, as MiniLM's encoder.
CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 65536
#: Longformer's attention window in RecFormer.
WINDOW = 64


class RecFormerEncoder(SessionEncoder):
    """Items and sessions as key-value text through one encoder.

    A session is ``<s>`` and its items, newest first, each the names and values of its attributes. A token's embedding
    is the sum of the language model's own (word, position) and of two new tables: what the token is (``<s>``, name,
    value, padding) and which item it is of. The hidden state of ``<s>``, at unit length, is the session; an item's
    vector is that of a session of it alone. The item table is a buffer: it is what the encoder said when
    :meth:`encode_items` was last called, and no gradient reaches it.

    With the new tables at zero this is the language model itself: a model with token types of its own (BERT) keeps its
    type 0 for all tokens.

    Args:
        lm: an encoder in which every position sees every other. Its network is trained, in float32.
        tokens: of the catalogue; ``None`` where saved weights will be loaded.
        most_tokens: tokens a session, ``<s>`` counted. most_places: rows of the item positions; one is ``<s>``'s, the
            others bound the items a session (RecFormer's ``max_item_embeddings``).
        temperature: of the scores; ``score = cos / temperature``.
    """

    normalized = True
    table: Tensor

    def __init__(
        self,
        lm: LanguageModel,
        tokens: AttributeTokens | None,
        n_items: int,
        max_len: int,
        most_tokens: int = 256,
        most_places: int = 51,
        temperature: float = 0.05,
    ):
        super().__init__(None, n_items, max_len)
        if lm.causal:
            raise UserError(
                f"The language model reads forwards only ({lm.facts.get('type')}), and RecFormer pools the first "
                "token, which would see nothing.",
                "Name a masked language model, such as --lm=minilm or --lm=bert-base-uncased.",
            )
        self.network = with_window(lm.network, WINDOW).float().requires_grad_(True)
        words = self.network.get_input_embeddings()  # type: ignore[operator]
        first, pad = special_tokens(lm)
        self.tokens = SessionTokens(tokens, n_items, most_tokens, most_places - 1, first, pad)
        spread = float(getattr(self.network.config, "initializer_range", 0.02))  # type: ignore[union-attr]
        self.token_type_embeddings = nn.Embedding(4, words.embedding_dim)
        self.item_position_embeddings = nn.Embedding(most_places, words.embedding_dim)
        for table in (self.token_type_embeddings, self.item_position_embeddings):
            nn.init.normal_(table.weight, std=spread)
        self.width = lm.width
        self.logit_scale = 1.0 / temperature
        self._global = self.network.config.model_type == "longformer"  # type: ignore[union-attr]
        self.register_buffer("table", torch.zeros(n_items, lm.width))

    def item_table(self) -> Tensor:
        """``[V, d]``, unit rows; zeros for [PAD], and for all before the first :meth:`encode_items`."""
        return self.table

    def make_room(self, n: int) -> None:
        raise UserError(
            "RecFormer reads an item's tokens from its run, and an item it never saw has none there.",
            "Train it on a dataset that holds the new items.",
        )

    def hidden(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """float ``[B, d]``, the last hidden state of ``<s>``."""
        batch = self.tokens(item_seq, lengths)
        words = self.network.get_input_embeddings()(batch.ids)  # type: ignore[operator]
        embedded = words + self.token_type_embeddings(batch.types) + self.item_position_embeddings(batch.places)
        extra = {}
        if self._global:
            extra["global_attention_mask"] = (torch.arange(batch.ids.size(1), device=batch.ids.device) == 0).expand_as(
                batch.ids
            ).long()  # fmt: skip
        mask = batch.real.long()
        return self.network(inputs_embeds=embedded, attention_mask=mask, **extra).last_hidden_state[:, 0]

    def vectors(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """float32 ``[B, d]``, unit length. Without gradients, in batches of like length and bounded size, so that any
        number of sessions may be asked for."""
        if torch.is_grad_enabled():
            return unit(self.hidden(item_seq, lengths).float())
        found = item_seq.new_empty((len(item_seq), self.width), dtype=torch.float32)
        sizes = self.tokens.sizes(item_seq, lengths).tolist()
        budget = CPU_TOKENS if item_seq.device.type == "cpu" else ACCELERATOR_TOKENS
        for rows in length_batches(sizes, budget):
            at = torch.from_numpy(rows).to(item_seq.device)
            found[at] = unit(self.hidden(item_seq[at], lengths[at]).float())
        return found

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        """A session has one vector: its views are the same, and a position's vector is its item's of the table."""
        h = self.vectors(item_seq, item_seq_len)
        mask = torch.arange(item_seq.size(1), device=item_seq.device) < item_seq_len.unsqueeze(1)
        last_only = extra is not None and extra.get("last_only", False)
        packed = h.new_zeros((0, self.width)) if last_only else self.table[item_seq[mask]]
        return SessionState(h, h, h, mask, packed)

    @torch.no_grad()
    def encode_items(self, most: int | None = None) -> float:
        """Makes the item table anew with the encoder as it is, without dropout; of more than ``most`` items so many,
        spread over the catalogue. Returns their share."""
        training = self.training
        self.eval()
        items = torch.arange(1, self.n_items, device=self.table.device)
        if most is not None and most < len(items):
            items = items[torch.linspace(0, len(items) - 1, most).long()]
        self.table[items] = self.vectors(items.unsqueeze(1), torch.ones_like(items))
        self.train(training)
        return len(items) / max(1, self.n_items - 1)


class RecFormer(SessionModel):
    """A recommender of RecFormer's type, initialised from any masked language model.

    Without its authors' own pre-training results cannot be compared with theirs, only with each other.

    Training, as their script: in the first round the item table is encoded anew as each epoch begins and stays as it is
    during it; the second starts from the best weights with their table, which no longer changes. What is validated and
    kept is the weights at an epoch's end with the table of its start.

    Config:
        max_token_num (256), max_item_embeddings (51), max_attr_num (3), max_attr_length (32), attribute_names,
        temperature (0.05), table_epochs, table_stopping_step: the second round's ``epochs`` and ``stopping_step``.
    """

    #: Its weights are all tuned: a run holds them, and opens no other file.
    keeps_language_model: ClassVar[bool] = True
    encode_epochs: int = 0
    encoder: RecFormerEncoder

    @classmethod
    def needs_language_model(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.language_model` must be filled."""
        return True

    @classmethod
    def needs_item_texts(cls, config: Any) -> bool:
        """Whether the items' texts must be filled in."""
        return True

    @classmethod
    def needs_item_tokens(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.item_tokens` must be filled."""
        return True

    @classmethod
    def settled(cls, config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes are columns, and none that is named may be left out.

        Raises:
            UserError: a template, more columns than attributes, or weights that would be rounded before they are tuned.
        """
        chosen: dict[str, Any] = {}
        if given.get("lm_dtype", "float32") != "float32":
            raise UserError(
                f"{cls.__name__} tunes every weight of its language model, in float32.",
                "Leave lm_dtype out; enable_amp: True computes in bfloat16.",
            )
        if given.get("text_template"):
            raise UserError(
                f"{cls.__name__} reads the attributes of an item one by one; a template has none.",
                "Leave text_template out, and name the columns in text_fields.",
            )
        if int(option(config, "nproc", 1)) > 1 and "accumulate_steps" not in given:
            chosen["accumulate_steps"] = 1  # the processes share a batch instead
        fields, most = option(config, "text_fields", None), int(option(config, "max_attr_num", 3))
        if isinstance(fields, (list, tuple)) and len(fields) > most:
            raise UserError(
                f"text_fields names {len(fields)} columns, and max_attr_num is {most}: {', '.join(fields[most:])} "
                "would not be read.",
                f"Set max_attr_num to {len(fields)}, or name fewer.",
            )
        return chosen

    @classmethod
    def tokens_to_read(cls, config: Any, context: int | None) -> int:
        """``max_token_num``, or what a language model of this ``context`` can read where that is less."""
        asked = int(option(config, "max_token_num", 256))
        return asked if context is None else min(asked, context)

    def build_encoder(self, config: Any, inputs: Inputs) -> SessionEncoder:
        lm = inputs.language_model
        if lm is None:
            raise UserError(
                f"{type(self).__name__} needs a language model, and none was given.",
                "Set lm (run_recbole loads it), or pass Inputs(language_model=…).",
            )
        encoder = RecFormerEncoder(
            lm,
            inputs.item_tokens,
            self.n_items,
            self.max_seq_length,
            most_tokens=self.tokens_to_read(config, lm.context),
            most_places=int(option(config, "max_item_embeddings", 51)),
            temperature=float(option(config, "temperature", 0.05)),
        )
        if option(config, "gradient_checkpointing", False):
            checkpoint_gradients(encoder.network)
        return encoder

    # -- training, which the bridge leads ------------------------------------------------------------------------
    def training_rounds(self, config: Any) -> Sequence[Round]:
        """Two, see above."""
        self.encode_epochs = int(config["epochs"])
        return (
            Round("encode", self.encode_epochs, int(config["stopping_step"])),
            Round("fixed", int(config["table_epochs"]), int(config["table_stopping_step"]), from_best=True),
        )

    def begin_round(self, name: str) -> None:
        """Without an epoch of the first round there is a table too."""
        if name == "encode" and not self.encode_epochs:
            self.encoder.encode_items()

    def begin_epoch(self, name: str, most: int | None = None) -> float:
        """Encodes the items anew in the first round."""
        return self.encoder.encode_items(most) if name == "encode" else 1.0

    def optimizer_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """What an optimiser is given: biases and layer normalisation do not decay, as published."""
        plain: list[nn.Parameter] = []
        spared: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            (spared if _undecayed(name) else plain).append(parameter)
        return [{"params": plain, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def special_tokens(lm: LanguageModel) -> tuple[int, int]:
    """Ids of the token a sequence starts with, and of padding; zeros where there is no tokenizer (saved ones follow).

    Raises:
        UserError: the tokenizer has no token to start with.
    """
    if lm.tokenizer is None:
        return 0, 0
    first = next((t for t in (lm.tokenizer.cls_token_id, lm.tokenizer.bos_token_id) if t is not None), None)
    if first is None:
        raise UserError(
            "The language model's tokenizer has neither a [CLS] nor a <s> token.", "Name a masked language model."
        )
    return int(first), int(lm.tokenizer.pad_token_id)


def with_window(network: nn.Module, window: int) -> nn.Module:
    """A Longformer with another attention window, of the same weights; any other network as it is."""
    config: Any = copy.deepcopy(network.config)
    if config.model_type != "longformer":
        return network
    config.attention_window = [window] * config.num_hidden_layers
    other = type(network)(config, add_pooling_layer=False)  # type: ignore[call-arg]
    other.load_state_dict(network.state_dict())
    return other.eval()


def _undecayed(name: str) -> bool:
    parts: Iterable[str] = name.lower().split(".")
    return name.endswith("bias") or any("layernorm" in p or "layer_norm" in p for p in parts)
