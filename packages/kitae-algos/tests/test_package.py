import doctest
import importlib

import pytest

import kitae.algos


def test_public_names():
    assert sorted(kitae.algos.__all__) == ["DQN", "DQNParams", "DQNState"]


@pytest.mark.parametrize("name", ["kitae.algos.dqn"])
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
