"""A training in a process of its own: `resuming.py <agent> <driver> <call> <until>`.

The call is `train`, or `resume`; or `go-on`, which resumes the run if it was begun and
trains from the start if not; or `both`, which trains `through` to the
end and then `run` as far as is asked.
"""

import sys

import kitae.config as cfg
from kitae.algos import DQN, DQNParams, Rainbow, RainbowParams
from kitae.base.rundir.directory import runs_root
from kitae.envs.make import make_vec_env

ACTING = {"target_update_period": 5, "hidden_sizes": (16,), "skip_steps": 2}
AGENTS = {
    "dqn": (DQN, DQNParams(**ACTING, exploration_steps=500)),
    "rainbow": (Rainbow, RainbowParams(**ACTING, n_atoms=11, v_min=0.0, v_max=50.0)),
}
TASKS = {"host": "CartPole-v1", "compiled": "phys2d/CartPole-v1"}
N_ENV_STEPS = 4_000


def make(agent, driver, run_name="run", **train):
    """Makes an agent that saves at every 200 steps, and its environments."""
    agent_type, params = AGENTS[agent]
    env = make_vec_env(TASKS[driver], 4)
    config = cfg.AlgoConfig(
        seed=3,
        algo_params=params,
        update_cfg=cfg.UpdateConfig(
            learning_rate=1e-3,
            learning_rate_annealing=True,
            max_buffer_size=100,
            batch_size=16,
        ),
        train_cfg=cfg.TrainConfig(
            N_ENV_STEPS,
            log_frequency=100,
            **{"save_frequency": 200, "reset_on_save": True} | train,
        ),
        env_cfg=cfg.EnvConfig(
            "CartPole", env.single_observation_space, env.single_action_space, 4
        ),
    )
    return agent_type(run_name, config), env


def main():
    name, driver, call, until = sys.argv[1:]
    agent, env = make(name, driver)
    if call == "both":
        make(name, driver, "through")[0].train(env, N_ENV_STEPS)
        call = "train"
    if call == "go-on":
        begun = (runs_root() / agent.run_name / "config.json").exists()
        call = "resume" if begun else "train"
    print("begins", flush=True)
    getattr(agent, call)(env, int(until))
    print(f"ends at {agent.step}")


if __name__ == "__main__":
    main()
