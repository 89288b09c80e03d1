"""The last fit: the best settings trained once a seed, on everything but the test part, and tested."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from recbole_llm.evidence.run_folder import MANIFEST, read_json
from recbole_llm.tuning.report import best_settings, final_settings
from recbole_llm.tuning.study import Drawn, Plan
from recbole_llm.tuning.trial import QUIET


def last_fits(
    plan: Plan,
    top: Drawn,
    seeds: Sequence[int],
    run: Callable[..., Any],
    load: Callable[..., Any],
    say: Callable[[str], None],
) -> list[Any]:
    """The runs, beside the study folder. Finished ones are read back, interrupted ones resumed.

    Args:
        run, load: :func:`recbole_llm.run` and :func:`recbole_llm.load`.
    """
    settings = {**best_settings(plan, top), **final_settings(plan, top)}
    model, dataset = settings.pop("model"), settings.pop("dataset")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    done = []
    for seed in seeds:
        folder = plan.folder.parent / f"{plan.folder.name}-final-{digest}-seed{seed}"
        status = read_json(folder / MANIFEST).get("status") if (folder / MANIFEST).is_file() else None
        what = {None: "run", "finished": "already done"}.get(status, "resume")
        say(f"last fit, seed {seed}: {what}")
        if status == "finished":
            done.append(load(folder))
        elif status is None:
            own = {
                **QUIET,
                "state": "WARNING",
                **settings,
                "seed": seed,
                "run_name": folder.name,
                "checkpoint_dir": str(folder.parent),
            }
            done.append(run(model, dataset, None, own))
        else:
            done.append(run(config_dict={"resume": str(folder)}))
    return done
