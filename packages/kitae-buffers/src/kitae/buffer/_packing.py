"""One row of many small leaves as one array of 32-bit words, bit for bit.

Each leaf of a stored row costs a scatter to write, a gather to read and an argument
of every compiled call. Side by side in one array, they cost one of each together.
The functions take a single row: batches of rows go through `jax.vmap`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import bitcast_convert_type

# Elements of the largest leaf that is packed: past it, copying costs more than a call.
MAX_PACKED_SIZE = 256

# Bits of an element, and the dtype that carries them, in the order of the words.
CARRIERS = {32: jnp.uint32, 16: jnp.uint16, 8: jnp.uint8}


class Layout(NamedTuple):
    """What a row looks like: static, hashable, compared by value.

    Attributes:
        treedef: The structure of the row.
        leaves: Shape and dtype of each leaf, without batch axes.
    """

    treedef: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    def rows(self, *batch: int) -> Any:
        """Returns the row with the shape `[*batch, ...]` and dtype of each leaf."""
        specs = [jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype) for x in self.leaves]
        return jax.tree.unflatten(self.treedef, specs)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class PackedRows:
    """Rows as they are stored, with any leading batch axes.

    Attributes:
        words: `[..., n_words]` uint32, the small leaves side by side; None if the
            row has none.
        large: The other leaves, `[..., *shape]`, in the order of the row: those with
            more than `MAX_PACKED_SIZE` elements or of a dtype that fits no word.
        layout: The row they come from; part of the tree's structure, no leaf.
    """

    words: jax.Array | None
    large: tuple[jax.Array, ...]
    layout: Layout = field(metadata={"static": True})


def layout_of(row: Any) -> Layout:
    """Reads the layout off one row of arrays, scalars or `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: The row has no leaf.
    """

    def spec(leaf: Any) -> jax.ShapeDtypeStruct:
        leaf = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    leaves, treedef = jax.tree.flatten(row)
    if not leaves:
        raise ValueError(f"row must have at least one leaf, got {row!r}")
    return Layout(treedef, tuple(spec(leaf) for leaf in leaves))


def pack(row: Any, layout: Layout) -> PackedRows:
    """Packs one row, whose leaves are arrays as `layout` has them.

    Elements of 8 and 16 bits share words, so that a packed row takes no more memory
    than its leaves, up to a word's end.

    Example:
        >>> import jax.numpy as jnp
        >>> row = {"done": jnp.array(True), "reward": jnp.float32(1.0)}
        >>> [hex(word) for word in pack(row, layout_of(row)).words.tolist()]
        ['0x3f800000', '0x1']
    """
    leaves = jax.tree.leaves(row)
    words = []
    for n_bits, carrier in CARRIERS.items():
        small = [leaf for leaf in leaves if packed_bits(leaf) == n_bits]
        if small:
            bits = jnp.concatenate([to_bits(leaf, carrier) for leaf in small])
            per_word = 32 // n_bits
            bits = jnp.pad(bits, (0, -bits.size % per_word)).reshape(-1, per_word)
            words.append(bitcast_convert_type(bits, jnp.uint32).reshape(-1))
    return PackedRows(
        words=jnp.concatenate(words) if words else None,
        large=tuple(leaf for leaf in leaves if packed_bits(leaf) is None),
        layout=layout,
    )


def unpack(packed: PackedRows) -> Any:
    """Returns the one row that was packed, as it was."""
    small = small_leaves(packed.layout, packed.words)
    return assembled(packed.layout, small, packed.large)


def small_leaves(layout: Layout, words: jax.Array | None) -> list[jax.Array]:
    """Unpacks the small leaves of one row, in the order of the row."""
    found, start = {}, 0
    for n_bits, carrier in CARRIERS.items():
        sizes = [x.size for x in layout.leaves if packed_bits(x) == n_bits]
        if words is None or not sizes:
            continue
        ends = np.cumsum(sizes)
        end = start - int(-ends[-1] * n_bits // 32)
        bits = bitcast_convert_type(words[start:end], carrier).reshape(-1)
        found[n_bits], start = iter(jnp.split(bits, ends)), end
    small = [x for x in layout.leaves if packed_bits(x) is not None]
    return [from_bits(next(found[packed_bits(x)]), x) for x in small]


def assembled(layout: Layout, small: Iterable[Any], large: Iterable[Any]) -> Any:
    """Makes rows of their leaves, each kind in the order of the row."""
    small, large = iter(small), iter(large)
    leaves = [next(large if packed_bits(x) is None else small) for x in layout.leaves]
    return jax.tree.unflatten(layout.treedef, leaves)


def packed_bits(leaf: Any) -> int | None:
    """Bits of an element of `leaf` in a word, None if the leaf is not packed."""
    if leaf.size > MAX_PACKED_SIZE:
        return None
    if leaf.dtype == bool:
        return 8
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        n_bits = int(jnp.iinfo(leaf.dtype).bits)
    elif jnp.issubdtype(leaf.dtype, jnp.floating):
        n_bits = int(jnp.finfo(leaf.dtype).bits)
    else:
        return None
    return n_bits if n_bits in CARRIERS else None


def to_bits(leaf: jax.Array, carrier: Any) -> jax.Array:
    """Flattens a leaf into the bits of its elements."""
    flat = leaf.reshape(-1)
    if flat.dtype == bool:
        return flat.astype(carrier)
    return bitcast_convert_type(flat, carrier)


def from_bits(bits: jax.Array, spec: jax.ShapeDtypeStruct) -> jax.Array:
    """Undoes `to_bits`."""
    if spec.dtype == bool:
        bits = bits.astype(bool)
    elif bits.dtype != spec.dtype:
        bits = bitcast_convert_type(bits, spec.dtype)
    return bits.reshape(spec.shape)
