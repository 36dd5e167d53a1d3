import json
import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kitae.config.spaces import MAX_ELEMENTS, space_from_json, space_to_json

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = [*INTEGERS, "bool", *(f"float{bits}" for bits in (16, 32, 64))]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
BOX = {"type": "Box", "low": 0.0, "high": 1.0, "shape": [2], "dtype": "float32"}


@st.composite
def boxes(draw):
    dtype, shape = np.dtype(draw(st.sampled_from(DTYPES))), draw(SHAPES)
    elements = arrays.from_dtype(dtype, allow_nan=False)
    if draw(st.booleans()):
        ends = draw(st.tuples(elements, elements))
        ends = [np.full(shape, end, dtype) for end in ends]
    else:
        ends = [draw(arrays.arrays(dtype, shape, elements=elements)) for _ in "lh"]
    low, high = np.asarray(np.minimum(*ends)), np.asarray(np.maximum(*ends))
    if dtype.kind == "i" and draw(st.booleans()):
        return spaces.Box(-np.inf, high, shape, dtype)
    if dtype.kind == "i" and draw(st.booleans()):
        return spaces.Box(low, np.inf, shape, dtype)
    return spaces.Box(low, high, shape, dtype)


@st.composite
def discretes(draw):
    dtype = draw(st.sampled_from(INTEGERS))
    info = np.iinfo(dtype)
    n, start = st.integers(1, info.max), st.integers(info.min, info.max)
    return spaces.Discrete(draw(n), start=draw(start), dtype=np.dtype(dtype))


@st.composite
def multi_discretes(draw):
    dtype, shape = draw(st.sampled_from(INTEGERS)), draw(SHAPES)
    nvec = draw(arrays.arrays(dtype, shape, elements={"min_value": 1}))
    start = draw(st.sampled_from([np.zeros, np.ones]))(shape, dtype)
    if draw(st.booleans()):
        start = draw(arrays.arrays(dtype, shape))
    return spaces.MultiDiscrete(nvec, dtype, start=start)


multi_binaries = st.builds(
    spaces.MultiBinary, st.integers(1, 9) | st.lists(st.integers(1, 9), max_size=3)
)
plain_spaces = boxes() | discretes() | multi_discretes() | multi_binaries
all_spaces = plain_spaces | st.recursive(
    plain_spaces,
    lambda parts: (
        st.builds(spaces.Tuple, st.lists(parts, max_size=3))
        | st.lists(
            st.tuples(st.text(max_size=3), parts), max_size=3, unique_by=lambda p: p[0]
        ).map(spaces.Dict)
    ),
    max_leaves=5,
)


def assert_same(left, right):
    """Gymnasium's `==`, and what it does not look at."""
    assert left == right
    match left:
        case spaces.Box():
            np.testing.assert_array_equal(left.low, right.low)
            np.testing.assert_array_equal(left.high, right.high)
            np.testing.assert_array_equal(left.bounded_below, right.bounded_below)
            np.testing.assert_array_equal(left.bounded_above, right.bounded_above)
        case spaces.Dict():
            assert list(left.spaces) == list(right.spaces)
            for key in left.spaces:
                assert_same(left[key], right[key])
        case spaces.Tuple():
            for one, other in zip(left, right, strict=True):
                assert_same(one, other)


@settings(max_examples=400, deadline=None)
@given(all_spaces)
def test_spaces_survive_the_way_through_json(space):
    event(type(space).__name__)
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert_same(space_from_json(json.loads(text)), space)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (2, 3)),
        spaces.Box(np.array([-np.inf, 0.1], np.float32), np.inf, (2,)),
        spaces.Box(np.inf, np.inf, ()),
        spaces.Box(0, 255, (84, 84, 4), np.uint8),
        spaces.Box(0, np.uint64(2**64 - 1), (2,), np.uint64),
        spaces.Box(-np.inf, np.array([3, 2**62 + 1]), (2,), np.int64),
        spaces.Box(np.array([-np.inf, -128]), 5, (2,), np.int8),
        spaces.Box(0, 1, (2,), bool),
        spaces.Box(0, 1, (0, 3)),
        spaces.Discrete(3, start=-1),
        spaces.Discrete(200, dtype=np.uint8),
        spaces.MultiDiscrete([[2, 3], [4, 5]], np.int32, start=[[0, 1], [0, 0]]),
        spaces.MultiDiscrete(np.ones((0, 3), np.int64)),
        spaces.MultiBinary(3),
        spaces.MultiBinary([3]),
        spaces.MultiBinary([2, 3]),
        spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.Discrete(3))]),
        spaces.Tuple([spaces.Tuple([]), spaces.Dict({})]),
    ],
    ids=lambda space: " ".join(str(space).split()),
)
def test_spaces_of_every_kind_survive(space):
    assert_same(space_from_json(json.loads(json.dumps(space_to_json(space)))), space)


