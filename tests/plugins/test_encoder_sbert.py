from __future__ import annotations

import shutil

import numpy as np
import pytest

from recbole_llm import MissingExtra, UserError
from recbole_llm.testing.encoders import TEXTS, EncoderContract
from recbole_llm.testing.network import no_network
from recbole_llm.text import checkpoints
from recbole_llm_plugins.angle import Angle
from recbole_llm_plugins.angle import Options as AngleOptions
from recbole_llm_plugins.sbert import Options, Sbert

pytest.importorskip("sentence_transformers", reason="the extra 'encoders' is not installed")
MODEL_TEXTS = ["rose water toner", "a very long lotion for dry skin", "soap", "unknown zebra"]


@pytest.fixture(scope="session")
def tiny_sbert(tiny_bert, tmp_path_factory):
    """The tiny BERT with mean pooling and prompts, saved by sentence-transformers itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("tiny-sbert")
    modules = [Transformer(str(tiny_bert)), Pooling(32, pooling_mode="mean")]
    prompts = {"query": "query : ", "document": "passage : "}
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder))
    return folder


def by_transformers(folder, texts, pooling, max_length=64):
    """The same vectors by plain transformers: float32 [n, 32]."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).float().eval()
    batch = tokenizer(list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    if pooling == "cls":
        return hidden[:, 0].numpy()
    mask = batch["attention_mask"][:, :, None].float()
    return ((hidden * mask).sum(1) / mask.sum(1)).numpy()


class TestSbert(EncoderContract):
    encoder_class = Sbert

    @pytest.fixture(scope="class", autouse=True)
    def _checkpoints(self, tiny_bert, tiny_sbert):
        type(self).options = {"model": str(tiny_sbert)}
        type(self).changes = {
            "model": str(tiny_bert),
            "max_tokens": 8,
            "prompt": "lovely ",
            "query_prompt": "soft ",
            "dtype": "bf16",
        }


class TestAngle(EncoderContract):
    encoder_class = Angle

    @pytest.fixture(scope="class", autouse=True)
    def _checkpoints(self, tiny_bert, tiny_sbert):
        type(self).options = {"model": str(tiny_bert), "max_tokens": 64}
        type(self).changes = {"model": str(tiny_sbert), "max_tokens": 8, "prompt": "lovely ", "dtype": "bf16"}


def test_sbert_equals_plain_transformers(tiny_bert):
    """A checkpoint without sentence-transformers' own files: mean pooling."""
    got = Sbert(Options(model=str(tiny_bert))).encode(MODEL_TEXTS)
    np.testing.assert_allclose(got, by_transformers(tiny_bert, MODEL_TEXTS, "mean"), atol=1e-5)


def test_angle_equals_plain_transformers(tiny_bert):
    got = Angle(AngleOptions(model=str(tiny_bert), max_tokens=64)).encode(MODEL_TEXTS)
    expected = by_transformers(tiny_bert, MODEL_TEXTS, "cls")
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(got - by_transformers(tiny_bert, MODEL_TEXTS, "mean")).max() > 0.01


def test_angle_pools_cls_even_where_the_checkpoint_says_mean(tiny_sbert, tiny_bert):
    got = Angle(AngleOptions(model=str(tiny_sbert), max_tokens=64)).encode(MODEL_TEXTS)
    np.testing.assert_allclose(got, by_transformers(tiny_bert, MODEL_TEXTS, "cls"), atol=1e-5)


def test_angle_is_uae_large_by_default():
    assert Angle().source.model == "WhereIsAI/UAE-Large-V1"
    assert Angle().options.query_prompt.startswith("Represent this sentence")


def test_items_and_queries_get_their_prompts(tiny_sbert, tiny_bert):
    own = Sbert(Options(model=str(tiny_sbert)))
    given = Sbert(Options(model=str(tiny_sbert), prompt="lovely ", query_prompt=""))
    for got, prompt in (
        (own.encode(MODEL_TEXTS), "passage : "),
        (own.encode_queries(MODEL_TEXTS), "query : "),
        (given.encode(MODEL_TEXTS), "lovely "),
        (given.encode_queries(MODEL_TEXTS), ""),
    ):
        expected = by_transformers(tiny_bert, [prompt + t for t in MODEL_TEXTS], "mean")
        np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=prompt)


def test_texts_are_cut_at_max_tokens(tiny_bert):
    encoder = Sbert(Options(model=str(tiny_bert), max_tokens=6))
    np.testing.assert_allclose(
        encoder.encode(MODEL_TEXTS), by_transformers(tiny_bert, MODEL_TEXTS, "mean", 6), atol=1e-5
    )
    assert max(encoder.count_tokens(MODEL_TEXTS)) == 6


def test_more_tokens_than_the_model_reads(tiny_bert):
    with pytest.raises(UserError, match="reads at most 64 tokens"):
        Sbert(Options(model=str(tiny_bert), max_tokens=65)).encode(["soap"])


def test_bf16_stays_close(tiny_bert):
    full = Sbert(Options(model=str(tiny_bert))).encode(TEXTS)
    half = Sbert(Options(model=str(tiny_bert), dtype="bf16")).encode(TEXTS)
    assert half.dtype == np.float32 and 0 < np.abs(full - half).max() < 0.05


