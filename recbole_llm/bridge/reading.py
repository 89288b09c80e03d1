"""Atomic files RecBole cannot read, or would read otherwise than they are written: told by file, line and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.datasets import validate
from recbole_llm.datasets.atomic import read_header
from recbole_llm.datasets.findings import ERROR
from recbole_llm.errors import UserError, nearest


def check_columns(config: Any) -> None:
    """The interactions have the columns of users and items.

    Raises:
        UserError: a file lacks one; the nearest of its columns is named.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    for part in config["benchmark_filename"] or [None]:
        path = folder / (f"{name}.{part}.inter" if part else f"{name}.inter")
        if not path.is_file():
            continue  # RecBole says so
        columns = list(read_header(path))
        loaded = (config["load_col"] or {}).get("inter") or columns
        for key in ("USER_ID_FIELD", "ITEM_ID_FIELD"):
            field = config[key]
            if field not in columns:
                close = nearest(str(field), columns, 1)
                raise UserError(
                    f"{path} has no column '{field}' ({key}); it has {', '.join(columns)}.",
                    f"Rename the column, or set {key}{f' ({close[0]}?)' if close else ''} and load_col.",
                )
            if field not in loaded:
                raise UserError(f"load_col.inter leaves out '{field}' ({key}).", f"It names {', '.join(loaded)}.")


def check_times(dataset: Any) -> None:
    """Every interaction has a time. RecBole gives those without one the mean time, and so an arbitrary place.

    Raises:
        UserError: some have none, or an infinite one.
    """
    for field in dataset.time_fields():
        times = dataset.inter_feat[field].to_numpy(np.float64)
        bad = int((~np.isfinite(times)).sum())
        if bad:
            fault = f"{bad:,} interactions of {dataset.config['dataset']} have no finite '{field}'"
            raise broken(dataset.config, fault)


def broken(config: Any, fault: str) -> UserError:
    """The error for files RecBole cannot read: the first thing :mod:`recbole_llm.datasets.validate` finds in them
    beside RecBole's own words."""
    name = config["dataset"]
    try:
        report = validate.validate(Path(config["data_path"]), name)
        first = next((f for f in report.findings if f.level == ERROR), None)
    except (UserError, OSError):
        first = None
    fault = fault.rstrip(".")
    if first is None:
        return UserError(f"{fault}.", f"`recbole-llm validate {name}` looks at every line; check filters and load_col.")
    return UserError(
        f"{fault}.\n{str(first).removeprefix('error: ')}", f"`recbole-llm validate {name}` lists all that is wrong."
    )
