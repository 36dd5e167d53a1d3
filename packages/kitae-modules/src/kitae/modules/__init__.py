"""Train states, Q-value networks, encoders and optimizers for agents."""

from kitae.modules.actions import DiscreteActions, discrete_actions
from kitae.modules.dense import MLP, NoisyDense
from kitae.modules.encoders import encoder_factory, split_encoder
from kitae.modules.exploration import epsilon_greedy, greedy
from kitae.modules.heads import QHead
from kitae.modules.images import ImageEncoder, ImpalaCNN, NatureCNN
from kitae.modules.joint import DictEncoder, PreprocessedEncoder, TupleEncoder
from kitae.modules.masks import action_mask, masked
from kitae.modules.modules import init_params
from kitae.modules.observations import observation_spec
from kitae.modules.optimizer import make_optimizer
from kitae.modules.pytree import AgentPyTree, TrainState
from kitae.modules.quantile import CosineEmbedding, ImplicitQuantileQValue, iqn_factory
from kitae.modules.qvalue import ContinuousQValue, DiscreteQValue, qvalue_factory
from kitae.modules.recurrent import RecurrentQValue, recurrent_qvalue_factory
from kitae.modules.spectral import spectral_normalize
from kitae.modules.statistics import (
    RewardStatistics,
    RunningStatistics,
    init_reward_statistics,
    init_statistics,
    normalise,
    scale_rewards,
    update_reward_statistics,
    update_statistics,
)
from kitae.modules.vectors import DiscreteEncoder, MultiDiscreteEncoder, VectorEncoder

__all__ = [
    "MLP",
    "AgentPyTree",
    "ContinuousQValue",
    "CosineEmbedding",
    "DictEncoder",
    "DiscreteActions",
    "DiscreteEncoder",
    "DiscreteQValue",
    "ImageEncoder",
    "ImpalaCNN",
    "ImplicitQuantileQValue",
    "MultiDiscreteEncoder",
    "NatureCNN",
    "NoisyDense",
    "PreprocessedEncoder",
    "QHead",
    "RecurrentQValue",
    "RewardStatistics",
    "RunningStatistics",
    "TrainState",
    "TupleEncoder",
    "VectorEncoder",
    "action_mask",
    "discrete_actions",
    "encoder_factory",
    "epsilon_greedy",
    "greedy",
    "init_params",
    "init_reward_statistics",
    "init_statistics",
    "iqn_factory",
    "make_optimizer",
    "masked",
    "normalise",
    "observation_spec",
    "qvalue_factory",
    "recurrent_qvalue_factory",
    "scale_rewards",
    "spectral_normalize",
    "split_encoder",
    "update_reward_statistics",
    "update_statistics",
]
