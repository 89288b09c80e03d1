"""LLMGR: its scores, its stages' groups and its tasks, on tiny random language models, against plain readings."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import recbole_llm_plugins.builtin as builtin
from recbole_llm.errors import UserError
from recbole_llm.lm.checkpointing import checkpoint_gradients
from recbole_llm.lm.language_model import load_language_model
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.auxiliary_prompts import ANSWERS, CODES, LENGTHS
from recbole_llm.models.layers.hybrid_prompt import Prompts
from recbole_llm.models.llmgr import LLMGR
from recbole_llm.plugins import house
from recbole_llm.testing.session_encoders import (
    MAX_LEN,
    N_ITEMS,
    ToyConfig,
    ToyDataset,
    planted_sessions,
    train_sessions,
)
from recbole_llm.testing.tiny_lm import tiny_bert, tiny_llama
from recbole_llm.text.prompts import Prompt, load_prompt

PROMPT = load_prompt("llmgr", house())
TEXTS = ["", *(f"thing number {i}" for i in range(1, N_ITEMS - 1)), " "]  # the last item has none
WORDS = [*map(str, PROMPT.blocks.values()), *TEXTS]
SETTINGS = {
    "hidden_size": 8, "inner_size": 8, "embedding_size": 8, "n_layers": 1, "n_heads": 2, "lora_rank": 2,
    "lora_dropout": 0.0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "lm_eval_batch": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("lm")
    tiny_llama(made / "llama", WORDS, hidden=16, heads=2)
    tiny_bert(made / "bert", WORDS, hidden=16)
    return made


@pytest.fixture(scope="module")
def loaded(folders):
    return {name: load_language_model(str(folders / name), device="cpu", plugins=house()) for name in ("llama", "bert")}


@pytest.fixture
def build(loaded):
    def built(lm: str = "llama", *, context: int | None = None, prompt: Prompt = PROMPT, texts=TEXTS, **keys) -> LLMGR:
        found = replace(loaded[lm], network=copy.deepcopy(loaded[lm].network))
        if context is not None:
            found = replace(found, context=context)
        inputs = Inputs(language_model=found, prompt=prompt, item_texts=texts, train_sessions=train_sessions())
        torch.manual_seed(0)
        return LLMGR(ToyConfig(**{**SETTINGS, **keys}), ToyDataset(), inputs).eval()

    return built


def by_hand(model: LLMGR, batch, row: int) -> torch.Tensor:
    """The scores of one session, its prompt laid out piece by piece."""
    encoder, tokenizer = model.encoder, model.lm.tokenizer
    session = batch["item_id_list"][row, : batch["item_length"][row]]
    table = encoder.backbone.item_table()
    block = "main" if encoder.backbone.uses_graph else "main_without_graph"
    text = PROMPT.blocks[block].strip()
    vectors = []

    def say(words: str) -> None:
        vectors.extend(encoder.words.weight[i] for i in tokenizer(words, add_special_tokens=False)["input_ids"])

    vectors.append(encoder.words.weight[tokenizer("a")["input_ids"][0]])
    before, rest = text.split("{graph}") if "{graph}" in text else ("", text)
    say(before)
    if encoder.backbone.uses_graph:
        state = encoder.backbone.encode(session[None], torch.tensor([len(session)]))
        vectors.append(encoder.f_in(state.h_final[0]))
    between, after = rest.split("{nodes}")
    say(between)
    vectors.extend(encoder.f_in(table[item]) for item in session)
    say(after)
    if not model.lm.causal:
        vectors.append(encoder.words.weight[tokenizer("a")["input_ids"][-1]])
    hidden = encoder.network(inputs_embeds=torch.stack(vectors)[None]).last_hidden_state[0, -1]
    return encoder.f_out(hidden)


@pytest.mark.parametrize(("lm", "backbone"), [("llama", "GCSAN"), ("bert", "NISER"), ("llama", "GRU4Rec")])
@torch.no_grad()
def test_a_batch_scores_as_each_session_s_prompt_laid_out_by_hand(build, lm, backbone):
    model, batch = build(lm, backbone=backbone), planted_sessions(12)
    scores = model.full_sort_predict(batch)  # in parts of 5, by length
    for row in range(12):
        torch.testing.assert_close(scores[row], by_hand(model, batch, row), rtol=1e-4, atol=2e-5)


ENCODERS = sorted(n for n, target in builtin.MODELS.items() if ".session_encoders." in target)


@pytest.mark.parametrize("backbone", ENCODERS)
def test_every_session_encoder_is_a_backbone(build, backbone):
    """Its item vectors get gradients through the language model, and a batch of it scores as it did at once."""
    model, batch = build(backbone=backbone, n_heads=1, lm_eval_batch=64), planted_sessions(8)
    model.calculate_loss(batch).backward()
    (table,) = [p for n, p in model.encoder.backbone.named_parameters() if n.endswith("item_embedding.weight")]
    assert table.grad is not None and table.grad.abs().sum() > 0
    scores = model.full_sort_predict(batch)
    assert scores.shape == (8, N_ITEMS) and torch.isfinite(scores).all()
    model.encoder.rows = 3
    with torch.no_grad():
        torch.testing.assert_close(model.full_sort_predict(batch), scores.detach(), rtol=1e-4, atol=2e-5)


def test_a_hidden_layer_before_the_head(build):
    model, batch = build(head_hidden=5), planted_sessions(4)
    encoder = model.encoder
    assert encoder.f_out.weight.shape == (N_ITEMS, 5) and model.parameter_groups()["f_out"][-1] is encoder.hidden.bias
    with torch.no_grad():
        h = encoder.encode(batch["item_id_list"], batch["item_length"]).h_final
        torch.testing.assert_close(model.full_sort_predict(batch), encoder.f_out(h))


@torch.no_grad()
def test_padding_and_company_change_no_score(build):
    model, batch = build(), planted_sessions(9)
    whole = model.full_sort_predict(batch)
    wider = {**batch, "item_id_list": F.pad(batch["item_id_list"], (0, 4))}
    wider["item_id_list"] = wider["item_id_list"][:, :MAX_LEN]
    torch.testing.assert_close(model.full_sort_predict(wider), whole)
    for row in range(9):
        alone = {k: v[row : row + 1, : int(batch["item_length"][row])] if v.dim() > 1 else v[row : row + 1]
                 for k, v in batch.items()}  # fmt: skip
        torch.testing.assert_close(model.full_sort_predict(alone)[0], whole[row], rtol=1e-4, atol=2e-5)
    found = torch.cat([s.clone() for _, s in model.iter_scores(batch, max_rows=4)])
    torch.testing.assert_close(found, whole)


@torch.no_grad()
def test_candidates_cost_one_reading_a_session(build):
    """RecBole's sampled evaluation repeats a session once a candidate; the language model reads it once."""
    model, batch = build(), planted_sessions(6)
    read = []
    model.encoder.network.register_forward_hook(lambda *a, **k: read.append(a[2].last_hidden_state.size(0)))
    repeated = {k: v.repeat_interleave(20, 0) for k, v in batch.items()}
    repeated["item_id"] = torch.arange(1, 21).repeat(6)
    scores = model.predict(repeated)
    assert sum(read) == 6
    torch.testing.assert_close(scores.view(6, 20), model.full_sort_predict(batch)[:, 1:], rtol=1e-4, atol=2e-5)


