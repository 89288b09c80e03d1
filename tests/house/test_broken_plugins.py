"""Plugins that are broken: listed with the reason, registering nothing, fatal only when asked for by name."""

from __future__ import annotations

import pytest

from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse

ENCODER = """
@hookimpl
def register_encoders(register):
    register("my-encoder", Encoder)
"""


def only_installed() -> PluginHouse:
    return PluginHouse(bundled=False, disable=())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here' (bad.py, line 11)"),
        ("raise SystemExit(3)", "SystemExit: 3 (bad.py, line 11)"),
        ("import sys; sys.exit()", "SystemExit (bad.py, line 11)"),
        ("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x (bad.py, line 12)"),
        ("def (", "SyntaxError"),
        ("HOOK_API = 2", "HOOK_API 2; this recbole-llm has 1"),
        ("HOOK_API = '1'", "HOOK_API '1'"),
        ("HOOK_API = True", "HOOK_API True"),
        ("HOOK_API = 1.0", "HOOK_API 1.0"),
        ("del HOOK_API", "add `HOOK_API = 1`"),
        ("", "implements no hook"),
        (
            "@hookimpl\ndef register_encoder(register): pass",
            "there is no hook 'register_encoder'; did you mean 'register_encoders'?",
        ),
        ("@hookimpl\ndef on_epoch(run): pass", "there is no hook 'on_epoch'"),
        ("@hookimpl(specname='register_encodrs')\ndef f(register): pass", "did you mean 'register_encoders'?"),
        ("def register_encoders(register): pass", "'register_encoders' is not marked"),
        (
            ENCODER + "\ndef register_modles(register): pass",
            "not marked: write @recbole_llm.hookimpl above it; did you",
        ),
        ("@hookimpl\ndef register_encoders(reg): pass", "'reg'"),
        ("@hookimpl(wrapper=True)\ndef register_encoders(register):\n    yield", "hook wrapper"),
        ("@hookimpl\ndef register_encoders(register): register('x')", "TypeError"),
        ("@hookimpl\ndef register_encoders(register): register('x', Encoder())", "not a class but an Encoder"),
        ("@hookimpl\ndef register_encoders(register): register('x', np)", "not a class but a module"),
        ("@hookimpl\ndef register_encoders(register): register('x', dict)", "derive from recbole_llm.TextEncoder"),
        ("@hookimpl\ndef register_encoders(register): register('x', TextEncoder)", "implement encode, fingerprint()"),
        ("@hookimpl\ndef register_encoders(register): register('x', 'mod.Class')", "not 'package.module:Class'"),
        ("@hookimpl\ndef register_encoders(register): register('a b', Encoder)", "'a b', which is not a name"),
        ("@hookimpl\ndef register_encoders(register): register('../x', Encoder)", "not a name"),
        ("@hookimpl\ndef register_encoders(register): register('', Encoder)", "not a name"),
        ("@hookimpl\ndef register_encoders(register): register(None, Encoder)", "not a name"),
        ("@hookimpl\ndef register_models(register): register('my-model', 'm:M')", "a class name such as SemNISER"),
        ("@hookimpl\ndef register_models(register): register('M', dict)", "derive from recbole_llm.SessionEncoder"),
        ("@hookimpl\ndef register_datasets(register): register('d', Encoder)", "recbole_llm.Converter"),
        ("@hookimpl\ndef register_reducers(register): register('r', Encoder)", "recbole_llm.Reducer"),
        ("@hookimpl\ndef register_recipes(register): register('r', Encoder)", "recbole_llm.Recipe"),
        ("@hookimpl\ndef register_generators(register): register('g', Encoder)", "recbole_llm.TextGenerator"),
        ("@hookimpl\ndef register_metrics(register): register(Encoder)", "no `name`"),
        (
            "class M(Metric):\n    name = 'MyMetric'\n@hookimpl\ndef register_metrics(register): register(M)",
            "lower-case",
        ),
        ("class M(Metric):\n    name = 'm'\n@hookimpl\ndef register_metrics(register): register(M)", "compute()"),
        ("Encoder.Options = 3\n" + ENCODER, "Options that are not a dataclass"),
        (
            "import dataclasses\n@dataclasses.dataclass\nclass O:\n    api_key: str = ''\nEncoder.Options = O\n"
            + ENCODER,
            "'api_key_env'",
        ),
        ("@hookimpl\ndef register_config_dirs(register): register('yaml')", "Path(__file__).parent / 'yaml'"),
        ("@hookimpl\ndef register_config_dirs(register): register('/no/such/dir')", "/no/such/dir does not exist"),
        ("@hookimpl\ndef register_encoders(register): 1 / 0", "ZeroDivisionError: division by zero (bad.py, line 12)"),
        (ENCODER + "@hookimpl\ndef register_models(register): raise SystemExit('later')", "SystemExit: later"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason_and_registers_nothing(install, source, reason):
    install("bad", source)
    install("good", ENCODER.replace("my-encoder", "good-encoder"))
    house = only_installed()
    bad = house.plugins["bad"]
    assert bad.state == "broken"
    assert reason in bad.reason
    assert "\n" not in bad.reason
    assert [e.name for e in house.registry] == ["good-encoder"]
    assert house.config_dirs == []
    assert house.get("encoder", "good-encoder")


def test_a_broken_plugin_is_fatal_only_when_asked_for_by_a_name_it_registered(install):
    install("bad", ENCODER + "    raise OSError('no licence file')")
    house = only_installed()
    with pytest.raises(UserError) as e:
        house.get("encoder", "my-encoder")
    assert e.value.message == (
        "The encoder 'my-encoder' comes with the plugin bad (bad 1.0), which is broken: "
        "OSError: no licence file (bad.py, line 15)."
    )


def test_a_plugin_that_cannot_be_imported_is_named_when_an_unknown_name_is_asked_for(install):
    install("bad", "import no_such_module_here")
    with pytest.raises(UserError) as e:
        only_installed().get("encoder", "my-encoder")
    assert e.value.message == "There is no encoder named 'my-encoder'."
    assert "bad (bad 1.0) is broken: ModuleNotFoundError: No module named 'no_such_module_here'" in e.value.hint


def test_asking_by_the_plugins_own_name_names_that_plugin_alone(install):
    install("bad", "import no_such_module_here")
    install("worse", "raise SystemExit")
    with pytest.raises(UserError) as e:
        only_installed().get("encoder", "bad")
    assert "bad (bad 1.0)" in e.value.hint
    assert "worse" not in e.value.hint


def test_many_broken_plugins_stay_on_one_screen(install):
    for i in range(30):
        install(f"bad{i}", "raise ValueError('x' * 5000 + '\\n' * 50)")
    with pytest.raises(UserError) as e:
        only_installed().get("encoder", "any")
    assert len(e.value.hint.splitlines()) <= 12
    assert "and 22 more" in e.value.hint
    assert max(map(len, e.value.hint.splitlines())) < 500
