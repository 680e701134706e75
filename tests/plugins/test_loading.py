"""The ways in which a plugin can be broken, and that each costs that plugin only."""

from __future__ import annotations

import itertools
import re
from textwrap import dedent
from types import ModuleType

import pytest

from bwlab import hookimpl
from bwlab.errors import BwlabError
from bwlab.plugins.discovery import Candidate, load_all
from bwlab.plugins.manager import PluginManager, PluginRecord, build_manager
from tests.plugins.conftest import FakePackages

ADAPTER = """
    from bwlab import hookimpl
    from bwlab.adapters.types import AdapterType

    @hookimpl
    def bwlab_register_adapters():
        return [AdapterType("{name}", "made up", ("a.weight",), False, lambda: None, lambda path, kind: True)]
"""


IMPLEMENTS = """
    from bwlab import hookimpl

    @hookimpl
    def zoo_register_animals(place):
        return [f"ant of {place}"]
"""


def declares(*hooks: str) -> str:
    """Return the source of a plugin that declares `hooks`, each with the argument `place`."""
    specs = "".join(f"    @hookspec\n    def {hook}(self, place):\n        pass\n" for hook in hooks)
    return (
        "from bwlab import hookimpl\nfrom bwlab.plugins.hookspecs import hookspec\n"
        f"class Specs:\n{specs}"
        "@hookimpl\ndef bwlab_declare_hooks(manager):\n    manager.add_hookspecs(Specs)\n"
    )


def implements(**hooks: str) -> str:
    """Return the source of a plugin with one function for each `hook=argument`."""
    functions = "".join(f"@hookimpl\ndef {hook}({argument}):\n    return []\n" for hook, argument in hooks.items())
    return f"from bwlab import hookimpl\n{functions}"


def record_of(manager: PluginManager, name: str, distribution: str | None = None) -> PluginRecord:
    """Return the one record of that name (and distribution)."""
    (record,) = [one for one in manager.records if one.name == name and distribution in (None, one.distribution)]
    return record


def implemented_by(manager: PluginManager, name: str) -> list[str]:
    """Return the hooks that a plugin of this name has an implementation in, whatever the records say."""
    callers = [caller for hook, caller in vars(manager.hook).items() if not hook.startswith("_")]
    return [caller.name for caller in callers for one in caller.get_hookimpls() if one.plugin_name == name]


def test_built_in_plugins_come_through_entry_points() -> None:
    manager = build_manager()
    assert {"lora", "locon", "ortho", "builtin", "analysis"} <= {record.name for record in manager.loaded}
    assert {"lora", "locon"} <= set(manager.adapter_types())
    assert record_of(manager, "lora").distribution == "bwlab"
    assert manager.failed == []


def test_without_installed_plugins_there_is_nothing() -> None:
    manager = build_manager(installed=False)
    assert manager.records == []
    assert manager.adapter_types() == {}


def test_a_foreign_adapter_type_loads(packages: FakePackages) -> None:
    packages.install("bwlab-glow", "1.2", {"glow": ADAPTER.format(name="glow")})
    manager = build_manager()
    assert manager.adapter_type("glow").summary == "made up"
    assert record_of(manager, "glow").source == "bwlab-glow 1.2"


def test_each_manager_is_fresh(packages: FakePackages) -> None:
    packages.install("bwlab-glow", "1.2", {"glow": ADAPTER.format(name="glow")})
    first = build_manager()
    second = build_manager(disabled=["glow"])
    assert "glow" in first.adapter_types()
    assert "glow" not in second.adapter_types()
    assert record_of(second, "glow").state == "disabled"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        ("x = 1", "no function marked @bwlab.hookimpl"),
    ],
    ids=["import", "raise", "exit", "syntax", "no hooks"],
)
def test_a_plugin_that_fails_at_import_costs_only_itself(packages: FakePackages, source: str, error: str) -> None:
    packages.install("bwlab-bad", "0.3", {"bad": source})
    packages.install("bwlab-good", "1.0", {"good": ADAPTER.format(name="good")})
    manager = build_manager()
    failed = record_of(manager, "bad")
    assert (failed.state, failed.source) == ("failed", "bwlab-bad 0.3")
    assert error in failed.error
    assert failed.cause is not None
    assert {"good", "lora", "locon"} <= set(manager.adapter_types())


