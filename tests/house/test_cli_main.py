"""Commands, exit codes, and what stands on the screen when something goes wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import recbole_llm
from recbole_llm import cli
from recbole_llm.cli import main as cli_main
from recbole_llm.cli.main import commands, guard, main
from recbole_llm.errors import MissingExtra, UserError


@pytest.fixture
def command(tmp_path, monkeypatch):
    """``command(source)`` adds a module with commands to ``recbole_llm.cli``."""
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])

    def write(source, name="stand_in"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))

    yield write
    sys.modules.pop("recbole_llm.cli.stand_in", None)


def test_every_command_says_what_it_does_and_how_it_is_called(capsys):
    found = commands()
    assert "plugins" in found
    for c in found.values():
        assert c.help, f"{c.module} has no literal HELP"
        with pytest.raises(SystemExit) as e:
            main([c.name, "--help"])
        assert e.value.code == 0
        assert f"usage: recbole-llm {c.name}" in capsys.readouterr().out
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}  " in out for name in found)


def test_every_module_that_takes_arguments_is_a_command():
    """One without a literal NAME would silently not exist."""
    meant = {p.stem for p in Path(cli.__path__[0]).glob("*.py") if "\ndef add_arguments(" in p.read_text()}
    assert {c.module.rpartition(".")[2] for c in commands().values()} == meant


def test_no_command_and_version(capsys):
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"recbole-llm {recbole_llm.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["plugns"], "There is no command 'recbole-llm plugns'.\n  Did you mean plugins"),
        (["PLUGINS"], "Did you mean plugins"),
        (["main"], "There is no command 'recbole-llm main'."),
        (["../x"], "There is no command 'recbole-llm ../x'."),
        (["plugins_cmd"], "There is no command 'recbole-llm plugins_cmd'."),
        (["plugins", "--jsn"], "'recbole-llm plugins' does not take '--jsn'.\n  Did you mean --json?"),
        (["plugins", "--js"], "does not take '--js'"),
        (["plugins", "extra"], "does not take 'extra'.\n  `recbole-llm plugins --help`"),
    ],
)
def test_misspelt_commands_and_options(capsys, argv, said):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_only_the_called_command_is_imported(command, monkeypatch):
    command("NAME = 'never'\nHELP = 'x'\nraise AssertionError('imported')")
    assert "never" in commands()
    assert main(["plugins", "--json"]) == 0
    assert "recbole_llm.cli.stand_in" not in sys.modules


def test_keys_are_passed_on_where_a_command_takes_them(command, capsys):
    command("""
        NAME = "stand-in"
        HELP = "x"
        KEYS = True
        def add_arguments(parser):
            parser.add_argument("--own")
        def main(args):
            print(args.own, args.keys)
    """)
    assert main(["stand-in", "--own=1", "--text_encoder=minilm", "--epochs=3"]) == 0
    assert capsys.readouterr().out == "1 ['--text_encoder=minilm', '--epochs=3']\n"


def raising(error):
    def run():
        raise error

    return run


def test_exit_codes():
    assert guard(lambda: None) == 0
    assert guard(lambda: 7) == 7
    assert guard(raising(UserError("m"))) == 2
    assert guard(raising(KeyboardInterrupt())) == 130
    assert guard(raising(ValueError())) == 1
    with pytest.raises(SystemExit):
        guard(raising(SystemExit(3)))


def test_a_user_error_is_one_screen_without_traceback(capsys):
    guard(raising(UserError("\n".join(f"line {i}" for i in range(500)), "do this")))
    err = capsys.readouterr().err
    assert len(err.splitlines()) <= 24
    assert "(480 more lines)" in err and err.endswith("\n  do this\n")
    guard(raising(MissingExtra("The encoder 'sbert'", "encoders")))
    assert capsys.readouterr().err == (
        "Error: The encoder 'sbert' needs packages that are not installed.\n"
        "  Run: pip install 'recbole-llm[encoders]'\n"
    )


def test_the_traceback_of_a_user_error_on_request(capsys, monkeypatch):
    monkeypatch.setenv("RECBOLE_LLM_TRACEBACK", "1")
    assert guard(raising(UserError("m"))) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_ours_shows_the_traceback_and_says_so(capsys):
    guard(raising(ZeroDivisionError("inside")))
    err = capsys.readouterr().err
    assert "Traceback" in err and "ZeroDivisionError: inside" in err
    assert "This is a fault of recbole-llm" in err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_disks_and_permissions_are_the_users_to_mend(capsys, code):
    assert guard(raising(OSError(code, os.strerror(code), "/some/where/x.npy"))) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"Error: /some/where/x.npy: {os.strerror(code)}.") and "Traceback" not in err
    assert guard(raising(OSError(errno.EBADF, "bad"))) == 1


def test_a_broken_pipe_that_is_not_our_output_is_a_fault(capsys):
    assert guard(raising(BrokenPipeError(errno.EPIPE, "a socket"))) == 1
    assert "a socket" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_quiet():
    code = (
        "import sys; from recbole_llm.cli.main import guard\n"
        "def run():\n    for i in range(200000): print(i)\n"
        "sys.exit(guard(run))"
    )
    p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout is not None and p.stderr is not None
    p.stdout.readline()
    p.stdout.close()
    assert p.stderr.read() == b""
    assert p.wait() == 141


def test_a_terminal_that_cannot_encode_a_character():
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    code = (
        "import sys; from recbole_llm.cli.main import guard; from recbole_llm.errors import UserError\n"
        "def run():\n    print('Café ≤ 名')\n    raise UserError('名')\n"
        "sys.exit(guard(run))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "Caf? ? ?\n")
    assert done.stderr == "Error: \\u540d\n"


def test_the_module_reads_names_from_source_only(command):
    command("NAME = 'odd' + 'name'\nHELP = 'x'")
    assert "oddname" not in commands()
    command("def (:")
    commands()
    assert cli_main._read("recbole_llm.cli.no_such") is None
