"""Nothing here waits for what is outside the process, so time passes as fast as it can."""

from tests.support.clock import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