def test_bounds_of_one_number_are_written_as_one():
    written = space_to_json(spaces.Box(-np.inf, 5, (2, 2), np.int8))
    assert written == {
        "type": "Box",
        "low": "-inf",
        "high": 5,
        "shape": [2, 2],
        "dtype": "int8",
    }
    low = np.array([[-np.inf, 0.5]], np.float32)
    assert space_to_json(spaces.Box(low, np.inf, (1, 2)))["low"] == [["-inf", 0.5]]


class Other(spaces.Space):
    def __repr__(self):
        return "Other()"  # in the test's name, which all workers must give alike


@pytest.mark.parametrize(
    "space, error, message",
    [
        (spaces.Text(3), TypeError, r"Text.*kind of space that cannot be written"),
        (Other(), TypeError, r"Other.*kind of space that cannot be written"),
        (spaces.Dict({1: spaces.Discrete(2)}), TypeError, "key 1, which is not a"),
        (spaces.Box(0, 1, (2,), np.dtype(">f4")), TypeError, "dtype .* JSON: >f4"),
        (spaces.Tuple([spaces.Box(0, 1, (1,), "g")]), TypeError, "dtype .* JSON: fl"),
        (spaces.MultiBinary([2**13, 2**13 + 1]), ValueError, "more than 67108864 ele"),
        (spaces.Tuple([spaces.MultiBinary(2**25)] * 3), ValueError, "more than 671"),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_a_space_that_would_not_survive_is_not_written(space, error, message):
    with pytest.raises(error, match=message):
        space_to_json(space)


def nested(depth):
    value = {"type": "Tuple", "spaces": []}
    for _ in range(depth):
        value = {"type": "Tuple", "spaces": [value]}
    return value


BINARY = {"type": "MultiBinary", "n": 3}
DISCRETE = {"type": "Discrete", "n": 3, "start": 0, "dtype": "int8"}
MULTI = {
    "type": "MultiDiscrete",
    "nvec": [2, 3],
    "start": 0,
    "shape": [2],
    "dtype": "uint8",
}


@pytest.mark.parametrize(
    "value, message",
    [
        (None, "the space must be an object with a type, got None"),
        ([BOX], "the space must be an object with a type, got "),
        ({}, "the space must be an object with a type, got {}"),
        ({"type": "Text"}, "the space.type must be one of Box, .*, got 'Text'"),
        ({"type": ["Box"]}, r"the space.type must be one of Box, .*, got \['Box'\]"),
        ({"type": "Box"}, "the space.low of Box is missing"),
        (BOX | {"lo": 1}, r"the space.lo is not a field of Box: did you mean low\?"),
        (BOX | {"dtype": "f4"}, "the space.dtype must be one of bool, .*, got 'f4'"),
        (BOX | {"dtype": "object"}, "the space.dtype must be one of"),
        (BOX | {"dtype": None}, "the space.dtype must be one of"),
        (BOX | {"shape": 2}, "the space.shape must be a list of at most 32 ints"),
        (BOX | {"shape": [1] * 33}, "the space.shape must be a list of at most 32"),
        (BOX | {"shape": [2.0]}, r"the space.shape\[0\] must be an int in \[0, 6710"),
        (BOX | {"shape": [True]}, r"the space.shape\[0\] must be an int"),
        (BOX | {"shape": [-1]}, r"the space.shape\[0\] must be an int"),
        (BOX | {"shape": [0, 2**62]}, r"the space.shape\[1\] must be an int"),
        (BOX | {"shape": [2**20] * 3}, r"the space.shape must be of at most 67108864"),
        (BOX | {"shape": [0, 2**20, 2**20]}, "the space.shape must be of at most 6710"),
        (BOX | {"low": "0"}, "the space.low must be a number in .* or '-inf' or 'inf'"),
        (BOX | {"low": "nan"}, "the space.low must be a number in"),
        (BOX | {"low": None}, "the space.low must be a number in"),
        (BOX | {"low": True}, "the space.low must be a number in"),
        (BOX | {"low": {}}, "the space.low must be a number in"),
        (BOX | {"low": -1e39}, "the space.low must be a number in"),
        (BOX | {"low": -(10**400)}, "the space.low must be a number in"),
        (BOX | {"low": math.nan}, "the space.low must be a number in"),
        (BOX | {"low": []}, "the space.low must be a list of length 2"),
        (BOX | {"low": [0, 1, 2]}, "the space.low must be a list of length 2"),
        (BOX | {"low": [0, [1]]}, r"the space.low\[1\] must be a number"),
        (BOX | {"high": [1, "x"]}, r"the space.high\[1\] must be a number"),
        (BOX | {"low": [0, 2]}, "the space.low must be at most the space.high, got 2"),
        (BOX | {"dtype": "bool"}, "the space.low must be True or False, got 0.0"),
        (BOX | {"dtype": "int8"}, r"the space.low must be an int in \[-128, 127\] or"),
        (BOX | {"dtype": "int8", "low": 0}, r"the space.high must be an int in"),
        (BOX | {"dtype": "int8", "low": "inf"}, "127. or '-inf', got 'inf'"),
        (BOX | {"dtype": "uint8", "low": "-inf"}, r"an int in \[0, 255\], got '-inf'"),
        (DISCRETE | {"n": 0}, r"the space.n must be an int in \[1, 127\], got 0"),
        (DISCRETE | {"n": True}, "the space.n must be an int"),
        (DISCRETE | {"n": 128}, "the space.n must be an int"),
        (DISCRETE | {"start": -129}, r"the space.start must be an int in \[-128, 127"),
        (DISCRETE | {"start": None}, "the space.start must be an int"),
        (DISCRETE | {"dtype": "float32"}, "the space.dtype must be one of int8"),
        (MULTI | {"nvec": [2, 0]}, "the space.nvec must be at least 1, got 0"),
        (MULTI | {"nvec": [2, 256]}, r"the space.nvec\[1\] must be an int in"),
        (MULTI | {"nvec": ""}, "the space.nvec must be an int in"),
        (MULTI | {"dtype": "int8", "start": ""}, "the space.start must be an int in"),
        (MULTI | {"start": [0]}, "the space.start must be a list of length 2"),
        (MULTI | {"shape": [3]}, "the space.nvec must be a list of length 3"),
        (BINARY | {"n": 0}, "the space.n must be an int in"),
        (BINARY | {"n": 2**26 + 1}, "the space.n must be an int in"),
        (BINARY | {"n": [2, 0]}, r"the space.n\[1\] must be an int in \[1, "),
        (BINARY | {"n": [2**13, 2**14]}, "the space.n must be of at most 67108864 ele"),
        ({"type": "Dict", "spaces": []}, "the space.spaces must be an object of"),
        ({"type": "Tuple", "spaces": {}}, "the space.spaces must be a list of"),
        (
            {"type": "Dict", "spaces": {"a": DISCRETE, "b": None}},
            "the space.spaces.b must be an object",
        ),
        (
            {"type": "Dict", "spaces": {"a b": None}},
            r"the space.spaces\['a b'\] must be an object",
        ),
        (
            {"type": "Tuple", "spaces": [BOX, BOX | {"low": 2}]},
            r"the space.spaces\[1\].low must be at most the space.spaces\[1\].high",
        ),
        (nested(100_000), "the space is nested too deeply"),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_what_is_no_space_is_refused_by_name(value, message):
    with pytest.raises(ValueError, match=message):
        space_from_json(value)


@pytest.mark.parametrize("kind", ["Tuple", "Dict"])
def test_all_parts_together_are_bounded(kind):
    half = BINARY | {"n": MAX_ELEMENTS // 2}
    inner = {"type": "Tuple", "spaces": [half]}
    parts = [half, inner, BOX] if kind == "Tuple" else {"a": half, "b": inner, "c": BOX}
    match = r"shape must be of at most 0 elements \(67108864 in the whole space\)"
    with pytest.raises(ValueError, match=match):
        space_from_json({"type": kind, "spaces": parts})
