"""Train states, Q-value networks, encoders and optimizers for agents."""

from kitae.modules.encoders import (
    MLP,
    DiscreteEncoder,
    NatureCNN,
    PreprocessedEncoder,
    VectorEncoder,
    encoder_factory,
)
from kitae.modules.exploration import epsilon_greedy, greedy
from kitae.modules.modules import init_params
from kitae.modules.optimizer import make_optimizer
from kitae.modules.pytree import AgentPyTree, TrainState
from kitae.modules.qvalue import ContinuousQValue, DiscreteQValue, qvalue_factory

__all__ = [
    "MLP",
    "AgentPyTree",
    "ContinuousQValue",
    "DiscreteEncoder",
    "DiscreteQValue",
    "NatureCNN",
    "PreprocessedEncoder",
    "TrainState",
    "VectorEncoder",
    "encoder_factory",
    "epsilon_greedy",
    "greedy",
    "init_params",
    "make_optimizer",
    "qvalue_factory",
]
