"""What everybody who loads a pretrained model shares: which bytes a name stands for, where it runs, batches of texts.

Nothing here touches the network but :meth:`Source.fetch`.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from recbole_llm.errors import MissingExtra, UserError

if TYPE_CHECKING:
    import torch

#: Files that shape an output, by suffix. Other backends' exports, logs and training state are left out.
_MATTERS = {".json", ".txt", ".model", ".safetensors", ".bin", ".pt", ".py", ".jinja", ".spm", ".vocab"}
_IGNORED = re.compile(
    r"(^|/)(\.[^/]*|onnx|openvino|checkpoint-\d+|runs|eval|training_args\.bin|trainer_state\.json|optimizer\.pt"
    r"|data_config\.json|train_script\.py)(/|$)"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Files of at least this many bytes keep their digest on disk between processes (a 16 GB model takes 10 s to hash).
_KEEP_FROM = 64 << 20
_digests: dict[tuple[str, int, int], str] = {}
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")

T = TypeVar("T")


def sha256_file(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal; hashed again only when its size or modification time changed."""
    path = Path(path).resolve()
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key in _digests:
        return _digests[key]
    kept = _kept_digest(key) if stat.st_size >= _KEEP_FROM else None
    digest = None
    if kept is not None and kept.is_file():
        found = kept.read_text(encoding="ascii", errors="replace").strip()
        digest = found if re.fullmatch(r"[0-9a-f]{64}", found) else None
    if digest is None:
        h = hashlib.sha256()
        with open(path, "rb") as f:
            while block := f.read(1 << 20):
                h.update(block)
        digest = h.hexdigest()
        # A file written a moment ago may change again within the clock's resolution: not kept yet.
        if kept is not None and time.time_ns() - stat.st_mtime_ns > 2_000_000_000:
            _keep(kept, digest)
    _digests[key] = digest
    return digest


def _kept_digest(key: tuple[str, int, int]) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "recbole-llm" / "sha256" / hashlib.sha256(repr(key).encode()).hexdigest()


def _keep(where: Path, digest: str) -> None:
    """Best effort: a home that cannot be written costs time, nothing else."""
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        part = where.with_name(f"{where.name}.{os.getpid()}.part")
        part.write_text(digest, encoding="ascii")
        os.replace(part, where)
    except OSError:
        pass


def folder_digest(folder: Path) -> str:
    """sha256 over the name, size and sha256 of every file of a checkpoint folder that may shape a vector."""
    h = hashlib.sha256()
    for name in _wanted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file()):
        path = folder / name
        h.update(f"{name}\t{path.stat().st_size}\t{sha256_file(path)}\n".encode())
    return h.hexdigest()


