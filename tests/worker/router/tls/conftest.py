"""On both event loops: what TLS can and can't do differs between them."""

from tests.worker.http.conftest import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
