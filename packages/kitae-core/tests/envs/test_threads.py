import gymnasium as gym
import pytest
from gymnasium.vector import SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import TransformReward

from kitae.envs.make import make_vec_env
from kitae.envs.threads import may_step_anywhere


class Mine(gym.Wrapper):
    pass


class Vectors(VectorWrapper):
    pass


def cart_pole():
    return gym.make("CartPole-v1")


@pytest.mark.parametrize(
    "env_id, kind", [("CartPole-v1", "sync"), ("CartPole-v1", "async")]
)
def test_what_gymnasium_computes_may_be_stepped_by_any_thread(env_id, kind):
    env = make_vec_env(env_id, 2, vectorization_mode=kind)
    assert may_step_anywhere(env)
    env.close()


@pytest.mark.parametrize(
    "env",
    [
        SyncVectorEnv([cart_pole, lambda: Mine(cart_pole())]),
        SyncVectorEnv([lambda: TransformReward(cart_pole(), lambda reward: reward)]),
        SyncVectorEnv([lambda: gym.make("CartPole-v1", render_mode="rgb_array")]),
        Vectors(SyncVectorEnv([cart_pole])),
    ],
    ids=["wrapper", "function", "drawn", "vector-wrapper"],
)
def test_what_is_yours_or_draws_belongs_to_the_thread_that_trains(env):
    assert not may_step_anywhere(env)
