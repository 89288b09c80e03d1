"""``recbole-llm COMMAND …``: finds the command, runs it, and turns what goes wrong into an exit code.

A command is a module of this package with ``NAME``, ``HELP``, ``add_arguments(parser)`` and
``main(args) -> int | None``. Names and help lines are read from the source, so that only the module of the
command that was called is imported. A command that takes RecBole-style ``--key=value`` arguments besides its own
says ``KEYS = True`` and finds them, unparsed, in ``args.keys``.
"""

from __future__ import annotations

import argparse
import ast
import errno
import importlib
import importlib.util
import io
import os
import pkgutil
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import recbole_llm
from recbole_llm import cli
from recbole_llm.errors import UserError, nearest, out_of_memory

#: Lines of a message shown at the terminal; a hint is always shown whole.
SCREEN = 20

LESS_MEMORY = (
    "Lower train_batch_size, eval_batch_size, MAX_ITEM_LIST_LENGTH or embedding_size; accumulate_steps reads a batch "
    "in parts, and a language model takes gradient_checkpointing and lm_dtype: bf16; "
    "with a GPU, other programs may hold its memory."
)
#: Operating-system errors that the user, not we, can mend.
MENDABLE = {
    errno.ENOSPC: "Free some space, or set RECBOLE_LLM_HOME to a folder on another disk.",
    errno.EDQUOT: "Your disk quota is used up: free some space, or set RECBOLE_LLM_HOME to another disk.",
    errno.EFBIG: "The file is larger than this system or your limits allow (`ulimit -f`).",
    errno.ENOTDIR: "A file stands where a folder should be: remove it, or set RECBOLE_LLM_HOME to another folder.",
    errno.EISDIR: "A folder stands where a file should be: remove it, or set RECBOLE_LLM_HOME to another folder.",
    errno.EROFS: "The folder is read-only: set RECBOLE_LLM_HOME to a folder you may write to.",
    errno.EACCES: "Check the permissions of that path, or set RECBOLE_LLM_HOME to a folder you may write to.",
    errno.EPERM: "Check the permissions of that path, or set RECBOLE_LLM_HOME to a folder you may write to.",
}


@dataclass(frozen=True)
class Command:
    """A command's name, its help line, and the module that holds it."""

    name: str
    help: str
    module: str


def commands() -> dict[str, Command]:
    """Every command by name, read from the sources of ``recbole_llm.cli`` without importing them."""
    found = {}
    for info in pkgutil.iter_modules(cli.__path__):
        command = _read(f"{cli.__name__}.{info.name}")
        if command is not None:
            found[command.name] = command
    return dict(sorted(found.items()))


def _read(module: str) -> Command | None:
    """The command in ``module``, or ``None`` where the module says no ``NAME``."""
    spec = importlib.util.find_spec(module)
    get_source = getattr(spec.loader, "get_source", None) if spec else None
    source = get_source(module) if get_source else None
    if not source:
        return None
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    said: dict[str, str] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and target.id in ("NAME", "HELP") and isinstance(value, ast.expr):
                try:
                    said[target.id] = str(ast.literal_eval(value))
                except ValueError:
                    continue
    return Command(said["NAME"], said.get("HELP", ""), module) if "NAME" in said else None


def usage() -> str:
    """What ``recbole-llm --help`` prints."""
    known = commands()
    width = max(map(len, known), default=0)
    lines = ["usage: recbole-llm COMMAND [options]", "", "Commands:"]
    lines += [f"  {c.name:<{width}}  {c.help}".rstrip() for c in known.values()]
    lines += [
        "",
        "`recbole-llm COMMAND --help` explains one. Training is `run_recbole --model=… --dataset=…`.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: returns the exit code (0 done, 2 the user can mend it, 1 a fault of ours)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guard(lambda: _dispatch(arguments))


def _dispatch(arguments: list[str]) -> int | None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name in ("-V", "--version", "version"):
        print(f"recbole-llm {recbole_llm.__version__}")
        return 0
    # The usual spelling is tried first, so that one source is read and not twenty.
    module = f"{cli.__name__}.{name.replace('-', '_')}"
    guess = _read(module) if name.replace("-", "_").isidentifier() and importlib.util.find_spec(module) else None
    command = guess if guess is not None and guess.name == name else commands().get(name)
    if command is None:
        known = list(commands())
        close = nearest(name, known)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Commands: {', '.join(known)}."
        raise UserError(f"There is no command 'recbole-llm {name}'.", hint)
    return _run(importlib.import_module(command.module), command, rest)


def _run(module: ModuleType, command: Command, rest: list[str]) -> int | None:
    parser = argparse.ArgumentParser(
        prog=f"recbole-llm {command.name}",
        description=command.help,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    args, keys = parser.parse_known_args(rest)
    if getattr(module, "KEYS", False):
        args.keys = keys
    elif keys:
        options = [o for action in parser._actions for o in action.option_strings]
        close = nearest(keys[0].partition("=")[0], options, 1)
        hint = f"Did you mean {close[0]}?" if close else f"`{parser.prog} --help` lists what it takes."
        raise UserError(f"'{parser.prog}' does not take {keys[0]!r}.", hint)
    return module.main(args)


def guard(command: Callable[[], int | None]) -> int:
    """Runs ``command`` and returns the exit code of the process; every console script goes through here.

    :class:`UserError`, and the operating-system errors a user can mend, become a one-screen message without
    traceback (2). An interrupt is 130, a reader that closed our output (``… | head``) 141, both quiet. Anything
    else is our fault: traceback and 1. ``$RECBOLE_LLM_TRACEBACK`` shows the traceback of user errors too.
    """
    # A terminal that cannot show a character of an item's title must not end a run.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        code = command()
        sys.stdout.flush()
        return 0 if code is None else int(code)
    except UserError as e:
        return _mendable(e.message, e.hint)
    except KeyboardInterrupt:
        _say("\nInterrupted.")
        return 130
    except BrokenPipeError as e:
        return _reader_left() or _our_fault(e)
    except OSError as e:
        if e.errno in MENDABLE:
            where = f"{e.filename}: " if e.filename else ""
            return _mendable(f"{where}{e.strerror}.", MENDABLE[e.errno])
        return _our_fault(e)
    except Exception as e:
        if out_of_memory(e):
            return _mendable(f"There is not enough memory: {str(e).splitlines()[0] if str(e) else e!r}", LESS_MEMORY)
        return _our_fault(e)


def _mendable(message: str, hint: str | None) -> int:
    if os.environ.get("RECBOLE_LLM_TRACEBACK"):
        traceback.print_exc()
    lines = message.splitlines() or [""]
    if len(lines) > SCREEN:
        lines = [*lines[:SCREEN], f"… ({len(lines) - SCREEN} more lines)"]
    _say("Error: " + "\n".join(lines) + (f"\n  {hint}" if hint else ""))
    return 2


def _our_fault(error: BaseException) -> int:
    traceback.print_exception(type(error), error, error.__traceback__)
    _say(
        f"\nThis is a fault of recbole-llm {recbole_llm.__version__}, not of yours. "
        "Please report it with the lines above and the output of `recbole-llm doctor`."
    )
    return 1


def _reader_left() -> int:
    """141 if it is our own standard output that nobody reads any more, else 0 (some other pipe broke)."""
    try:
        output = sys.stdout.fileno()
        poll = select.poll()
        poll.register(output, 0)
        if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            return 0
    except (AttributeError, OSError, ValueError):  # no such call on this system, or no real file behind stdout
        return 0
    # What is still buffered would raise once more while the interpreter shuts down.
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return 141


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
