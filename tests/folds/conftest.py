import pytest

from tests.makers.imports import write_tables


@pytest.fixture
def tables(tmp_path):
    """Return predictions of another library with their labels, for a test to change."""
    return write_tables(tmp_path)