def _wanted(names: Iterable[str]) -> list[str]:
    """Of a model's files, those that loading it reads. Where a folder has safetensors, transformers prefers them:
    the same weights in another format are left out."""
    kept = sorted(n for n in names if os.path.splitext(n)[1] in _MATTERS and not _IGNORED.search(n))
    safe = {os.path.dirname(n) for n in kept if n.endswith(".safetensors")}
    return [n for n in kept if not (n.endswith((".bin", ".pt")) and os.path.dirname(n) in safe)]


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: a local folder (``path``), or a Hugging Face id with its ``revision``."""

    model: str
    revision: str = "main"
    path: Path | None = None

    @classmethod
    def of(cls, model: str, revision: str | None = None) -> ModelSource:
        """Reads a name: an existing folder is local, everything else must look like ``owner/name``.

        Raises:
            UserError: it looks like a path and is no folder, or is no Hugging Face id.
        """
        path = Path(model).expanduser()
        if path.is_dir():
            if revision is not None:
                raise UserError(f"The model '{model}' is a local folder and has no revision '{revision}'.")
            return cls(str(model), path=path.resolve())
        if path.is_absolute() or model.startswith((".", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
            raise UserError(f"There is no model folder '{model}'.", "Give a folder or a Hugging Face id (owner/name).")
        return cls(model, revision or "main")

    def commit(self) -> str | None:
        """The commit this Hugging Face id and revision stand for in the local cache; ``None`` if not cached."""
        if self.path is not None:
            return None
        if _COMMIT.fullmatch(self.revision):
            return self.revision
        ref = self.cache() / "refs" / self.revision
        try:
            found = ref.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return found if _COMMIT.fullmatch(found) else None

    def cache(self) -> Path:
        """The folder of the Hugging Face cache that holds this model."""
        return hub_cache() / f"models--{self.model.replace('/', '--')}"

    def folder(self) -> Path | None:
        """The local folder of its files, complete or not; ``None`` if there is none."""
        if self.path is not None:
            return self.path
        commit = self.commit()
        found = self.cache() / "snapshots" / commit if commit else None
        return found if found is not None and found.is_dir() else None

    def fetch(self) -> Path:
        """Downloads what is missing into the local Hugging Face cache, and returns :meth:`folder`. Network.

        Raises:
            UserError: no network, no such model or revision, no access, or network is forbidden.
        """
        if self.path is not None:
            return self.path
        what = f"The model '{self.model}' (revision '{self.revision}')"
        if offline():
            raise UserError(
                f"{what} is not (completely) in the local Hugging Face cache {hub_cache()}, and "
                f"{' or '.join(_OFFLINE)} forbids fetching it.",
                "Unset that variable once, copy the cache from another machine, or name a local folder.",
            )
        try:
            from huggingface_hub import HfApi
        except ImportError as e:
            raise MissingExtra(what, "encoders") from e
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        try:
            listed = [s.rfilename for s in api.model_info(self.model, revision=self.revision).siblings or []]
            names = _wanted(listed)
            found = api.snapshot_download(
                self.model, revision=self.revision, cache_dir=hub_cache(), allow_patterns=names
            )
        except Exception as e:
            raise UserError(
                f"{what} cannot be fetched: {_first_line(e)}",
                "Check the name and the network; a gated model needs `hf auth login`. Or name a local folder.",
            ) from e
        return Path(found)

    def load(self, build: Callable[[Path], T], what: str) -> T:
        """``build(folder)``, after fetching the model if it is not (completely) here.

        Raises:
            UserError: it cannot be fetched, or its files cannot be read.
        """
        folder = self.folder()
        if folder is not None:
            try:
                return build(folder)
            except UserError:
                raise
            except Exception as e:
                if self.path is not None or offline():
                    raise unreadable_model(f"{what} in {folder}", e) from e
        folder = self.fetch()
        try:
            return build(folder)
        except UserError:
            raise
        except Exception as e:
            raise unreadable_model(f"{what} in {folder}", e) from e

    def fingerprint(self) -> dict[str, Any]:
        """``{"model", "revision"}`` with the commit, or ``{"model": "(local)", "content"}`` with the digest.

        Raises:
            UserError: a moving revision of a model that is not in the local cache.
        """
        if self.path is not None:
            return {"model": "(local)", "content": folder_digest(self.path)}
        commit = self.commit()
        if commit is None:
            raise UserError(
                f"The model '{self.model}' (revision '{self.revision}') is not in the local Hugging Face cache "
                f"{hub_cache()}, so the commit it stands for is unknown.",
                f"Fetch it once with network: hf download {self.model} --revision {self.revision} "
                "(HF_HOME moves the cache). Or name a local folder.",
            )
        return {"model": self.model, "revision": commit}


def hub_cache() -> Path:
    """The folder of the local Hugging Face cache."""
    for key, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(key):
            return Path(os.environ[key]).expanduser() / below
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "huggingface" / "hub"


def offline() -> bool:
    """Whether the user forbids the Hugging Face hub (``HF_HUB_OFFLINE``, ``TRANSFORMERS_OFFLINE``)."""
    return any(os.environ.get(k, "").upper() in {"1", "ON", "YES", "TRUE"} for k in _OFFLINE)


def unreadable_model(what: str, e: BaseException) -> UserError:
    """The error for a checkpoint that cannot be loaded."""
    if "trust_remote_code" in str(e):
        return UserError(
            f"{what} brings its own code, which was not run.",
            "Read that code first. If you trust it: text_trust_remote_code (encoder sbert) or gen_trust_remote_code "
            "(generator hf_local): true.",
        )
    if "AutoModelForCausalLM" in str(e):
        return UserError(f"{what} is no causal model: {_first_line(e)}", "Name a causal (chat) model.")
    return UserError(f"{what} cannot be loaded: {_first_line(e)}", "Check that the files are complete and undamaged.")


def _first_line(e: BaseException) -> str:
    lines = str(e).strip().splitlines()
    return f"{type(e).__name__}: {lines[0][:300] if lines else '(no message)'}"


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No bar of transformers for each file it loads; the house shows progress of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def model_device(option: str | None, key: str = "text_device") -> torch.device:
    """The device a model runs on: the option ``key``, else CUDA where there is one, else the CPU.

    Raises:
        UserError: no such device.
    """
    import torch

    try:
        found = torch.device(option or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UserError(f"There is no device '{option}'.", f"Set {key} to cpu, cuda or cuda:<number>.") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"The device '{found}' is not here.", f"This machine has {torch.cuda.device_count()} of them.")
    return found


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[np.ndarray]:
    """Positions of texts in batches of like length whose padded size stays within ``budget`` tokens (or one text).

    Small batches of equal length beat large ones on a CPU: no padding, and the activations stay in its cache.
    """
    order = np.argsort(np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop - start + 1) * lengths[order[stop]] <= budget:
            stop += 1
        yield order[start:stop]
        start = stop
