import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from kitae.envs.observations import ObservationCheck


def check(space, rows, **kwargs):
    array = np.array(rows, space.dtype)
    return ObservationCheck(space)(array, len(array), step=7, **kwargs)


WIDE = Box(0, 2**62, (1,), np.int64)


@pytest.mark.parametrize(
    "space, rows, message",
    [
        # Of 64 bits JAX keeps 32: 1_700_000_000_000 would be -807049216.
        (WIDE, [[0], [1_700_000_000_000]], "1 at vector step 7 is 1700000000000, .*32"),
        (WIDE, [[2**31]], "is 2147483648, which int32 does not hold"),
        (Box(0, 2**64 - 1, (1,), np.uint64), [[2**32]], "which uint32 does not hold"),
        (Box(-np.inf, np.inf, (1,), np.float64), [[0.0], [1e39]], "1 .* float32 does"),
        (Box(-np.inf, np.inf, (1,), np.float64), [[-np.inf]], "0 .* is not finite"),
        (Box(-np.inf, np.inf, (1,), np.float32), [[np.nan]], "0 .* is not finite"),
        (Discrete(5), [1, 77], r"environment 1 .* in \[0, 4\] as Discrete\(5\).*77"),
        (Discrete(5), [-3, 0], r"environment 0 .* in \[0, 4\] .* got -3"),
        (Discrete(3, start=5), [8], r"in \[5, 7\] .* got 8"),
        (Discrete(3, start=5), [4], r"in \[5, 7\] .* got 4"),
        (MultiDiscrete([2, 9]), [[1, 8], [2, 0]], r"ment 1 .* in \[0, 1\] .* got 2"),
        (MultiDiscrete([2, 3], start=[5, 0]), [[5, 3]], r"in \[0, 2\] .* got 3"),
        (MultiBinary(2), [[0, 1], [0, 2]], r"environment 1 .* in \[0, 1\] .* got 2"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(space, rows, message):
    with pytest.raises(ValueError, match=message):
        check(space, rows)


@pytest.mark.parametrize(
    "space, rows",
    [
        (WIDE, [[0], [2**31 - 1]]),
        (Box(0, 2**64 - 1, (1,), np.uint64), [[2**32 - 1]]),
        (Box(-np.inf, np.inf, (1,), np.float64), [[3.4e38], [-3.4e38]]),
        (Discrete(5), [0, 4]),
        (Discrete(3, start=5), [5, 7]),
        (MultiDiscrete([2, 9], start=[5, -1]), [[6, 7], [5, -1]]),
        (MultiBinary(2), [[0, 1]]),
        (Box(0, 255, (2,), np.uint8), [[0, 255]]),
        (Box(-1, 1, (2,), np.float32), [[-1, 1]]),
    ],
)
def test_what_can_be_used_is_copied(space, rows):
    given = np.array(rows, space.dtype)
    seen = ObservationCheck(space)(given, len(given), step=0)
    np.testing.assert_array_equal(seen, rows)
    assert seen.dtype == space.dtype
    given[:] = 0
    np.testing.assert_array_equal(seen, rows)


@pytest.mark.parametrize("space", [Box(-1, 1, (2,)), Box(0, 9, (2,), np.int16)])
def test_a_value_outside_of_a_box_is_reported_once(space):
    one = ObservationCheck(space)
    bad = np.array([[0, 1], [0, -3]], space.dtype)
    with pytest.warns(
        RuntimeWarning, match="environment 1 at vector step 3 is -3"
    ) as w:
        np.testing.assert_array_equal(one(bad, 2, step=3), bad)
    assert len(w) == 1
    one(bad, 2, step=4)  # a second warning would be an error


def test_after_that_warning_other_faults_are_still_refused():
    one = ObservationCheck(Box(-1, 1, (1,), np.float32))
    with pytest.warns(RuntimeWarning, match="is 2"):
        one(np.array([[2.0]], np.float32), 1, step=0)
    with pytest.raises(ValueError, match="not finite"):
        one(np.array([[np.inf]], np.float32), 1, step=1)


def test_the_part_of_a_dict_is_named():
    space = Dict({"number": Discrete(2), "place": Box(-1, 1, (1,))})
    rows = {"number": np.array([0, 2]), "place": np.zeros((2, 1), np.float32)}
    with pytest.raises(ValueError, match=r"observation\['number'\] of environment 1"):
        ObservationCheck(space)(rows, 2, step=0)


def test_rows_of_some_environments_are_named_by_their_numbers():
    with pytest.raises(ValueError, match="environment 6 at vector step 7"):
        check(Discrete(5), [0, 9], envs=np.array([2, 6]))
