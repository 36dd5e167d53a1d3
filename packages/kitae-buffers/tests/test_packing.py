from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.buffer._packing import MAX_PACKED_SIZE, layout_of, pack, packed_bits, unpack

DTYPES = [
    *(bool, jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.int32, jnp.uint32),
    *(jnp.float16, jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn),
    *(jnp.complex64, jnp.int4),
]
SHAPES = [(), (0,), (1,), (3,), (2, 5), (MAX_PACKED_SIZE + 1,)]
PACK, UNPACK = jax.jit(pack, static_argnums=1), jax.jit(unpack)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def any_bits(dtype, shape, random):
    """An array of any bits at all, NaN payloads among them."""
    if dtype in (bool, jnp.int4):
        return random.integers(0, 2, shape).astype(dtype)
    n_bytes = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=int))
    return np.frombuffer(random.bytes(n_bytes), np.dtype(dtype)).reshape(shape)


def same_bits(left, right):
    left, right = np.asarray(left), np.asarray(right)
    assert (left.dtype, left.shape) == (right.dtype, right.shape)
    assert left.tobytes() == right.tobytes()


leaves = st.lists(
    st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)), min_size=1, max_size=6
)


@settings(deadline=None, max_examples=30)
@given(leaves=leaves, seed=st.integers(0, 2**31 - 1))
def test_unpacks_to_the_same_bits(leaves, seed):
    random = np.random.default_rng(seed)
    row = {str(i): any_bits(*leaf, random) for i, leaf in enumerate(leaves)}
    packed = PACK(row, layout_of(row))
    again = UNPACK(packed)
    assert again.keys() == row.keys()
    jax.tree.map(same_bits, again, row)

    # No more memory than the leaves take, but for the ends of two words.
    small = [x.nbytes for x in row.values() if packed_bits(x) is not None]
    n_words = 0 if packed.words is None else packed.words.size
    assert sum(small) <= 4 * n_words <= sum(small) + 6
    assert len(packed.large) == len(row) - len(small)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_keeps_its_bits(dtype):
    row = (any_bits(dtype, (7,), np.random.default_rng(0)), np.float32(1))
    again = UNPACK(PACK(row, layout_of(row)))
    jax.tree.map(same_bits, again, row)


def test_words_as_written_by_hand():
    row = (
        np.array([True, False, True]),
        np.float32(1),
        np.int8(-1),
        np.array([1, -2], np.float16),
        np.uint8(0x12),
        np.int32(-2),
        np.array(1, jnp.bfloat16),
    )
    words = pack(jax.tree.map(jnp.asarray, row), layout_of(row)).words
    # 32 bits, then 16 bits, then 8 bits, the first element lowest.
    assert [f"{word:08x}" for word in words.tolist()] == [
        "3f800000",
        "fffffffe",
        "c0003c00",
        "00003f80",
        "ff010001",
        "00000012",
    ]


@pytest.mark.parametrize(
    "leaf, bits",
    [
        (jax.ShapeDtypeStruct((MAX_PACKED_SIZE,), jnp.uint8), 8),
        (jax.ShapeDtypeStruct((MAX_PACKED_SIZE + 1,), jnp.uint8), None),
        (jax.ShapeDtypeStruct((16, 17), jnp.float32), None),
        (jax.ShapeDtypeStruct((16, 16), jnp.float32), 32),
        (jax.ShapeDtypeStruct((), jnp.int64), None),
        (jax.ShapeDtypeStruct((), jnp.float64), None),
        (jax.ShapeDtypeStruct((), jnp.complex64), None),
        (jax.ShapeDtypeStruct((), jnp.int4), None),
        (jax.random.key(0), None),
    ],
)
def test_what_is_packed(leaf, bits):
    assert packed_bits(leaf) == bits


class Pair(NamedTuple):
    first: jax.Array | float
    second: dict


def test_layouts_compare_by_value():
    layout = layout_of(Pair(0.0, {"x": jnp.zeros(3, jnp.uint8)}))
    alike = layout_of(Pair(jnp.float32(1), {"x": np.ones(3, np.uint8)}))
    assert layout == alike
    assert hash(layout) == hash(alike)
    assert layout != layout_of(Pair(0, {"x": jnp.zeros(3, jnp.uint8)}))
    assert layout != layout_of(Pair(0.0, {"x": jnp.zeros(4, jnp.uint8)}))
    assert layout != layout_of(Pair(0.0, {"y": jnp.zeros(3, jnp.uint8)}))


def test_the_layout_is_part_of_the_structure():
    row = Pair(jnp.float32(2), {"x": jnp.zeros(MAX_PACKED_SIZE + 1)})
    packed = pack(row, layout_of(row))
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(packed)
    ]
    assert paths == [".words", ".large[0]"]
    doubled = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), packed)
    assert doubled.layout == packed.layout
    both = jax.vmap(unpack)(doubled)
    assert both.first.tolist() == [2.0, 2.0]
    assert both.second["x"].shape == (2, MAX_PACKED_SIZE + 1)


def test_refuses_a_row_without_leaves():
    with pytest.raises(ValueError, match=r"row must have at least one leaf, got \{\}"):
        layout_of({})
