"""Arrays are made with a dtype: without one it depends on JAX_ENABLE_X64."""

import ast
from pathlib import Path

import pytest

PACKAGES = sorted((Path(__file__).parent.parent / "packages").iterdir())
# The position of `dtype` among the arguments of what has a default for it.
POSITIONS = {
    **{f"jax.random.{name}": 2 for name in ("uniform", "normal", "bits", "gumbel")},
    **{f"jnp.{name}": 1 for name in ("zeros", "ones", "empty", "eye")},
    "jax.random.randint": 4,
    "jnp.arange": 3,
    "jnp.full": 2,
    "jnp.linspace": 5,
}


def without_dtype(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in POSITIONS:
            given = any(keyword.arg == "dtype" for keyword in node.keywords)
            if not given and len(node.args) <= POSITIONS[ast.unparse(node.func)]:
                yield node


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_new_array_has_a_dtype(package):
    found = [
        f"{path.relative_to(package)}:{node.lineno}: {ast.unparse(node)}"
        for path in sorted(package.glob("src/**/*.py"))
        for node in without_dtype(ast.parse(path.read_text("utf-8")))
    ]
    assert found == []


def test_a_call_without_a_dtype_is_found():
    text = "jnp.zeros(3)\njnp.zeros(3, int)\njnp.arange(3, dtype=int)\njnp.arange(0, 3)"
    assert [node.lineno for node in without_dtype(ast.parse(text))] == [1, 4]