def test_only_what_is_trained_is_saved(build):
    model = build()
    state = model.state_dict()
    own = [k for k in state if k.startswith("network.")]
    assert own and all("lora_" in k for k in own)
    assert not [k for k in build(lm_tune="none").state_dict() if k.startswith("network.")]
    full = build(lm_tune="full")
    assert len([k for k in full.state_dict() if k.startswith("network.")]) == len(full.encoder.network.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)) if parameter.requires_grad else None
    again, batch = build(), planted_sessions(4)
    assert not torch.allclose(again.full_sort_predict(batch), model.full_sort_predict(batch))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.full_sort_predict(batch), model.full_sort_predict(batch))
    with pytest.raises(RuntimeError, match="f_in"):
        again.load_state_dict({k: v for k, v in state.items() if not k.startswith("f_in")})


# -- stages ----------------------------------------------------------------------------------------------------
EVERYTHING = {"language_model", "f_in", "backbone", "f_out"}


def test_stages_train_what_the_paper_says(build):
    aux, main = build().stages()
    assert (aux.name, set(aux.trains), aux.rows, aux.epochs) == (
        "auxiliary", {"language_model", "f_in", "f_out"}, False, 1,
    )  # fmt: skip
    assert (set(main.trains), main.own, main.rows) == ({"backbone", "f_out"}, None, True)
    groups = build().parameter_groups()
    assert set(groups) == EVERYTHING | {"base"}