def test_a_wrong_argument_leaves_nothing_registered(packages: FakePackages) -> None:
    packages.install(
        "bwlab-bad", "0.3", {"bad": implements(bwlab_run_started="run", bwlab_step_finished="no_such_argument")}
    )
    manager = build_manager()
    failed = record_of(manager, "bad")
    assert failed.state == "failed"
    assert "no_such_argument" in failed.error
    assert "bwlab_step_finished" in failed.error
    assert implemented_by(manager, "bad") == []
    assert manager.hook.bwlab_run_started(run=None) == []


def test_a_wrong_argument_of_a_foreign_hook_leaves_nothing_registered(packages: FakePackages) -> None:
    """The right hook comes first: pluggy <= 1.6 would leave it registered when the wrong one raises."""
    packages.install("bwlab-zoo", "1.0", {"zoo": declares("zoo_a", "zoo_b")})
    packages.install("bwlab-bad", "0.3", {"bad": implements(zoo_a="place", zoo_b="wrong")})
    manager = build_manager()
    assert "wrong" in record_of(manager, "bad").error
    assert implemented_by(manager, "bad") == []


def test_an_unknown_hook_is_refused_with_the_nearest_name(packages: FakePackages) -> None:
    packages.install("bwlab-typo", "0.4", {"typo": implements(bwlab_register_adapter="")})
    manager = build_manager()
    assert record_of(manager, "typo").error == (
        "TypeError: unknown hook bwlab_register_adapter, did you mean bwlab_register_adapters?"
    )
    assert implemented_by(manager, "typo") == []
    manager.pluggy.check_pending()


def test_an_optional_hook_may_be_unknown(packages: FakePackages) -> None:
    source = implements(of_an_absent_package="").replace("@hookimpl", "@hookimpl(optionalhook=True)")
    packages.install("bwlab-glow", "1.2", {"glow": source})
    assert record_of(build_manager(), "glow").state == "loaded"


@pytest.mark.parametrize(
    ("returned", "error"),
    [("[1]", "a list with int, not AdapterType"), ("'lora'", "returned str, not a list"), ("1 / 0", "division")],
)
def test_a_wrong_return_costs_only_that_plugin(packages: FakePackages, returned: str, error: str) -> None:
    source = f"from bwlab import hookimpl\n@hookimpl\ndef bwlab_register_adapters():\n    return {returned}\n"
    packages.install("bwlab-bad", "0.3", {"bad": source})
    manager = build_manager()
    assert error in record_of(manager, "bad").error
    assert implemented_by(manager, "bad") == []
    assert "lora" in manager.adapter_types()


def test_of_two_distributions_with_one_name_the_first_by_name_is_loaded(packages: FakePackages) -> None:
    packages.install("bwlab-two", "2.0", {"glow": ADAPTER.format(name="glow-two")})
    packages.install("bwlab-one", "1.0", {"glow": ADAPTER.format(name="glow-one")})
    manager = build_manager()
    assert record_of(manager, "glow", "bwlab-one").state == "loaded"
    failed = record_of(manager, "glow", "bwlab-two")
    assert failed.state == "failed"
    assert "'glow' is taken by the plugin of bwlab-one 1.0" in failed.error
    assert {"glow-one", "glow-two"} & set(manager.adapter_types()) == {"glow-one"}


def test_an_adapter_type_registered_twice_is_that_of_the_first_plugin(packages: FakePackages) -> None:
    packages.install("bwlab-one", "1.0", {"one": ADAPTER.format(name="glow")})
    packages.install("bwlab-two", "2.0", {"two": ADAPTER.format(name="glow")})
    manager = build_manager()
    assert [given.name for given in record_of(manager, "one").registrations] == ["glow"]
    assert record_of(manager, "two").registrations == ()
    assert {"lora", "glow"} <= manager.adapter_types().keys()
    (clash,) = manager.clashes
    assert re.search(r"'glow' of plugin two of bwlab-two 2\.0: .* by plugin one of bwlab-one 1\.0", str(clash))


def test_an_adapter_type_registered_twice_by_one_plugin_is_a_clash(packages: FakePackages) -> None:
    source = ADAPTER.format(name="glow").replace("True)]", "True)] * 2")
    packages.install("bwlab-one", "1.0", {"one": source})
    assert len(build_manager().clashes) == 1


