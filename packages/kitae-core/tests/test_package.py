import doctest
import importlib
import pkgutil

import pytest

import kitae.base
import kitae.config
import kitae.envs
import kitae.types

MODULES = [
    module.name
    for package in (kitae.base, kitae.config, kitae.envs, kitae.types)
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


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
