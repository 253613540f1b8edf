"""What every test shares: Trio is the only event loop."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on Trio, as the daemon does."""
    return "trio"
