import doctest
import importlib
import importlib.metadata
import json
import subprocess
import sys

import pytest

import kitae.timesteps

PUBLIC = [
    "compute_double_q_targets",
    "compute_gae",
    "compute_lambda_returns",
    "compute_q_learning_targets",
    "compute_td_targets",
]


def run(code, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )


def test_public_names():
    assert kitae.timesteps.__all__ == PUBLIC
    modules = {"td", "returns", "_checks"}
    names = {name for name in vars(kitae.timesteps) if not name.startswith("__")}
    assert names == {*PUBLIC, *modules}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_have_an_example(name):
    assert ">>>" in getattr(kitae.timesteps, name).__doc__


@pytest.mark.parametrize("module, least", [("td", 3), ("returns", 2)])
def test_doctests(module, least):
    results = doctest.testmod(importlib.import_module(f"kitae.timesteps.{module}"))
    assert results.failed == 0
    assert results.attempted >= least


def test_depends_on_jax_alone():
    (requirement,) = importlib.metadata.requires("kitae-timesteps")
    assert requirement.startswith("jax>=")


def test_imports_nothing_but_jax():
    code = """
import json, sys
import jax
before = set(sys.modules)
import kitae.timesteps
print(json.dumps([sorted(set(sys.modules) - before), sorted(sys.modules)]))
"""
    added, loaded = json.loads(run(code).stdout)
    assert [n for n in added if n.partition(".")[0] != "kitae"] == []
    assert {n for n in added if n.count(".") == 1} == {"kitae.timesteps"}
    for heavy in ("flax", "gymnasium", "distrax", "chex", "optax"):
        assert heavy not in loaded


def test_import_costs_little_over_jax():
    report = run("import jax, kitae.timesteps", "-X", "importtime").stderr
    (line,) = [x for x in report.splitlines() if x.endswith(" kitae.timesteps")]
    microseconds = int(line.split("|")[1])
    assert microseconds <= 100_000
