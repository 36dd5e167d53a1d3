import pytest


@pytest.fixture(autouse=True)
def _tricks_on(tricks_on):
    """Tests of this folder are of tricks."""
