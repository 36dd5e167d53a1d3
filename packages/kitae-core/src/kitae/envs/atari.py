"""Atari's games, stepped together by the threads of ale-py: needs ale-py."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from kitae.config import check_flag, check_int, check_n_envs
from kitae.envs.adapter import family

SINCE = (0, 11)
PREFIX = "ALE/"


class AtariVector(VectorWrapper):
    """The vector environment of ale-py, as Gymnasium says that one should be.

    What differs: ale-py gives the final observations without the mask that says whose
    they are; it takes no list of seeds and none from 2**31 on, and it makes one seed
    into consecutive ones, so that environments of neighbouring seeds are the same; and
    it writes its autoreset mode where all vector environments read theirs.

    Args:
        env: An `ale_py.vector_env.AtariVectorEnv`, just made.

    Raises:
        ValueError: It steps only some of its environments at a time.
    """

    def __init__(self, env: VectorEnv) -> None:
        n_stepped = getattr(env.unwrapped, "batch_size", env.num_envs)
        if n_stepped != env.num_envs:
            raise ValueError(
                f"batch_size must be 0 or n_envs={env.num_envs}, got {n_stepped}: "
                "Kitae steps all environments"
            )
        super().__init__(env)
        self.metadata = dict(env.metadata)

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new games.

        Args:
            seed: One number, from which each environment's is made, or one for each, in
                `[0, 2**31 - 1]`. None: the games continue with their random numbers.
            options: As ale-py has them.
        """
        if isinstance(seed, int):
            words = np.random.SeedSequence(seed).generate_state(self.num_envs)
            seed = (words >> 1).tolist()
        seeds: Any = None if seed is None else np.array(seed, np.int64)
        return self.env.reset(seed=seeds, options=options)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one step, of `frameskip` frames, in each game."""
        observation, reward, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            infos = infos | {"_final_obs": terminated | truncated}
        return observation, reward, terminated, truncated, infos


def is_atari(env_id: str) -> bool:
    """Whether ale-py registers this environment and has a vectorised form of it."""
    return env_id.startswith(PREFIX)


def register_atari() -> None:
    """Registers ale-py's environments with Gymnasium.

    Raises:
        ImportError: ale-py is missing or too old.
    """
    gym.register_envs(family("ale_py", SINCE, extra="atari"))


def make_atari(
    env_id: str,
    n_envs: int,
    *,
    max_episode_steps: int | None = None,
    reward_clipping: bool = False,
    autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
    **env_kwargs: Any,
) -> AtariVector:
    """Makes `n_envs` copies of one of Atari's games, as the literature plays them.

    Observations are the last four frames, the newest last: uint8 `[4, 84, 84]`, grey;
    frames before the first of a game are zero. What is on: each action lasts four
    frames, of the last two the maximum is seen; an action is repeated with a chance of
    0.25 instead of the new one (Machado et al. 2018, "Revisiting the Arcade Learning
    Environment", section 5); a game begins with up to 30 idle frames, then with FIRE
    where there is such an action; after 108,000 frames it is truncated. What is off:
    clipping of rewards, so that returns are the game's scores (an agent clips in its
    `process_experience_factory`), and ends at the loss of a life.

    Args:
        env_id: `"ALE/<game>-v5"`.
        n_envs: Parallel environments, from 1 to 2**20.
        max_episode_steps: Environment steps after which a game is truncated, at least
            1. None: 27,000.
        reward_clipping: Whether rewards are their signs. Returns are then too.
        autoreset_mode: `SAME_STEP` or `NEXT_STEP`.
        **env_kwargs: Passed to `ale_py.vector_env.AtariVectorEnv`, such as
            `repeat_action_probability`, `noop_max`, `full_action_space`,
            `num_threads`, or `episodic_life`, which ends the episode with each life;
            ale-py then begins a whole new game.

    Raises:
        ImportError: ale-py is missing, or older than 0.11.
        ValueError: A number is out of range, the limit is given twice, or
            `life_loss_info` is asked for: ale-py then reports ends, and final
            observations, where there are none.
        gymnasium.error.Error: There is no such game.

    Example:
        >>> env = make_atari("ALE/Pong-v5", 2)
        >>> env.single_observation_space.shape, env.single_action_space
        ((4, 84, 84), Discrete(6))
    """
    check_n_envs(n_envs)
    check_flag("reward_clipping", reward_clipping)
    if env_kwargs.get("life_loss_info"):
        raise ValueError(
            "life_loss_info reports ends where no episode ends: see episodic_life"
        )
    register_atari()
    if max_episode_steps is not None:
        check_int("max_episode_steps", max_episode_steps, 1)
        if "max_num_frames_per_episode" in env_kwargs:
            raise ValueError(
                "max_episode_steps and max_num_frames_per_episode are the same limit, "
                "in steps and in frames: give one"
            )
        frames = (gym.spec(env_id).kwargs | env_kwargs)["frameskip"]
        env_kwargs["max_num_frames_per_episode"] = max_episode_steps * frames
    # ale-py writes into the dictionary of the class, which every vector environment
    # shares that does not set its own.
    shared = dict(VectorEnv.metadata)
    try:
        return AtariVector(
            gym.make_vec(
                env_id,
                num_envs=n_envs,
                vectorization_mode="vector_entry_point",
                reward_clipping=reward_clipping,
                autoreset_mode=autoreset_mode,
                **env_kwargs,
            )
        )
    finally:
        VectorEnv.metadata.clear()
        VectorEnv.metadata.update(shared)
