"""Every agent of the family, small enough to learn a probe in seconds."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import kitae.config as cfg
from kitae import algos
from kitae.algos.c51 import support_of
from kitae.timesteps import signed_parabolic

GAMMA = 0.9
ACTING = {
    "gamma": GAMMA,
    "exploration_initial": 1.0,
    "exploration_final": 0.5,
    "exploration_steps": 1_000,
    "hidden_sizes": (32, 32),
}
# Whole numbers from -2 to 12 are among the atoms.
ATOMS = {"n_atoms": 29, "v_min": -2.0, "v_max": 12.0}
TAUS = {"n_taus": 16, "n_target_taus": 16, "kappa": 0.1}
AGENTS = {
    "dqn": (algos.DQN, algos.DQNParams(**ACTING, double_q=True, dueling=True)),
    "c51": (algos.C51, algos.C51Params(**ACTING, **ATOMS, adam_eps=1e-8)),
    "qrdqn": (
        algos.QRDQN,
        algos.QRDQNParams(**ACTING, n_quantiles=16, kappa=0.1, adam_eps=1e-8),
    ),
    "iqn": (algos.IQN, algos.IQNParams(**ACTING, **TAUS, adam_eps=1e-8)),
    "munchausen": (
        algos.MunchausenDQN,
        algos.MunchausenParams(**ACTING, adam_eps=1e-8),
    ),
    "rainbow": (
        algos.Rainbow,
        algos.RainbowParams(**ACTING, **ATOMS, adam_eps=1e-8),
    ),
    "btr": (
        algos.BTR,
        algos.BTRParams(**ACTING, **TAUS, target_update_period=10, adam_eps=1e-8),
    ),
    "r2d2": (
        algos.R2D2,
        algos.R2D2Params(
            **ACTING,
            start_step=128,
            sequence_length=8,
            burn_in=2,
            n_steps=2,
            hidden_size=32,
            head_sizes=(32,),
            adam_eps=1e-8,
        ),
    ),
    "pqn": (algos.PQN, algos.PQNParams(**ACTING)),
}
MUNCHAUSEN = ("munchausen", "btr")


def make_agent(name, env, n_env_steps, run_name=None, **changes):
    """An agent of the family for `env`; `changes` are to its parameters."""
    agent_type, params = AGENTS[name]
    rollout = name == "pqn"
    config = cfg.AlgoConfig(
        seed=0,
        algo_params=replace(params, **changes),
        update_cfg=cfg.UpdateConfig(
            learning_rate=2e-3,
            learning_rate_annealing=True,
            max_buffer_size=16 if rollout else 500,
            batch_size=64,
            n_epochs=2 if rollout else 1,
        ),
        train_cfg=cfg.TrainConfig(n_env_steps),
        env_cfg=cfg.EnvConfig(
            "test",
            env.single_observation_space,
            env.single_action_space,
            getattr(env, "num_envs", None) or env.n_envs,
            n_agents=getattr(env, "n_agents", 1),
        ),
    )
    return agent_type(run_name or name, config)


def outputs(agent, observations):
    """What the network gives for one step, without noise: the last axis is actions.

    For an agent that knows distributions, quantiles at sixteenths (odd ones), or
    probabilities of atoms, are the axis before.
    """
    qvalue, observations = agent.state.qvalue, jnp.asarray(observations, jnp.float32)
    n = observations.shape[0]
    match agent:
        case algos.C51() | algos.Rainbow():
            logits = qvalue.apply_fn(qvalue.params, observations)
            return np.asarray(jnp.moveaxis(jax.nn.softmax(logits), -1, -2))
        case algos.QRDQN():
            quantiles = qvalue.apply_fn(qvalue.params, observations)
            return np.asarray(jnp.moveaxis(quantiles, -1, -2))
        case algos.IQN() | algos.BTR():
            taus = jnp.tile((jnp.arange(16) + 0.5) / 16, (n, 1))
            return np.asarray(qvalue.apply_fn(qvalue.params, observations, taus))
        case algos.R2D2():
            start = jnp.ones(n, bool)
            carry = agent.initial_hidden_state(n)
            _, qvalues = qvalue.apply_fn(qvalue.params, carry, observations, start)
            return np.asarray(qvalues)
    return np.asarray(qvalue.apply_fn(qvalue.params, observations))


def qvalues(agent, observations):
    """The mean returns, `[n, n_actions]`."""
    given = outputs(agent, observations)
    if isinstance(agent, algos.R2D2):
        return np.asarray(signed_parabolic(given))
    if isinstance(agent, algos.C51 | algos.Rainbow):
        return np.moveaxis(given, -2, -1) @ np.asarray(support_of(agent.config))
    return given if given.ndim == 2 else given.mean(axis=-2)
