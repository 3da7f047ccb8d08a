"""What is promised of every page: nobody is kept out, nothing overflows, and what is text stays text."""

import pytest

pytestmark = pytest.mark.browser
