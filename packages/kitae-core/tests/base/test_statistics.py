import numpy as np
import pytest

from kitae.base.recording import statistics
from kitae.base.recording.statistics import EpisodeStatistics
from kitae.envs import HostStep


def steps(
    n_steps: int, n_envs: int, all_valid: bool, digits: int = 0
) -> list[HostStep]:
    """Steps with rewards of sizes that are up to so many digits apart."""
    rng = np.random.default_rng(n_envs)
    sizes = 10.0 ** rng.integers(-digits, 1, n_steps)
    return [
        HostStep(
            observation=None,
            next_observation=None,
            reward=np.float32(size * rng.normal(size=n_envs)),
            terminated=rng.random(n_envs) < 0.1,
            truncated=rng.random(n_envs) < 0.1,
            valid=(rng.random(n_envs) < 0.8) | all_valid,
        )
        for size in sizes
    ]


class ByHand:
    """Counts as a newcomer would: one environment after the other."""

    def __init__(self, n_envs: int) -> None:
        self.total, self.length = [0.0] * n_envs, [0] * n_envs
        self.episodes: list[tuple] = []

    def record(self, step: HostStep, env_steps: int) -> None:
        for env in np.flatnonzero(step.valid):
            self.total[env] += float(step.reward[env])
            self.length[env] += 1
            if step.terminated[env] or step.truncated[env]:
                self.episodes.append(
                    (self.total[env], self.length[env], env_steps, env)
                )
                self.total[env], self.length[env] = 0.0, 0


def episodes(counted: EpisodeStatistics) -> list[tuple]:
    columns = counted.returns, counted.lengths, counted.env_steps, counted.envs
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("n_envs", [1, 3, 40])
@pytest.mark.parametrize("every", [1, 7, 1_000])
def test_episodes_are_the_same_bits_however_often_one_looks(n_envs, every, monkeypatch):
    monkeypatch.setattr(statistics, "MAX_WAITING", 50)
    counted, by_hand = EpisodeStatistics(n_envs), ByHand(n_envs)
    for number, step in enumerate(steps(200, n_envs, False, digits=20)):
        counted.record(step, number)
        by_hand.record(step, number)
        if number % every == 0:
            assert episodes(counted) == by_hand.episodes
    assert len(counted) == len(by_hand.episodes) > 10
    assert episodes(counted) == by_hand.episodes
    returns, lengths = counted.unfinished
    assert returns.tolist() == by_hand.total
    assert lengths.tolist() == by_hand.length


def test_what_an_episode_had_before_counts():
    first, second = EpisodeStatistics(2), EpisodeStatistics(2)
    whole = ByHand(2)
    taken = steps(60, 2, False, digits=20)
    for number, step in enumerate(taken):
        whole.record(step, number)
    for number, step in enumerate(taken[:23]):
        first.record(step, number)
    second.unfinished = first.unfinished
    for number, step in enumerate(taken[23:], 23):
        second.record(step, number)
    assert episodes(first) + episodes(second) == whole.episodes


def test_many_steps_are_counted_as_one_by_one():
    one, many = EpisodeStatistics(3), EpisodeStatistics(3)
    taken, done = steps(48, 3, True), 0
    for length in (1, 5, 40, 2):
        chunk = taken[done : done + length]
        env_steps = 3 * np.arange(done + 1, done + length + 1)
        done += length
        many.record_many(
            np.stack([step.reward for step in chunk]),
            np.stack([step.terminated | step.truncated for step in chunk]),
            env_steps,
        )
        for step, count in zip(chunk, env_steps, strict=True):
            one.record(step, int(count))
    assert len(one) > 10
    np.testing.assert_allclose(many.returns, one.returns, rtol=1e-12)
    assert many.lengths == one.lengths
    assert many.env_steps == one.env_steps
    assert many.envs == one.envs
