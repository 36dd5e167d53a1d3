import doctest
import importlib
import subprocess
import sys

import pytest

import kitae.algos

AGENTS = {
    "btr": "BTR",
    "c51": "C51",
    "dqn": "DQN",
    "iqn": "IQN",
    "munchausen": "MunchausenDQN",
    "pqn": "PQN",
    "qrdqn": "QRDQN",
    "r2d2": "R2D2",
    "rainbow": "Rainbow",
}


def test_public_names():
    names = [
        name
        for agent in AGENTS.values()
        for name in (
            agent,
            f"{agent.removesuffix('DQN') or agent}Params",
            f"{agent.removesuffix('DQN') or agent}State",
        )
    ]
    names = [n.replace("QRParams", "QRDQNParams") for n in names]
    names = [n.replace("QRState", "QRDQNState") for n in names]
    assert sorted(kitae.algos.__all__) == sorted(names)


def test_nothing_is_imported_before_it_is_asked_for():
    code = """
import sys
import kitae.algos
early = [name for name in ("jax", "kitae.algos.dqn") if name in sys.modules]
from kitae.algos import DQN
assert kitae.algos.DQN is DQN is kitae.algos.dqn.DQN
names = "kitae.algos.dqn", "kitae.algos.r2d2", "distrax", "tensorflow_probability"
late = [name for name in names if name in sys.modules]
print(early, late)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "[] ['kitae.algos.dqn']", done.stderr


def test_all_names_are_there():
    assert set(kitae.algos.__all__) <= set(dir(kitae.algos))
    for name in kitae.algos.__all__:
        assert getattr(kitae.algos, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Dqn'"):
        _ = kitae.algos.Dqn


@pytest.mark.parametrize("module, agent", AGENTS.items())
def test_an_agent_is_in_a_module_of_its_own(module, agent):
    found = importlib.import_module(f"kitae.algos.{module}")
    assert getattr(found, agent) is getattr(kitae.algos, agent)
    for factory in found.__dict__[agent].factories:
        assert factory.__module__ == f"kitae.algos.{module}"


@pytest.mark.parametrize("name", AGENTS)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(f"kitae.algos.{name}")).failed == 0
