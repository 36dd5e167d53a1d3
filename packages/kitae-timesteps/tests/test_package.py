import doctest
import importlib
import importlib.metadata
import json
import subprocess
import sys

import pytest

import kitae.timesteps

PUBLIC = [
    "VTrace",
    "compute_categorical_targets",
    "compute_double_q_targets",
    "compute_gae",
    "compute_lambda_returns",
    "compute_munchausen_bonus",
    "compute_munchausen_targets",
    "compute_n_step_targets",
    "compute_q_lambda_targets",
    "compute_q_learning_targets",
    "compute_retrace_targets",
    "compute_soft_policy",
    "compute_soft_values",
    "compute_td_targets",
    "compute_vtrace",
    "project_categorical",
    "quantile_huber_loss",
    "quantile_midpoints",
    "signed_hyperbolic",
    "signed_parabolic",
]


# Their names, and the least number of lines of their examples.
MODULES = {
    "distributional": 12,
    "multistep": 12,
    "munchausen": 12,
    "off_policy": 14,
    "rescaling": 6,
    "returns": 8,
    "td": 12,
}


def run(code, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )


def test_public_names():
    assert kitae.timesteps.__all__ == PUBLIC
    modules = {*MODULES, "_arrays", "_checks", "_kernel", "_switches"}
    names = {name for name in vars(kitae.timesteps) if not name.startswith("__")}
    assert names == {*PUBLIC, *modules}


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.islower()])
def test_public_functions_have_an_example(name):
    assert ">>>" in getattr(kitae.timesteps, name).__doc__


@pytest.mark.parametrize("module, least", MODULES.items())
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
