"""Plugins that are whole, broken, misspelt, blocked, contested; each from a distribution on disk."""

from __future__ import annotations

import logging
import types

import pytest

from recbole_llm import hookimpl
from recbole_llm.errors import UserError
from recbole_llm.plugin_checks import HOOKS
from recbole_llm.plugins import NAMED_HOOKS, Plugin, PluginHouse
from recbole_llm.registry import KINDS

ENCODER = """
@hookimpl
def register_encoders(register):
    register("my-encoder", Encoder)
"""


def only_installed(**kw) -> PluginHouse:
    return PluginHouse(bundled=False, disable=kw.pop("disable", ()), **kw)


def the_plugin(house: PluginHouse, name: str) -> Plugin:
    return house.plugins[name]


def test_an_installed_plugin_registers_with_its_owner(install):
    install("my-signals", ENCODER, version="2.5")
    house = only_installed()
    entry = house.entry("encoder", "my-encoder")
    assert entry.owner == "my-signals (my-signals 2.5)"
    assert house.get("encoder", "my-encoder").__name__ == "Encoder"
    assert the_plugin(house, "my-signals").state == "ok"


def test_an_interrupt_while_loading_is_not_swallowed(install):
    install("slow-one", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        only_installed()


def test_a_bundled_name_cannot_be_taken(install, bundled):
    bundled(minilm=ENCODER.replace("my-encoder", "minilm"))
    install("aaa", ENCODER.replace("my-encoder", "MiniLM"))
    house = PluginHouse(disable=())
    assert house.entry("encoder", "minilm").plugin == "minilm"
    assert the_plugin(house, "aaa").state == "broken"
    reason = the_plugin(house, "aaa").reason
    assert "minilm (recbole-llm" in reason and "aaa (aaa 1.0)" in reason


@pytest.mark.parametrize("name", ["SASRec", "sasrec", "Pop"])
def test_a_name_of_recbole_cannot_be_taken(install, name):
    install("taker", f"@hookimpl\ndef register_models(register): register({name!r}, 'm:M')")
    reason = the_plugin(only_installed(), "taker").reason
    assert reason == f"taker (taker 1.0) registers the model '{name}', a name of RecBole's own"


def test_two_plugins_with_one_name_are_refused_naming_both_and_the_name_is_nobodys(install):
    install("first", ENCODER)
    install("second", ENCODER + "    register('second-encoder', Encoder)")
    house = only_installed()
    assert the_plugin(house, "second").state == "broken"
    for part in ("first (first 1.0)", "second (second 1.0)", "'my-encoder'"):
        assert part in the_plugin(house, "second").reason
    with pytest.raises(UserError) as e:
        house.get("encoder", "my-encoder")
    assert "first (first 1.0)" in e.value.message and "second (second 1.0)" in e.value.message
    with pytest.raises(UserError):
        house.get("encoder", "second-encoder")
    for blocked, left in (("first", "second"), ("second", "first")):
        assert only_installed(disable=[blocked]).entry("encoder", "my-encoder").plugin == left


def test_the_outcome_does_not_depend_on_the_order_on_the_path(install):
    install("zeta", ENCODER)
    install("alpha", ENCODER)
    states = {n: p.state for n, p in only_installed().plugins.items()}
    assert states == {"alpha": "ok", "zeta": "broken"}


def test_two_plugins_of_the_same_plugin_name(install):
    install("dist-a", ENCODER, entry="signals")
    install("dist-b", ENCODER.replace("my-encoder", "other"), entry="signals")
    house = only_installed()
    assert the_plugin(house, "signals").distribution == "dist-a 1.0"
    second = the_plugin(house, "signals [dist-b 1.0]")
    assert second.state == "broken" and "dist-a 1.0 and of dist-b 1.0" in second.reason
    freed = only_installed(disable=["dist-a"])
    assert freed.entry("encoder", "other").distribution == "dist-b 1.0"


def test_one_module_behind_two_entry_points(install):
    info = install("twins", ENCODER, entry="one")
    (info / "entry_points.txt").write_text("[recbole_llm]\none = twins\ntwo = twins\n")
    house = only_installed()
    assert the_plugin(house, "one").state == "ok"
    assert the_plugin(house, "two").reason == "it is the same module as the plugin 'one'"


def test_a_plugin_may_be_an_object(install):
    source = """
        class Hooks:
            HOOK_API = 1
            @hookimpl
            def register_encoders(self, register):
                register("obj", Encoder)
        plugin = Hooks()
    """
    install("thing", source, attribute=":plugin")
    assert only_installed().registry.has("encoder", "obj")


def test_hooks_may_leave_out_their_argument_and_use_specname(install):
    install("short", "@hookimpl\ndef register_models(): pass\n"
                     "@hookimpl(specname='register_encoders')\ndef mine(register): register('e', Encoder)")  # fmt: skip
    house = only_installed()
    assert the_plugin(house, "short").state == "ok"
    assert house.registry.has("encoder", "e")


@pytest.mark.parametrize("name", ["my-signals", "my_signals", " My.Signals ", "my-plugin"])
def test_blocking_an_installed_plugin_by_its_name_or_distribution(install, monkeypatch, name):
    install("my-signals", "raise AssertionError('a blocked plugin was imported')", entry="my-plugin")
    monkeypatch.setenv("RECBOLE_LLM_DISABLE", f"other,{name},")
    house = PluginHouse(bundled=False)
    plugin = the_plugin(house, "my-plugin")
    assert (plugin.state, plugin.reason) == ("blocked", "by RECBOLE_LLM_DISABLE")
    assert house.idle == {"other"}
    with pytest.raises(UserError, match="blocked: by RECBOLE_LLM_DISABLE"):
        house.get("encoder", "my-encoder")


def test_blocking_a_bundled_plugin(monkeypatch, bundled):
    bundled(one=ENCODER, two=ENCODER.replace("my-encoder", "second"))
    monkeypatch.setenv("RECBOLE_LLM_DISABLE", "one")
    house = PluginHouse(installed=False)
    assert [e.name for e in house.registry] == ["second"]
    assert house.plugins["one"].state == "blocked"


def test_bundled_modules_are_scanned_and_private_ones_are_not(bundled):
    bundled(one=ENCODER, _shared="raise AssertionError")
    house = PluginHouse(installed=False, disable=())
    assert list(house.plugins) == ["one"]
    assert house.plugins["one"].distribution.startswith("recbole-llm ")


def test_a_broken_bundled_module_leaves_the_others(bundled):
    bundled(bad="import no_such_module_here", good=ENCODER)
    house = PluginHouse(installed=False, disable=())
    assert house.plugins["bad"].state == "broken"
    assert house.registry.has("encoder", "my-encoder")


def test_a_damaged_distribution_hides_nobody(install):
    install("good", ENCODER)
    nameless = install("nameless", ENCODER.replace("my-encoder", "x"))
    (nameless / "METADATA").write_text("Metadata-Version: 2.1\n")
    garbled = install("garbled", ENCODER.replace("my-encoder", "y"))
    (garbled / "entry_points.txt").write_text("[recbole_llm]\ngarbled = not a reference!\n")
    unrelated = install("unrelated", "")
    (unrelated / "METADATA").write_bytes(b"\xff\xfe")
    (unrelated / "entry_points.txt").write_bytes(b"\xff\xfe")
    house = only_installed()
    assert house.registry.names("encoder") == ["my-encoder"]
    states = {n: p.state for n, p in house.plugins.items()}
    assert states.pop("good") == "ok"
    assert set(states.values()) == {"broken"}
    assert {"garbled", "nameless-1.0.dist-info"} <= set(states)


def test_what_a_plugin_prints_while_loading_does_not_reach_stdout(install, capsys):
    install("chatty", "print('hello')\n" + ENCODER + "    print('again')")
    only_installed()
    out = capsys.readouterr()
    assert out.out == "" and "hello" in out.err and "again" in out.err


def test_a_lazy_target_is_checked_when_asked_for(install):
    install("lazy", """
        class NotOne: pass
        @hookimpl
        def register_encoders(register):
            register("fine", "lazy:Encoder")
            register("wrong-kind", "lazy:NotOne")
            register("no-module", "no_such_module_here:Thing")
            register("no-class", "lazy:Missing")
    """)  # fmt: skip
    house = only_installed()
    assert house.plugins["lazy"].state == "ok"
    assert house.get("encoder", "fine").__name__ == "Encoder"
    for name, said in (
        ("wrong-kind", "does not derive from recbole_llm.TextEncoder"),
        ("no-module", "No module named 'no_such_module_here'"),
        ("no-class", "has no attribute 'Missing'"),
    ):
        with pytest.raises(UserError, match=said) as e:
            house.get("encoder", name)
        assert "lazy (lazy 1.0)" in e.value.message


def test_run_finished_faults_are_warnings_and_every_plugin_is_told(install, caplog):
    install("a-bad", "@hookimpl\ndef run_finished(run): raise ConnectionError('no tracker')")
    install("b-exits", "@hookimpl\ndef run_finished(run): raise SystemExit(1)")
    install("c-good", "@hookimpl\ndef run_finished(run): run.append('c')")
    install("d-none", "@hookimpl\ndef run_finished(): pass")
    house, told = only_installed(), []
    with caplog.at_level(logging.WARNING):
        warnings = house.finished(told)
    assert told == ["c"]
    assert [w.split(" failed")[0] for w in sorted(warnings)] == ["The plugin a-bad", "The plugin b-exits"]
    assert "no tracker" in caplog.text


def test_config_directories_keep_their_owner(install, tmp_path):
    tree = tmp_path / "tree"
    (tree / "model").mkdir(parents=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    install("good", f"@hookimpl\ndef register_config_dirs(register): register({str(tree)!r})")
    install("hollow", f"@hookimpl\ndef register_config_dirs(register): register({str(empty)!r})")
    house = only_installed()
    assert house.config_dirs == [(tree, "good")]
    assert "holds none of overall.yaml, model" in house.plugins["hollow"].reason


def test_every_hook_is_collected_or_called():
    """A hook added to the specs and forgotten in the house would never fire."""
    assert set(NAMED_HOOKS) | {"register_metrics", "register_config_dirs", "run_finished"} == HOOKS
    assert set(NAMED_HOOKS.values()) | {"metric", "config_dir"} == set(KINDS)


def test_add_takes_a_module_made_by_hand():
    module = types.ModuleType("by_hand")
    module.HOOK_API = 1  # type: ignore[attr-defined]

    @hookimpl
    def register_models(register):
        register("Handmade", "some.where:Handmade")

    module.register_models = register_models  # type: ignore[attr-defined]
    house = PluginHouse(bundled=False, installed=False, disable=())
    house.add(Plugin("by-hand", "test 0"), module)
    assert house.registry.names("model") == ["Handmade"]
