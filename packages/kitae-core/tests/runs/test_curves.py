"""Curves of runs, checked against scipy and against every resample there is."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kitae.runs import (
    Curve,
    aggregate,
    group_runs,
    interval,
    iqm,
    read_curve,
    smoothed,
)

EPISODES = [(10, 1.0, 5), (20, 3.0, 6), (20, 5.0, 7), (40, 7.0, 8)]
METRICS = [(10, 1.0, ""), (20, 3.0, 0.5), (30, 4.0, 0.25)]


def curve(*points):
    x, y = zip(*points, strict=True)
    return Curve(np.array(x, float), np.array(y, float))


def points(read):
    assert read.x.dtype == read.y.dtype == np.float64
    return list(zip(read.x.tolist(), read.y.tolist(), strict=True))


def test_a_curve_of_episodes_has_a_point_for_each(write_run):
    run_dir = write_run(episodes=EPISODES)
    assert points(read_curve(run_dir)) == [(10, 1), (20, 3), (20, 5), (40, 7)]
    lengths = read_curve(str(run_dir), "episode_length", smooth=2)
    assert points(lengths) == [(10, 5), (20, 5.5), (20, 6.5), (40, 7.5)]


def test_a_curve_of_metrics_has_a_point_for_each_row_that_has_it(write_run):
    run_dir = write_run(metrics=METRICS, columns=["loss"])
    assert points(read_curve(run_dir, "loss")) == [(20, 0.5), (30, 0.25)]
    assert points(read_curve(run_dir, "loss", "seconds")) == [(3, 0.5), (4, 0.25)]
    assert points(read_curve(run_dir, "seconds"))[0] == (10, 1)


def test_seconds_of_episodes_are_between_those_of_the_rows(write_run):
    at = [(5, 0.0, 1), (15, 1.0, 1), (30, 2.0, 1), (31, 3.0, 1)]
    run_dir = write_run(episodes=at, metrics=METRICS, columns=["loss"])
    # Half of the first second, half of the two after it; the last row is at 30.
    assert points(read_curve(run_dir, x="seconds")) == [(0.5, 0), (2, 1), (4, 2)]
    bare = write_run("bare", episodes=EPISODES)
    assert points(read_curve(bare, x="seconds")) == []


def test_a_run_that_has_just_begun_has_an_empty_curve(write_run):
    run_dir = write_run(columns=["loss"])
    assert points(read_curve(run_dir)) == points(read_curve(run_dir, "loss")) == []


def test_what_cannot_be_read_is_named(write_run):
    run_dir = write_run(columns=["loss"])
    with pytest.raises(ValueError, match=r"one of \['episode_return', .*'loss'\], got"):
        read_curve(run_dir, "lost")
    with pytest.raises(ValueError, match="smooth must be an int of at least 1, got 0"):
        read_curve(run_dir, smooth=0)
    with pytest.raises(ValueError, match='x must be "env_steps" or "seconds", got'):
        read_curve(run_dir, x="steps")


def test_smoothing_keeps_where_the_points_are():
    wide = smoothed(curve((0, 2), (1, 4), (5, 6)), 2)
    assert points(wide) == [(0, 2), (1, 3), (5, 5)]


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 13), st.just(3)),
        elements=st.floats(-1e6, 1e6),
    )
)
def test_the_iqm_is_scipys_trimmed_mean(values):
    expected = scipy.stats.trim_mean(values, 0.25, axis=0)
    np.testing.assert_allclose(iqm(values), expected, rtol=1e-9, atol=1e-6)


def test_of_fewer_than_four_runs_the_iqm_is_the_mean():
    assert iqm(np.array([0.0, 0.0, 9.0])) == 3.0
    assert iqm(np.array([0.0, 0.0, 9.0, 999.0])) == 4.5


def test_runs_are_compared_where_all_of_them_have_steps():
    band = aggregate([curve((0, 0), (10, 10)), curve((2, 4), (6, 8), (20, 8))], 3)
    assert band.x.tolist() == [2, 6, 10]
    assert band.iqm.tolist() == [(2 + 4) / 2, (6 + 8) / 2, (10 + 8) / 2]
    assert band.n == 2
    # A quarter of the resamples is one run twice, another quarter the other.
    assert band.low.tolist() == [2, 6, 8]
    assert band.high.tolist() == [4, 8, 10]


def test_of_one_run_the_interval_is_the_curve():
    band = aggregate([curve((0, 1), (4, 5))], 2)
    assert band.n == 1
    assert [band.x.tolist(), band.iqm.tolist()] == [[0, 4], [1, 5]]
    assert band.low.tolist() == band.high.tolist() == [1, 5]


def test_of_episodes_that_end_in_one_step_the_last_counts():
    ends = curve((0, 0), (5, 1), (5, 9), (10, 9))
    band = aggregate([ends, ends], 3)
    assert band.iqm.tolist() == [0, 9, 9]


def test_what_has_nothing_in_common_is_refused():
    with pytest.raises(ValueError, match="one begins at 5 and one ends at 4"):
        aggregate([curve((0, 0), (4, 0)), curve((5, 0), (9, 0))])
    for curves in ([], [Curve(np.empty(0), np.empty(0))]):
        with pytest.raises(ValueError, match="at least one, each with at least one"):
            aggregate(curves)
    with pytest.raises(ValueError, match="n_points must be an int of at least 2"):
        aggregate([curve((0, 0))], n_points=1)


@pytest.mark.parametrize("confidence", [0, 1, -0.1, 95, float("nan")])
def test_a_confidence_is_between_none_and_all(confidence):
    with pytest.raises(ValueError, match=r"confidence must be .* \(0, 1\), got"):
        interval([1.0, 2.0], confidence)
    with pytest.raises(ValueError, match=r"confidence must be .* \(0, 1\), got"):
        aggregate([curve((0, 0), (1, 1))], confidence=confidence)


def every_resample(values, statistic):
    """The statistic of each of the n ** n resamples, all as likely."""
    draws = itertools.product(range(len(values)), repeat=len(values))
    return np.array([statistic(values[list(draw)]) for draw in draws])


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_an_interval_is_that_of_all_resamples(confidence):
    values = np.array([0.0, 1.0, 5.0, 20.0, 21.0])
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    exact = every_resample(values, np.mean)
    mean, low, high = interval(values, confidence)
    assert mean == 9.4
    for end, tail in zip((low, high), tails, strict=True):
        # 2,000 resamples know a tail to a standard error of at most 1.1 %.
        assert np.mean(exact < end) - 0.04 <= tail <= np.mean(exact <= end) + 0.04

    runs = [curve((0, value), (1, value)) for value in values]
    band = aggregate(runs, 2, confidence)
    trimmed = every_resample(values, lambda drawn: scipy.stats.trim_mean(drawn, 0.25))
    for end, tail in zip((band.low[0], band.high[0]), tails, strict=True):
        assert np.mean(trimmed < end) - 0.04 <= tail <= np.mean(trimmed <= end) + 0.04


def test_an_interval_is_scipys():
    values = np.random.default_rng(5).normal(100.0, 20.0, 50)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=0
    ).confidence_interval
    _, low, high = interval(values)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.6)


def test_an_interval_holds_the_true_mean_as_often_as_it_says():
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        _, low, high = interval(draw.normal(3.0, 1.0, 60), confidence=0.8)
        held += low <= 3.0 <= high
    assert 68 <= held <= 92  # three standard deviations of 4


def test_the_same_seed_is_the_same_interval():
    values = np.arange(20.0)
    assert interval(values) == interval(list(values), seed=0)
    assert interval(values, seed=1) != interval(values)


@pytest.mark.parametrize("returns", [[], [[1.0, 2.0]], 3.0])
def test_an_interval_is_of_a_list_of_returns(returns):
    with pytest.raises(
        ValueError, match=r"returns must be \[n\], n at least 1, got \["
    ):
        interval(returns)


def test_runs_that_differ_in_their_seed_alone_are_one_group(write_run):
    runs = [write_run(f"run{seed}", seed=seed) for seed in (3, 1, 2)]
    other = write_run("other", agent="IQN", seed=3)
    assert group_runs([*runs, other]) == {
        "DQN on Count-v1": runs,
        "IQN on Count-v1": [other],
    }
    assert list(group_runs([other, str(runs[0])])) == [
        "IQN on Count-v1",
        "DQN on Count-v1",
    ]


def test_groups_that_look_alike_are_told_apart_by_their_fields(write_run):
    small = write_run("small", hidden_sizes=[8], gamma=0.9)
    slow = write_run("slow", learning_rate=0.1, hidden_sizes=[8])
    slow_again = write_run("slow-again", learning_rate=0.1, hidden_sizes=[8], seed=1)
    elsewhere = write_run("elsewhere", task_name="Other-v0")
    assert group_runs([small, slow, elsewhere, slow_again]) == {
        "DQN on Count-v1 (gamma 0.9, learning_rate 0.001)": [small],
        "DQN on Count-v1 (gamma 0.99, learning_rate 0.1)": [slow, slow_again],
        "DQN on Other-v0": [elsewhere],
    }


def test_no_group_hides_another(write_run):
    """Of values so long that what differs is cut."""
    runs = [
        write_run(end, task_name="T", hidden_sizes=[1] * 30 + [ord(end)])
        for end in "abc"
    ]
    assert list(group_runs(runs).values()) == [[run] for run in runs]


def test_a_field_that_one_config_lacks_tells_groups_apart(write_run):
    old, new = write_run("old"), write_run("new", update_cfg={"n_epochs": 2})
    assert list(group_runs([old, new])) == [
        "DQN on Count-v1 (learning_rate 0.001, no n_epochs)",
        "DQN on Count-v1 (no learning_rate, n_epochs 2)",
    ]


def test_a_damaged_config_is_refused_by_name(write_run):
    run_dir = write_run()
    (run_dir / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"runs/run/config\.json is damaged"):
        group_runs([run_dir])
