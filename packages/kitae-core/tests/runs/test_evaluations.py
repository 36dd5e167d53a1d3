"""What evaluations are kept as."""

import json

import pytest

from kitae.runs import Evaluation, read_evaluations

ONE = {
    "env_steps": 100,
    "episodes": 2,
    "returns": [1.0, 3],
    "mean": 2.0,
    "low": 1.0,
    "high": 3.0,
    "seed": 0,
}


def test_evaluations_are_read_as_they_were_written(write_run):
    run_dir = write_run()
    assert read_evaluations(run_dir) == []
    later = {**ONE, "env_steps": 200, "played_by": "a later version"}
    (run_dir / "evaluation.json").write_text(json.dumps([ONE, later]))
    assert read_evaluations(str(run_dir)) == [
        Evaluation(100, 2, (1.0, 3), 2.0, 1.0, 3.0, 0),
        Evaluation(200, 2, (1.0, 3), 2.0, 1.0, 3.0, 0),
    ]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"returns": [1.0]}, r"\[0\]\.returns must be of 2 episodes"),
        ({"returns": [], "episodes": 0}, "at least 1, got 0"),
        ({"returns": [1.0, "inf"]}, "returns must be a finite number"),
        ({"returns": [1.0, "much"]}, r"returns\[1\] must be a number"),
        ({"mean": "nan"}, "mean must be a finite number"),
        ({"env_steps": 1.5}, "env_steps must be an int"),
        ({"seed": None}, "seed must be an int"),
    ],
)
def test_a_bad_value_is_refused_by_its_field(write_run, changes, reason):
    run_dir = write_run()
    (run_dir / "evaluation.json").write_text(json.dumps([{**ONE, **changes}]))
    with pytest.raises(ValueError, match=rf"evaluation\.json is damaged: .*{reason}"):
        read_evaluations(run_dir)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "[{}]", "[NaN]"])
def test_what_is_no_list_of_evaluations_is_refused(write_run, content):
    run_dir = write_run()
    (run_dir / "evaluation.json").write_text(content)
    with pytest.raises(ValueError, match=r"evaluation\.json is damaged"):
        read_evaluations(run_dir)