def test_every_parameter_is_in_one_group(build):
    for tune in ("lora", "full", "none"):
        model = build(lm_tune=tune)
        counted = [id(p) for ps in model.parameter_groups().values() for p in ps]
        assert sorted(counted) == sorted(id(p) for p in model.parameters())


def test_without_the_auxiliary_stage_everything_it_would_have_trained_is_trained(build):
    """T-21: LoRA and f_in would stay as they were drawn."""
    (main,) = build(variant="M").stages()
    assert set(main.trains) == EVERYTHING and main.own is None
    assert not LLMGR.needs_item_texts(ToyConfig(variant="M")) and LLMGR.needs_item_texts(ToyConfig())
    model, batch = build(variant="M"), planted_sessions(8)
    model.calculate_loss(batch).backward()
    moved = {
        name: any(p.grad is not None and p.grad.any() for p in ps) for name, ps in model.parameter_groups().items()
    }
    assert moved == {**dict.fromkeys(EVERYTHING, True), "base": False}


def test_the_other_variants(build):
    (joint,) = build(variant="O").stages()
    assert set(joint.trains) == EVERYTHING and joint.own is not None and joint.rows
    assert [set(s.trains) for s in build(variant="F").stages()] == [EVERYTHING, EVERYTHING]


@pytest.mark.parametrize("tune", ["lora", "none"])
def test_gradients_reach_the_backbone_through_a_frozen_checkpointed_model(build, tune):
    """T-20: the same gradients of the item vectors as without checkpointing, and not zero."""
    grads = []
    for checkpointing in (False, True):
        model, batch = build(lm_tune=tune), planted_sessions(6)
        model.encoder.network.requires_grad_(False)
        if checkpointing:
            checkpoint_gradients(model.encoder.network)
        model.train().calculate_loss(batch).backward()
        assert not any(p.grad is not None for p in model.encoder.network.parameters())
        grads.append([p.grad for p in model.encoder.backbone.parameters()])
    assert grads[0][0].abs().sum() > 0
    for plain, again in zip(*grads):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-7)


# -- auxiliary tasks -------------------------------------------------------------------------------------------
def auxiliary(model: LLMGR, epoch: int = 0) -> list[dict]:
    asked = model.auxiliary()
    asked.begin(epoch)
    return list(asked)


def test_an_epoch_asks_every_text_once_and_one_task_a_session(build):
    model = build(train_batch_size=7)
    batches = auxiliary(model)
    assert len(batches) == len(model.auxiliary()) and all(len(b[CODES]) == 7 for b in batches[:-1])
    vocabulary = model.encoder.words.num_embeddings
    items, tasks, tokenizer = [], 0, model.lm.tokenizer
    for batch in batches:
        for codes, length, answers in zip(batch[CODES], batch[LENGTHS], batch[ANSWERS]):
            slots = codes[codes >= vocabulary] - vocabulary
            assert not codes[length:].any()
            if len(slots):
                tasks += 1
                assert set(answers[answers > 0].tolist()) <= set(slots[1:].tolist()) and slots[0] not in slots[1:]
            else:
                items.append(int(answers[0]))
                said = tokenizer.decode(codes[:length])
                assert f"thing number {items[-1]} Response" in said.replace(" :", "")
    assert sorted(items) == [*range(1, N_ITEMS - 1)]
    sizes = train_sessions()[1].diff()
    assert tasks == model.auxiliary().tasks.sessions <= int((sizes > 1).sum())
    same, other = auxiliary(model), auxiliary(model, 1)
    assert all(torch.equal(a[CODES], b[CODES]) for a, b in zip(batches, same))
    assert any(a[CODES].shape != b[CODES].shape or (a[CODES] != b[CODES]).any() for a, b in zip(batches, other))


