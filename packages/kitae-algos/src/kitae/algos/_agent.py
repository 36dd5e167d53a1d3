"""What the classes of the family have in common: construction and acting.

What an agent learns, and how, is in its own file.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import optax

import kitae.config as cfg
from kitae.algos._shared import uniform
from kitae.algos._tasks import settings_of
from kitae.base import BaseAgent, OffPolicyAgent, OnPolicyAgent
from kitae.buffer import Experience, Replay
from kitae.envs.make import make_vec_env

Factories = tuple[
    Callable[..., Any], Callable[..., Any], Callable[..., Any], Callable[..., Any]
]


class EpsilonGreedy(BaseAgent):
    """Acting of an agent whose `explore_fn` takes the probability of a random action.

    Attributes:
        factories: `train_state_factory`, `explore_factory`,
            `process_experience_factory` and `update_step_factory`.
        preset_name: Under which `kitae.algos.presets` has its settings.
    """

    factories: ClassVar[Factories]
    preset_name: ClassVar[str]

    @classmethod
    def from_preset(
        cls,
        task: str,
        *,
        seed: int = 0,
        env: Any = None,
        n_env_steps: int | None = None,
        run_name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Makes an agent with the settings that it has for a task.

        Args:
            task: An environment's id, as `kitae.envs.make.make_vec_env` takes it. For
                one that no agent was tuned on, the settings are those of a middling
                task.
            seed: Of the run.
            env: The environments it will train in. Default: as many as the settings
                say; they are made by
                `make_vec_env(task, agent.config.env_cfg.n_envs)`.
            n_env_steps: Environment steps of the training, over which the learning
                rate falls. Default: as the settings say.
            run_name: Of the run. Default: the agent, the task and the seed.
            **kwargs: For the constructor, after `run_name` and `config`.

        Raises:
            ValueError: The agent does not fit the environment.
            gymnasium.error.NameNotFound: There is no such environment.

        Example:
            >>> from kitae.algos import DQN
            >>> DQN.from_preset("CartPole-v1", seed=3).run_name
            'dqn-CartPole-v1-3'
        """
        preset = settings_of(cls.preset_name, cls.params_type, task)
        if env is None:
            one = make_vec_env(task, 1)
            env_cfg = cfg.EnvConfig.from_env(one, task)
            env_cfg = replace(env_cfg, n_envs=preset.n_envs)
            one.close()
        else:
            env_cfg = cfg.EnvConfig.from_env(env, task)
        train_cfg = preset.train_cfg
        if n_env_steps is not None:
            train_cfg = replace(train_cfg, n_env_steps=n_env_steps)
        config = cfg.AlgoConfig(
            seed, preset.algo_params, preset.update_cfg, train_cfg, env_cfg
        )
        if run_name is None:
            run_name = f"{cls.preset_name}-{task.rpartition('/')[2]}-{seed}"
        return cls(run_name, config, **kwargs)

    def exploration(self, step: jax.Array | int) -> jax.Array:
        """Returns the probability of a random action after `step` environment steps."""
        algo = self.config.algo_params
        if isinstance(step, int):  # it may be more than a device can count
            step = min(step, algo.exploration_steps)
        return _linear(
            algo.exploration_initial,
            algo.exploration_final,
            algo.exploration_steps,
            step,
        )

    def own_metrics(self) -> dict[str, float]:
        """Returns the probability of a random action, as `exploration`."""
        return {"exploration": float(self.exploration(self.step))}

    def explore(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Returns ε-greedy actions, ε by the environment steps so far."""
        return self.explore_fn(
            self.state.qvalue,
            self.interact_keys(observation),
            observation,
            exploration=self.exploration(self.step),
        )

    def select_action(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Returns the actions of the highest value, the first of equals."""
        key = self.interact_keys(observation)
        return self.explore_fn(self.state.qvalue, key, observation, exploration=0.0)


class OffPolicyValueAgent(EpsilonGreedy, OffPolicyAgent):
    """Base of the family's agents that learn from a replay.

    Args:
        run_name: The run's directory under `runs/`.
        config: With `algo_params` of the agent's class.
        preprocess_fn: Applied to observations before the network.
        tabulate: Whether to print the network.

    Raises:
        TypeError: `config.algo_params` is of another class.
        ValueError: The actions are not discrete, or the config can never update.
    """

    make_replay: ClassVar[Callable[[cfg.AlgoConfig, int, int], Replay]] = staticmethod(
        uniform
    )

    def __init__(
        self,
        run_name: str,
        config: cfg.AlgoConfig,
        *,
        preprocess_fn: Callable | None = None,
        tabulate: bool = False,
    ) -> None:
        super().__init__(
            run_name,
            config,
            *self.factories,
            preprocess_fn=preprocess_fn,
            tabulate=tabulate,
            experience_type=Experience,
            replay_factory=type(self).make_replay,
        )


class NoisyValueAgent(OffPolicyValueAgent):
    """Base of the family's agents that explore by noise in their networks' weights."""

    def select_action(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Returns the actions of the highest value under the mean weights."""
        key = self.interact_keys(observation)
        return self.explore_fn(
            self.state.qvalue, key, observation, exploration=0.0, noisy=False
        )


class OnPolicyValueAgent(EpsilonGreedy, OnPolicyAgent):
    """Base of the family's agents that learn from what they just did.

    See `OffPolicyValueAgent` for the arguments.
    """

    def __init__(
        self,
        run_name: str,
        config: cfg.AlgoConfig,
        *,
        preprocess_fn: Callable | None = None,
        tabulate: bool = False,
    ) -> None:
        super().__init__(
            run_name,
            config,
            *self.factories,
            preprocess_fn=preprocess_fn,
            tabulate=tabulate,
            experience_type=Experience,
        )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _linear(initial: float, final: float, n_steps: int, step: Any) -> jax.Array:
    return jnp.asarray(optax.linear_schedule(initial, final, n_steps)(step))
