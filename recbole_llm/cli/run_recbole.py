"""``run_recbole --model=SemNISER --dataset=amazon-beauty``: RecBole's command, on recbole-llm's runner."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = """usage: run_recbole --model=NAME --dataset=NAME [--config_files="a.yaml b.yaml"] [--key=value ...]
       run_recbole --resume=RUN_FOLDER [--epochs=N]

Trains a model, selects the epoch on validation, tests by full ranking, and leaves a run folder under saved/.
Every key of RecBole and recbole-llm may be set; `recbole-llm config show --model=NAME --dataset=NAME` prints them
with their values and where each was set. `recbole-llm plugins` lists models, encoders, datasets and metrics."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Exit codes: 0 done, 2 the user can mend it, 1 a fault of ours."""
    from recbole_llm.cli.main import guard

    return guard(lambda: _run(sys.argv[1:] if argv is None else list(argv)))


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    from recbole_llm.bridge.layers import parse_command_line
    from recbole_llm.evidence.tables import result_table
    from recbole_llm.evidence.values import sampled_note
    from recbole_llm.runner import run

    given = parse_command_line(argv)
    model, dataset, files = (given.pop(k, None) for k in ("model", "dataset", "config_files"))
    done = run(model, dataset, files, command_line=given)
    print("\n".join([result_table([done]), *sampled_note(done.metrics, [done])]))
    print(f"\nrun folder: {done.folder}")
    return 0
