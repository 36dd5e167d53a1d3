"""The CSV files of a run as columns, whole or not."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitae.runs.tables import read_episodes, read_metrics, running_mean


def test_columns_are_numbers_and_an_empty_cell_is_none():
    Path("metrics.csv").write_text("env_step,seconds,loss\n10,0.5,\n20,1.0,0.25\n")
    columns = read_metrics(Path())
    assert list(columns) == ["env_step", "seconds", "loss"]
    assert columns["env_step"].tolist() == [10, 20]
    assert columns["env_step"].dtype == np.float64
    np.testing.assert_array_equal(columns["loss"], [np.nan, 0.25])


def test_a_line_that_is_being_written_is_not_read_yet():
    Path("episodes.csv").write_text("env_step,env,return,length\n3,0,1.5,3\n6,0,1")
    assert read_episodes(Path())["return"].tolist() == [1.5]


@pytest.mark.parametrize("content", [None, "env_step,seconds,loss\n"])
def test_before_the_first_row_there_are_columns_without_values(content):
    if content is not None:
        Path("metrics.csv").write_text(content)
    assert read_metrics(Path())["seconds"].tolist() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"env_step,seconds",
        b"seconds,loss\n1,2\n",
        b"env_step,seconds\n1,2,3\n",
        b"env_step,seconds\n1\n",
        b"env_step,seconds\nten,2\n",
        b"env_step,seconds\n,2\n",
        b"env_step,seconds\n1,inf\n",
        b"env_step,seconds\n1e999,0\n",
        b"env_step,seconds\n\xff,2\n",
    ],
)
def test_a_damaged_table_is_refused_by_its_name(content):
    Path("metrics.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"^metrics\.csv is damaged: "):
        read_metrics(Path())


@given(
    st.lists(st.integers(-1_000, 1_000), max_size=30).map(np.array),
    st.integers(1, 40),
)
def test_a_running_mean_is_of_the_last_values(values, window):
    slow = [values[max(0, i + 1 - window) : i + 1].mean() for i in range(len(values))]
    np.testing.assert_allclose(running_mean(values, window), slow, atol=1e-9)