def test_an_unknown_adapter_type_lists_the_known(packages: FakePackages) -> None:
    packages.install("bwlab-bad", "0.3", {"bad": "import no_such_module_anywhere"})
    with pytest.raises(BwlabError, match=r"'rola'.*not loaded: bad.*locon, .*lora"):
        build_manager().adapter_type("rola")


def test_a_package_declares_hooks_for_others(packages: FakePackages) -> None:
    """The implementing plugin sorts first, and must still be checked against the declared hook."""
    packages.install("bwlab-zoo", "1.0", {"zoo": declares("zoo_register_animals")})
    packages.install("bwlab-ant", "1.0", {"ant": IMPLEMENTS})
    packages.install("bwlab-bee", "1.0", {"bee": IMPLEMENTS.replace("place", "wrong")})
    manager = build_manager()
    assert record_of(manager, "ant").hooks == ("zoo_register_animals",)
    assert manager.hook.zoo_register_animals(place="Bern") == [["ant of Bern"]]
    assert "wrong" in record_of(manager, "bee").error


def test_hooks_are_declared_by_a_function_of_any_name(packages: FakePackages) -> None:
    named = '@hookimpl(specname="bwlab_declare_hooks")\ndef declare('
    source = declares("zoo_register_animals").replace("@hookimpl\ndef bwlab_declare_hooks(", named)
    packages.install("bwlab-zoo", "1.0", {"zoo": source})
    packages.install("bwlab-ant", "1.0", {"ant": IMPLEMENTS})
    assert build_manager().hook.zoo_register_animals(place="Bern") == [["ant of Bern"]]


def test_a_plugin_that_fails_to_declare_costs_only_itself(packages: FakePackages) -> None:
    packages.install("bwlab-zoo", "1.0", {"zoo": declares("zoo_register_animals").replace("(Specs)", "(Specks)")})
    packages.install("bwlab-ant", "1.0", {"ant": IMPLEMENTS})
    manager = build_manager()
    assert "Specks" in record_of(manager, "zoo").error
    assert "unknown hook zoo_register_animals" in record_of(manager, "ant").error
    assert "lora" in manager.adapter_types()


def candidate(name: str, source: str) -> Candidate:
    """Return a candidate whose module is made of `source` when it is imported."""

    def load() -> ModuleType:
        module = ModuleType(name)
        exec(dedent(source), module.__dict__)
        return module

    return Candidate(name, f"dist-{name}", "1", load)


def test_the_order_of_entry_points_changes_nothing() -> None:
    zoo, bee = declares("zoo_register_animals"), IMPLEMENTS.replace("ant of", "bee of")
    sources = {"zoo": zoo, "ant": IMPLEMENTS, "bee": bee, "bad": "1 / 0"}
    for order in itertools.permutations(sources):
        candidates = [candidate(name, sources[name]) for name in order]
        manager = load_all(candidates)
        assert {one.name: one.error for one in candidates if one.error} == {
            "bad": "ZeroDivisionError: division by zero"
        }
        assert manager.hook.zoo_register_animals(place="Bern") == [["bee of Bern"], ["ant of Bern"]]


def test_a_given_object_is_a_plugin() -> None:
    heard = []

    class Listener:
        """Counts steps."""

        @hookimpl
        def bwlab_step_finished(self, record: object) -> None:
            """Remember the record."""
            heard.append(record)

    manager = build_manager([Listener()], installed=False)
    manager.hook.bwlab_step_finished(record=7)
    assert heard == [7]
    assert manager.loaded[0].distribution == "(given by the caller)"


def test_each_calls_one_plugin_at_a_time(packages: FakePackages) -> None:
    packages.install("bwlab-one", "1.0", {"one": ADAPTER.format(name="one")})
    packages.install("bwlab-two", "2.0", {"two": ADAPTER.format(name="two")})
    manager = build_manager(disabled=["lora", "locon", "lycoris", "ortho"])
    names = {record.name: call()[0][0].name for record, call in manager.each("bwlab_register_adapters")}
    assert names == {"one": "one", "two": "two"}


def test_a_damaged_distribution_is_named_unknown(packages: FakePackages) -> None:
    """Without METADATA a distribution has no name and no version."""
    info = packages.folder / "lost-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[bwlab]\nlost = no_such_module_anywhere\n", encoding="utf-8")
    assert record_of(build_manager(), "lost").state == "failed"