def test_no_texts_no_vectors(tiny_bert):
    assert Sbert(Options(model=str(tiny_bert))).encode([]).shape == (0, 32)


def test_weights_change_the_fingerprint(tiny_bert, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bert, copy)
    same, first = (Sbert(Options(model=str(f))).fingerprint() for f in (copy, tiny_bert))
    assert same == first, "the same content in another folder is the same model"
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert Sbert(Options(model=str(copy))).fingerprint() != first


@pytest.mark.parametrize("damage", ["truncated", "no weights", "no config"])
def test_unreadable_checkpoint_is_a_message(tiny_bert, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bert, copy)
    if damage == "truncated":
        (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:1000])
    else:
        (copy / ("config.json" if damage == "no config" else "model.safetensors")).unlink()
    for encoder in (Sbert(Options(model=str(copy))), Angle(AngleOptions(model=str(copy)))):
        with no_network() as refused, pytest.raises(UserError, match="cannot be loaded") as e:
            encoder.encode(["soap"])
        assert str(copy) in e.value.message and not refused


def test_model_that_is_not_named():
    with pytest.raises(UserError, match="text_model"):
        Sbert().fingerprint()


@pytest.mark.parametrize("name", ["./gone", "/gone/model", "~/gone", "a/b/c", "two words"])
def test_model_that_cannot_be(name):
    with pytest.raises(UserError, match="no model folder"):
        Sbert(Options(model=name)).fingerprint()


def test_local_folder_has_no_revision(tiny_bert):
    with pytest.raises(UserError, match="has no revision"):
        Sbert(Options(model=str(tiny_bert), revision="main")).fingerprint()


def test_missing_extra_names_the_pip_line(monkeypatch, tiny_bert):
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"recbole-llm\[encoders\]"):
        Sbert(Options(model=str(tiny_bert))).encode(["soap"])


def test_code_of_a_model_is_not_run_unasked(tiny_bert, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bert, copy)
    config = (copy / "config.json").read_text()
    assert '"model_type": "bert"' in config
    changed = config.replace('"model_type": "bert"', '"model_type": "other", "auto_map": {"AutoConfig": "own.Own"}')
    (copy / "config.json").write_text(changed)
    (copy / "own.py").write_text("raise SystemExit('the code of the model was run')")
    with pytest.raises(UserError):
        Sbert(Options(model=str(copy))).encode(["soap"])


class TestHubCache:
    """A model that lies in the local Hugging Face cache, as the hub's own client lays it out."""

    OLD, NEW = "0" * 39 + "a", "0" * 39 + "b"

    @pytest.fixture
    def cached(self, tiny_bert, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        folder = tmp_path / "models--own--tiny"
        shutil.copytree(tiny_bert, folder / "snapshots" / self.OLD)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(self.OLD)
        return folder

    def test_moving_revision_becomes_its_commit(self, cached):
        assert Sbert(Options(model="own/tiny")).fingerprint()["revision"] == self.OLD
        (cached / "refs" / "main").write_text(self.NEW)
        assert Sbert(Options(model="own/tiny")).fingerprint()["revision"] == self.NEW

    def test_commit_is_itself(self, cached):
        assert Sbert(Options(model="own/tiny", revision=self.NEW)).fingerprint()["revision"] == self.NEW

    def test_loads_without_network(self, cached, tiny_bert):
        encoder = Sbert(Options(model="own/tiny"))
        with no_network() as refused:
            encoder.prepare()
            got = encoder.encode(MODEL_TEXTS)
        assert not refused
        np.testing.assert_allclose(got, by_transformers(tiny_bert, MODEL_TEXTS, "mean"), atol=1e-5)

    def test_short_names_are_sentence_transformers_own(self, cached):
        assert Sbert(Options(model="all-mpnet-base-v2")).source.model == "sentence-transformers/all-mpnet-base-v2"

    @pytest.mark.parametrize("model", ["own/other", "own/tiny"])
    def test_not_cached_says_what_to_run(self, cached, model):
        encoder = Sbert(Options(model=model, revision="v2"))
        with no_network() as refused, pytest.raises(UserError, match="not in the local Hugging Face cache") as e:
            encoder.fingerprint()
        assert not refused
        assert f"hf download {model} --revision v2" in e.value.hint

    def test_forbidden_network_is_a_message(self, cached, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with no_network() as refused, pytest.raises(UserError, match="HF_HUB_OFFLINE"):
            Sbert(Options(model="own/other")).prepare()
        assert not refused

    def test_no_network_is_a_message(self, cached, monkeypatch):
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1:9")
        with no_network() as refused, pytest.raises(UserError, match="cannot be fetched") as e:
            Sbert(Options(model="own/other")).prepare()
        assert refused and "network" in e.value.hint

    def test_cache_follows_the_hubs_own_variables(self, monkeypatch, tmp_path):
        import subprocess
        import sys

        for variables in (
            {"HF_HUB_CACHE": str(tmp_path / "a")},
            {"HF_HOME": str(tmp_path / "b")},
            {"XDG_CACHE_HOME": str(tmp_path)},
            {},
        ):
            for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
                monkeypatch.delenv(name, raising=False)
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
            theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            assert str(checkpoints.hub_cache()) == theirs.strip()
