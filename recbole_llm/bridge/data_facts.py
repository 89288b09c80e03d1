"""What the manifest says of data and split, so that other data can be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_llm.evidence import run_folder


def data_facts(config: Any, dataset: Any, part: Any, valid: Any, test: Any) -> dict[str, Any]:
    """``data``, ``split`` and the rules of ranking.

    Args:
        part: the training dataset. valid, test: loaders, or ``None``.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    files = [f"{name}.{p}.inter" for p in config["benchmark_filename"] or []] or [f"{name}.inter"]
    split = getattr(part, "split", None)
    targets = [str(t) for t in dataset.field2id_token[dataset.iid_field]]
    digest = {}
    for label, data in (("valid", valid), ("test", test)):
        if data is None:
            continue
        items = data._dataset.inter_feat[dataset.iid_field].numpy()
        digest[label] = run_folder.tokens_sha256(
            [str(t) for t in dataset.field2id_token[dataset.uid_field][data._dataset.inter_feat[dataset.uid_field]]],
            [targets[i] for i in items],
        )
    return {
        "data": {
            "files": {f: run_folder.file_sha256(folder / f) for f in [*files, f"{name}.item"]},
            "users": dataset.user_num - 1,
            "items": dataset.item_num - 1,
            "train_rows": len(part),
            "valid_rows": 0 if valid is None else len(valid._dataset),
            "test_rows": 0 if test is None else len(test._dataset),
        },
        "split": {
            "split_by": config["split_by"],
            "eval_args": config.plain()["eval_args"],
            "report": {} if split is None else dict(split.report),
            "sha256": digest,
        },
        "ties": "a target ranks behind every equal score",
        "seen": "kept: items of the session compete; masked: they do not. Plain names mean mask_seen's mode.",
    }
