"""CartPole solved by each way of compiled training; run by `hatch run learning`."""

from dataclasses import replace

import numpy as np
import pytest
from processes import finished, start, two_processes

import kitae.config as cfg
from kitae.envs.make import make_vec_env

pytestmark = [pytest.mark.learning, pytest.mark.timeout(3_600)]

SOLVED = 475
N_ENV_STEPS = 500_000


def test_the_tutorial_solves_it_in_two_of_three_seeds(root, run_page):
    page = run_page(root / "docs" / "custom-agents.md", [("5*10**5", "2_000")])
    env = make_vec_env("phys2d/CartPole-v1", 16)
    config = replace(
        page["algo_config"],
        env_cfg=cfg.EnvConfig(
            "CartPole", env.single_observation_space, env.single_action_space, 16
        ),
        train_cfg=cfg.TrainConfig(N_ENV_STEPS),
    )
    runs = page["DQN"]("learning", config).train_seeds(env, N_ENV_STEPS, range(3))
    returns = [run.agent.evaluate(env, 100).mean() for run in runs]
    print(f"greedy returns of seeds 0, 1, 2: {np.round(returns, 1)}")
    assert np.median(returns) >= SOLVED


AGENT = """
def learner(seed):
    env = make_vec_env("phys2d/CartPole-v1", 8)
    config = cfg.AlgoConfig(
        seed=seed,
        algo_params=DQNParams(
            double_q=True,
            exploration_final=0.04,
            exploration_steps=30_000,
            start_step=1_000,
            target_update_period=50,
        ),
        update_cfg=cfg.UpdateConfig(
            learning_rate=1e-3,
            learning_rate_annealing=True,
            max_grad_norm=10.0,
            max_buffer_size=5_000,
            batch_size=128,
        ),
        train_cfg=cfg.TrainConfig(n_env_steps=200_000),
        env_cfg=cfg.EnvConfig(
            "CartPole", env.single_observation_space, env.single_action_space, 8
        ),
    )
    return env, DQN("run", config)
"""
ON_EIGHT = (
    AGENT
    + """
for seed in range(3):
    env, agent = learner(seed)
    agent.train(env, 200_000, devices=jax.devices())
    assert len(jax.tree.leaves(agent.state)[0].sharding.device_set) == 8
    print(agent.evaluate(env, 100).mean())
"""
)
BY_TWO = (
    AGENT
    + """
env, agent = learner(0)
agent.train(env, 200_000, devices=jax.devices())
"""
)
# Evaluated apart: what two processes hold together, no one of them evaluates alone.
EVALUATED = (
    AGENT
    + """
env, agent = learner(0)
agent.restore("0/runs/run")
assert agent.step == 200_000
print(agent.evaluate(env, 100).mean())
"""
)


def test_eight_devices_solve_it_in_two_of_three_seeds(tmp_path):
    output = finished(start(ON_EIGHT, 8, cwd=tmp_path), timeout=3_000)
    print(f"greedy returns of seeds 0, 1, 2 on eight devices: {output.split()}")
    assert np.median([float(line) for line in output.split()]) >= SOLVED


def test_two_processes_solve_it(tmp_path):
    two_processes(BY_TWO, cwd=tmp_path, timeout=3_000)
    output = finished(start(EVALUATED, 1, cwd=tmp_path), timeout=600)
    print(f"greedy return, two processes of four devices: {output}")
    assert float(output.split()[-1]) >= SOLVED
