import doctest
import importlib

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


@pytest.mark.parametrize("module, agent", AGENTS.items())
def test_an_agent_is_in_a_module_of_its_own(module, agent):
    found = importlib.import_module(f"kitae.algos.{module}")
    assert getattr(found, agent) is getattr(kitae.algos, agent)
    for factory in found.__dict__[agent].factories:
        assert factory.__module__ == f"kitae.algos.{module}"


@pytest.mark.parametrize("name", AGENTS)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(f"kitae.algos.{name}")).failed == 0
