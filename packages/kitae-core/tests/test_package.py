import doctest
import importlib
import pkgutil

import pytest

import kitae.base
import kitae.config
import kitae.envs
import kitae.runs
import kitae.types

MODULES = [
    module.name
    for package in (kitae.base, kitae.config, kitae.envs, kitae.runs, kitae.types)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]


def test_public_names():
    assert sorted(kitae.envs.__all__) == [
        "ActionMask",
        "HostEnv",
        "HostStep",
        "as_vector_env",
        "make_probe",
        "make_vec_env",
    ]
    assert sorted(kitae.runs.__all__) == [
        "Band",
        "Curve",
        "Evaluation",
        "RunSummary",
        "aggregate",
        "find_runs",
        "group_runs",
        "interval",
        "iqm",
        "plot_runs",
        "read_config",
        "read_curve",
        "read_evaluations",
        "read_run",
        "smoothed",
        "write_report",
    ]
    assert sorted(kitae.types.__all__) == [
        "ExploreFn",
        "Info",
        "Observation",
        "Params",
        "ProcessExperienceFn",
        "PyTree",
        "State",
        "UpdateStepFn",
    ]


def test_public_names_are_there_when_asked_for():
    for name in kitae.envs.__all__:
        assert getattr(kitae.envs, name).__name__ == name
    with pytest.raises(AttributeError, match=r"'kitae.envs' has no attribute 'no_env'"):
        kitae.envs.no_env  # noqa: B018 (for its error)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
