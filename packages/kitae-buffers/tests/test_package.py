import doctest
import importlib
import pkgutil

import pytest

import kitae.buffer

MODULES = [
    f"kitae.buffer.{module.name}"
    for module in pkgutil.iter_modules(kitae.buffer.__path__)
]


def test_public_names():
    assert sorted(kitae.buffer.__all__) == [
        "Experience",
        "OffPolicyBuffer",
        "OnPolicyBuffer",
        "Replay",
        "ReplayState",
        "Rollout",
        "RolloutState",
        "Sample",
        "SequenceSample",
        "importance_weights",
        "n_step_replay",
        "prioritised_replay",
        "rollout_storage",
        "sequence_replay",
        "stored_rows",
        "uniform_replay",
    ]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
