import os
import warnings

import jax
import pytest

from kitae.base.xla import switches
from kitae.base.xla.report import as_text, report


@pytest.mark.parametrize(
    "value, expected",
    [
        ("", set()),
        ("off", set(switches.NAMES)),
        ("-hoist", {"hoist"}),
        ("-hoist, -threads", {"hoist", "threads"}),
    ],
)
def test_the_variable_switches_off_what_it_names(monkeypatch, value, expected):
    monkeypatch.setenv("KITAE_XLA", value)
    off = {name for name in switches.NAMES if not switches.active(name)}
    assert off == expected


@pytest.mark.parametrize("value", ["on", "hoist", "-hoists", "-hoist,", "+pack", "OFF"])
def test_other_values_are_refused_with_what_is_allowed(monkeypatch, value):
    monkeypatch.setenv("KITAE_XLA", value)
    with pytest.raises(ValueError, match="KITAE_XLA must be 'off'") as caught:
        switches.active("hoist")
    assert repr(value) in str(caught.value)
    for name in switches.NAMES:
        assert f"-{name}" in str(caught.value)


def test_the_context_manager_puts_back_what_was_set(monkeypatch):
    monkeypatch.setenv("KITAE_XLA", "-threads")
    with switches.switched(off=["hoist"]):
        assert switches.active("threads")
        assert not switches.active("hoist")
    assert os.environ["KITAE_XLA"] == "-threads"
    monkeypatch.delenv("KITAE_XLA")
    with switches.switched():
        pass
    assert "KITAE_XLA" not in os.environ


@pytest.fixture
def broken(monkeypatch):
    """A trick that does not work here, tried never before."""
    monkeypatch.setattr(switches, "_failures", {})
    monkeypatch.setattr(switches, "_probes", {"threads": broken_probe})


def broken_probe():
    raise AttributeError("no such name\nand a second line")


def test_a_trick_that_does_not_work_is_off_after_one_warning(broken):
    with pytest.warns(RuntimeWarning) as caught:
        assert not switches.active("threads")
    (warning,) = caught
    assert "'threads'" in str(warning.message)
    assert jax.__version__ in str(warning.message)
    assert str(warning.message).endswith("AttributeError: no such name")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not switches.active("threads")


def test_a_trick_that_is_switched_off_is_not_tried(broken, monkeypatch):
    monkeypatch.setenv("KITAE_XLA", "-threads")
    assert not switches.active("threads")


def test_the_report_has_each_trick_and_why_it_is_off(broken, monkeypatch):
    monkeypatch.setenv("KITAE_XLA", "-callback")
    with pytest.warns(RuntimeWarning, match="'threads'"):
        rows = report()
    states = {row.name: row.state for row in rows}
    assert states == dict.fromkeys(switches.NAMES, "on") | {
        "callback": "off: KITAE_XLA",
        "threads": "off: AttributeError: no such name",
    }
    lines = as_text(rows).splitlines()
    assert [line.split()[0] for line in lines] == list(switches.NAMES)
    assert all(line.endswith(row.gain) for line, row in zip(lines, rows, strict=True))
