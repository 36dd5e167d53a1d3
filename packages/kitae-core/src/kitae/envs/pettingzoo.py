"""Environments of several agents, from PettingZoo: needs pettingzoo."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import jax
import numpy as np

from kitae.config import check_n_envs
from kitae.envs.adapter import family
from kitae.envs.checks import (
    check_fixed_size,
    checked_actions,
    checked_flag,
    checked_member,
    checked_number,
    checked_reward,
    env_actions,
)
from kitae.envs.guards import Guard
from kitae.envs.host import HostStep, stack
from kitae.envs.observations import ObservationCheck, empty_observations

SINCE = (1, 25)
PARTS = ("observation", "reward", "termination", "truncation")


class PettingZooEnvs:
    """Copies of one parallel environment of PettingZoo, stepped together.

    It has the face of `kitae.envs.HostEnv`. Each agent of each copy has a row of its
    own: `[n_agents * n_envs, ...]`, the copies of one agent after those of another, in
    the order of `agent_names`.

    Where an agent ends before others do, the copy continues without it. Until the end
    of the episode its rows are zeros and not transitions (`valid` is false), and its
    actions are dropped; so it is with an agent that comes later. When no agent is left,
    the copy is reset in the same step. How an agent ended, and its final observation,
    are in the row of its own last step.

    Args:
        envs: The copies, at least one; whoever passes them closes them.

    Attributes:
        envs: The copies.
        n_envs: How many they are.
        agent_names: Of all agents that may appear.
        single_observation_space: Of one agent.
        single_action_space: Of one agent.

    Raises:
        ValueError: The agents' spaces are not equal, or their observations
            are not arrays of one shape.
    """

    def __init__(self, envs: Sequence[Any]) -> None:
        self.envs = list(envs)
        self.n_envs = len(self.envs)
        self.agent_names: tuple[Any, ...] = tuple(self.envs[0].possible_agents)
        space = self.single_observation_space = self._shared("observation_space")
        self.single_action_space = self._shared("action_space")
        check_fixed_size(space, "observation")
        self._check = ObservationCheck(space)
        self._guard = Guard()
        self._steps = 0

    @property
    def n_agents(self) -> int:
        """Agents that may appear in each environment."""
        return len(self.agent_names)

    def reset(self, seed: np.random.SeedSequence) -> Any:
        """Starts every environment anew, each with a seed of its own.

        Args:
            seed: From which the environments' seeds are drawn.

        Returns:
            The observations to act on.

        Raises:
            ValueError: An observation is not what the space allows, or not finite.
        """
        self._steps = 0
        words = seed.generate_state(self.n_envs)
        with self._guard("at the reset"):
            seen = [self._start(i, int(word)) for i, word in enumerate(words)]
        return self._rows(seen)

    def step(self, actions: np.ndarray) -> HostStep:
        """Takes one step in each environment.

        Args:
            actions: `[n_agents * n_envs, ...]`; for a discrete space indices from 0.

        Raises:
            ValueError: An action, an observation or a reward is not what the spaces
                allow, or not finite, or missing; or an agent that ended stays, or one
                that did not leaves. Agent, environment and step are named.
        """
        where, space = f"at vector step {self._steps}", self.single_action_space
        n_rows = self.n_agents * self.n_envs
        actions = checked_actions(actions, space, n_rows, where)
        actions = env_actions(actions, space)
        by_agent = actions.reshape(self.n_agents, self.n_envs, *actions.shape[1:])
        with self._guard(where):
            steps = [self._step(i, by_agent[:, i], where) for i in range(self.n_envs)]
        self._steps += 1
        final, reward, terminated, truncated, following = zip(*steps, strict=True)
        terminated = self._columns(terminated, True)
        rewards = self._columns(reward, 0.0).reshape(self.n_agents, self.n_envs)
        return HostStep(
            observation=self._rows(following),
            next_observation=self._rows(final),
            reward=np.concatenate(
                [
                    checked_reward(mine, self.n_envs, f"of {name} {where}")
                    for name, mine in zip(self.agent_names, rewards, strict=True)
                ]
            ),
            terminated=terminated,
            truncated=self._columns(truncated, False) & ~terminated,
            valid=self._columns([dict.fromkeys(seen, True) for seen in final], False),
        )

    def close(self) -> None:
        """Closes the copies."""
        for env in self.envs:
            env.close()

    def _shared(self, kind: str) -> gym.Space:
        """Returns the space that all agents have."""
        first = self.agent_names[0]
        shared = getattr(self.envs[0], kind)(first)
        for name in self.agent_names:
            space = getattr(self.envs[0], kind)(name)
            if space != shared:
                raise ValueError(
                    "agents share their parameters, so their spaces must be equal, but "
                    f"the {kind} of {first} is {shared}, and of {name} {space}"
                )
        return shared

    def _start(self, index: int, seed: int | None = None) -> dict[Any, Any]:
        """Resets an environment; returns the observations of who is there, by name."""
        env = self.envs[index]
        observations, _ = env.reset(seed=seed)
        return self._seen(observations, env.agents, f"of environment {index}")

    def _step(
        self, index: int, actions: np.ndarray, where: str
    ) -> tuple[dict[Any, Any], ...]:
        """Steps an environment, and resets it if no agent is left.

        Args:
            index: Of the environment.
            actions: One of each agent, also of those that are not there.
            where: The step, to be named in an error.

        Returns:
            By name: final observations, rewards, terminations and truncations of those
            who were there; and observations of those who are there now.
        """
        env, where = self.envs[index], f"of environment {index} {where}"
        there = tuple(env.agents)
        chosen = dict(zip(self.agent_names, actions, strict=True))
        result = env.step({name: chosen[name] for name in there})
        if not isinstance(result, tuple) or len(result) != 5:
            raise ValueError(
                f"step {where} must return PettingZoo's five dicts (observations, "
                f"rewards, terminations, truncations, infos), got {result!r:.200}"
            )
        final = self._seen(result[0], there, where)
        checks = checked_number, checked_flag, checked_flag
        reward, terminated, truncated = (
            {
                name: check(value, f"{kind} of {name} {where}")
                for name, value in _of(part, there, kind, where).items()
            }
            for part, kind, check in zip(result[1:4], PARTS[1:], checks, strict=True)
        )
        staying = tuple(env.agents)
        for name in there:
            if (terminated[name] or truncated[name]) == (name in staying):
                raise ValueError(
                    f"{name} {where} has termination {terminated[name]} and truncation "
                    f"{truncated[name]}, but agents are {list(staying)}: an agent "
                    "leaves when it has ended, and only then"
                )
        # Who comes later has not ended, as all others have that are not there.
        terminated = dict.fromkeys(staying, False) | terminated
        if staying:
            following = self._seen(result[0], staying, where)
        else:
            following = self._start(index)
        return final, reward, terminated, truncated, following

    def _seen(self, by_name: Any, names: Sequence[Any], where: str) -> dict[Any, Any]:
        """Copies what agents see: the environment may use its arrays again."""
        observations = _of(by_name, names, "observation", where)
        return {
            name: checked_member(
                observation,
                self.single_observation_space,
                f"observation of {name} {where}",
            )
            for name, observation in observations.items()
        }

    def _rows(self, seen: Sequence[dict[Any, Any]]) -> Any:
        """Puts what agents see in each environment into rows; zeros where one is not.

        Raises:
            ValueError: An observation is not what the space allows, or not finite.
        """
        space, rows = self.single_observation_space, []
        for name in self.agent_names:
            there = np.array([i for i, at in enumerate(seen) if name in at], int)
            mine = empty_observations(space, self.n_envs)
            if there.size:
                checked = self._check(
                    stack([seen[i][name] for i in there], space),
                    len(there),
                    self._steps,
                    f"observation of {name}",
                    there,
                )
                mine = jax.tree.map(partial(_with_rows, envs=there), mine, checked)
            rows.append(mine)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)

    def _columns(self, parts: Sequence[dict[Any, Any]], absent: Any) -> np.ndarray:
        """Puts a number of each agent in each environment into rows."""
        columns = [
            [type(absent)(part.get(name, absent)) for part in parts]
            for name in self.agent_names
        ]
        return np.array(columns).reshape(-1)


def _with_rows(column: np.ndarray, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
    column[envs] = rows
    return column


def _of(by_name: Any, names: Sequence[Any], kind: str, where: str) -> dict[Any, Any]:
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ValueError(f"{where[3:]} gave no {kind} of {missing}")
    return {name: by_name[name] for name in names}


def make_pettingzoo(
    parallel_env: Callable[..., Any], n_envs: int, **env_kwargs: Any
) -> PettingZooEnvs:
    """Makes `n_envs` copies of an environment of several agents, stepped together.

    Args:
        parallel_env: Makes one: the function `parallel_env` of an environment's module,
            or any other that returns a `pettingzoo.ParallelEnv`.
        n_envs: Parallel environments, from 1 to 2**20.
        **env_kwargs: Passed to it.

    Returns:
        What `train`, `resume` and `evaluate` of an agent with
        `env_cfg.n_agents = env.n_agents` take; the caller closes it.

    Raises:
        ValueError: `n_envs` is out of range, or the agents' spaces are not equal.
        TypeError: What is made is not a `pettingzoo.ParallelEnv`.
        ImportError: pettingzoo is missing or too old.

    Example:
        >>> from mpe2 import simple_spread_v3  # doctest: +SKIP
        >>> env = make_pettingzoo(simple_spread_v3.parallel_env, 8)  # doctest: +SKIP
        >>> env.n_envs, env.n_agents, env.single_action_space  # doctest: +SKIP
        (8, 3, Discrete(5))
    """
    check_n_envs(n_envs)
    kind = family("pettingzoo", SINCE).ParallelEnv
    envs = [parallel_env(**env_kwargs) for _ in range(n_envs)]
    if not isinstance(envs[0], kind):
        raise TypeError(
            "parallel_env must make a pettingzoo.ParallelEnv, got "
            f"{type(envs[0]).__name__}: pettingzoo.utils.aec_to_parallel makes one of "
            "an AECEnv"
        )
    return PettingZooEnvs(envs)
