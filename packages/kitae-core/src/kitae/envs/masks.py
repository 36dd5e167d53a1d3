"""Masks of allowed actions, as a part of the observation."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

MASK = "action_mask"


class ActionMask(VectorWrapper):
    """Moves the masks of allowed actions from the infos into the observations.

    An observation becomes a dict: `"action_mask"` is int8 `[n]`, 1 where the action of
    that index is allowed, and `"observation"` is what it was; a dict gets
    `"action_mask"` beside its own parts. For a `MultiDiscrete` space the masks of its
    numbers follow one another, `n` in all. So masks are stored and sampled with what
    they belong to, and those of final observations are right in every autoreset mode.
    After the end of a task all actions may be forbidden.

    Args:
        env: Gives `infos["action_mask"]` for every environment at every step and
            reset. In `SAME_STEP` mode that of a final observation is in
            `infos["final_info"]["action_mask"]`, where Gymnasium's vectors put it.

    Raises:
        ValueError: The actions are not discrete, or the observation has a mask already.

    Example:
        >>> import gymnasium as gym
        >>> taxi = gym.make_vec("Taxi-v4", 2, vectorization_mode="sync")
        >>> env = ActionMask(taxi)
        >>> observation, _ = env.reset(seed=[0, 1])
        >>> observation["action_mask"].shape
        (2, 6)
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        space = masked_space(env.single_observation_space, env.single_action_space)
        self.single_observation_space = space
        self.observation_space = batch_space(space, env.num_envs)
        self._mask = np.ones(
            (env.num_envs, n_actions(env.single_action_space)), np.int8
        )

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts every environment anew, or those of `options["reset_mask"]`."""
        chosen = np.ones(self.num_envs, bool)
        if options and "reset_mask" in options:
            chosen = np.array(options["reset_mask"], bool)
        observation, infos = self.env.reset(seed=seed, options=options)
        self._mask = self._masks(infos, chosen, "infos", self._mask)
        return with_mask(observation, self._mask), infos

    def step(
        self, actions: Any
    ) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one step in each environment."""
        observation, reward, terminated, truncated, infos = self.env.step(actions)
        ended = np.asarray(terminated) | np.asarray(truncated)
        everywhere = np.ones(self.num_envs, bool)
        self._mask = self._masks(infos, everywhere, "infos", self._mask)
        same_step = self.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP
        if same_step and ended.any() and "final_obs" in infos:
            final_infos = infos.get("final_info", {})
            masks = self._masks(final_infos, ended, "infos['final_info']", self._mask)
            final = np.empty(self.num_envs, object)
            for env in np.flatnonzero(ended):
                final[env] = with_mask(infos["final_obs"][env], masks[env])
            infos = infos | {"final_obs": final}
        observation = with_mask(observation, self._mask)
        return observation, reward, terminated, truncated, infos

    def _masks(
        self, infos: dict, wanted: np.ndarray, where: str, others: np.ndarray
    ) -> np.ndarray:
        """Returns the masks of the environments that are wanted, and others' as is."""
        given = infos.get(MASK, ())
        # A vector that is not of single environments need not say who has one: all.
        has = infos.get(f"_{MASK}", np.full(self.num_envs, MASK in infos))
        missing = np.flatnonzero(wanted & ~has)
        if missing.size:
            raise ValueError(
                f"action_mask=True needs {where}['action_mask'] of every environment; "
                f"{type(self.unwrapped).__name__} gives none of environment "
                f"{missing[0]}"
            )
        envs, masks = np.flatnonzero(wanted), others.copy()
        rows = np.array([given[env] for env in envs])
        shape = (len(envs), masks.shape[1])
        if rows.shape != shape or not ((rows == 0) | (rows == 1)).all():
            raise ValueError(
                f"action_mask must be zeros and ones, {shape[1]} for each environment "
                f"as {self.env.single_action_space} says, got {rows.tolist()} in "
                f"{where}"
            )
        masks[envs] = rows
        return masks


def n_actions(space: gym.Space) -> int:
    """Returns the length of a mask.

    Raises:
        ValueError: The space is not discrete.

    Example:
        >>> n_actions(Discrete(4)), n_actions(MultiDiscrete([2, 3]))
        (4, 5)
    """
    if isinstance(space, Discrete):
        return int(space.n)
    if isinstance(space, MultiDiscrete):
        return int(space.nvec.sum())
    raise ValueError(
        f"action_mask needs a Discrete or MultiDiscrete space, got {space}"
    )


def masked_space(observation_space: gym.Space, action_space: gym.Space) -> Dict:
    """Returns the space of observations with masks.

    Args:
        observation_space: Of one environment, without.
        action_space: Of one environment.

    Raises:
        ValueError: The actions are not discrete, or the observation has a mask already.

    Example:
        >>> space = masked_space(Box(-1, 1, (4,)), Discrete(3))
        >>> list(space), space["action_mask"].shape
        (['action_mask', 'observation'], (3,))
    """
    mask = Box(0, 1, (n_actions(action_space),), np.int8)
    parts = {"observation": observation_space}
    if isinstance(observation_space, Dict):
        parts = dict(observation_space.spaces)
    if MASK in parts:
        raise ValueError(
            f"the observation has a part 'action_mask' already: {parts[MASK]}"
        )
    return Dict(parts | {MASK: mask})


def with_mask(observation: Any, mask: Any) -> dict[str, Any]:
    """Puts a mask into an observation, as `masked_space` says.

    Example:
        >>> with_mask(7, [1, 0])
        {'observation': 7, 'action_mask': [1, 0]}
    """
    parts = (
        observation if isinstance(observation, dict) else {"observation": observation}
    )
    return {**parts, MASK: mask}