def test_several_right_answers_share_the_loss(build):
    model = build()
    batch = auxiliary(model)[0]
    batch[ANSWERS][0, :3], batch[ANSWERS][1, :2] = torch.tensor([4, 9, 2]), torch.tensor([1, 7])
    encoder = model.encoder
    states = torch.stack([
        encoder.read(Prompts(c[None], n[None]), encoder.backbone.item_table())[0]
        for c, n in zip(batch[CODES], batch[LENGTHS])
    ])  # fmt: skip
    logs = torch.log_softmax(encoder.f_out(states)[:, 1:], 1)
    wanted = -torch.stack([logs[i][a[a > 0] - 1].mean() for i, a in enumerate(batch[ANSWERS])]).mean()
    torch.testing.assert_close(model.calculate_loss(batch), wanted, rtol=1e-4, atol=1e-5)


def test_the_tasks_are_made_of_the_training_clicks(build):
    items, offsets = train_sessions()
    held = {
        (int(a), int(b)) for s, e in itertools.pairwise(offsets) for a, b in zip(items[s : e - 1], items[s + 1 : e])
    }
    tasks = build().auxiliary().tasks
    for epoch in range(5):
        drawn = tasks.draw(np.random.default_rng(epoch))
        pairs = {(int(t), int(i)) for t, row in zip(drawn.target, drawn.successors) for i in row if i}
        assert pairs <= held


# -- what does not fit -----------------------------------------------------------------------------------------
@torch.no_grad()
def test_the_oldest_clicks_are_left_out_of_a_prompt_that_is_too_long(build, caplog):
    whole, batch = build(backbone="GRU4Rec"), planted_sessions(10)
    short = build(backbone="GRU4Rec", context=whole.encoder.template.fixed + 3)
    assert short.encoder.longest == 3
    scores = short.full_sort_predict(batch)
    seq, lengths = batch["item_id_list"], batch["item_length"]
    for row in range(10):
        last = seq[row, : lengths[row]][-3:]
        alone = {"item_id_list": last[None], "item_length": torch.tensor([len(last)])}
        torch.testing.assert_close(scores[row], whole.full_sort_predict(alone)[0], rtol=1e-4, atol=2e-5)
    assert short.stage_facts()["prompts_without_their_oldest_clicks"] == int((lengths > 3).sum())
    assert caplog.text.count("oldest clicks") == 1


def test_texts_are_cut_and_candidates_dropped_where_they_do_not_fit(build, caplog):
    whole = build()
    room = max(whole.template("text", "title").fixed, whole.template("structure", "target", "candidates").fixed)
    texts = ["", *(f"thing number {i} " + "thing " * 3 * i for i in range(1, N_ITEMS))]
    model = build(context=max(room, whole.encoder.template.fixed) + 6, texts=texts)
    batches = auxiliary(model)
    assert max(int(b[LENGTHS].max()) for b in batches) <= model.lm.context
    facts = model.stage_facts()
    assert facts["texts_cut"] > 0 and facts["structure_candidates"] < 10
    assert "cut at their end" in caplog.text and "candidates" in caplog.text


def test_bad_input_says_what_to_do(build):
    with pytest.raises(UserError, match=r"needs \d+ tokens, and the language model reads 9"):
        build(context=9)
    with pytest.raises(UserError, match="variant"):
        build(variant="X")
    with pytest.raises(UserError, match="lm_tune"):
        build(lm_tune="adapter")
    with pytest.raises(UserError, match="language model"):
        LLMGR(ToyConfig(**SETTINGS), ToyDataset(), Inputs())
    blocks = {**PROMPT.blocks, "main": "Nodes: {node}"}
    with pytest.raises(UserError, match="node"):
        build(prompt=Prompt("own", 1, {}, blocks))
    with pytest.raises(UserError, match=r"items' texts"):
        build(texts=None).stages()


def test_a_trained_backbone_is_where_training_starts(build, folders):
    trained = build().encoder.backbone
    weights = {k: v + 1 for k, v in copy.deepcopy(trained.state_dict()).items()}
    found = load_language_model(str(folders / "llama"), device="cpu", plugins=house())
    model = LLMGR(
        ToyConfig(**SETTINGS),
        ToyDataset(),
        Inputs(language_model=found, prompt=PROMPT, submodels={"backbone": weights}),
    )
    for name, value in model.encoder.backbone.state_dict().items():
        assert torch.equal(value, weights[name])
