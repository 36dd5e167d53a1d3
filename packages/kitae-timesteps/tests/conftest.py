import jax
import pytest


# Of module scope, since hypothesis runs many examples in one function.
@pytest.fixture(autouse=True, scope="module")
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
