"""One Chromium for all tests of the tier; without one they are skipped with the reason."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.testkit.browser import browser, why_no_browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    reason = why_no_browser()
    if reason is not None:
        pytest.skip(reason)
    with browser() as launched:
        yield launched
