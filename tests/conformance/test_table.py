"""The table, by every way of asking, directly and through nginx."""

from collections import Counter

import httpx
import pytest

from tests.conformance.asking import try_case
from tests.conformance.cases import CASES
from tests.conformance.conftest import Route
from tests.conformance.stage import Stage
from tests.conformance.table import Case
from tests.conformance.ways import Way
from tests.support.contract import Served, sql


@pytest.mark.nginx
@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="package")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
async def test_every_way_of_asking_brings_what_must_come(
    case: Case, tailrace: Served, ways: list[Way], browsers: list[Way], routes: list[Route]
) -> None:
    async with (
        sql(tailrace.database_url) as database,
        httpx.AsyncClient(base_url=tailrace.url, timeout=30) as client,
    ):
        stage = Stage(client, database)
        wrong = await try_case(case, stage, [*ways, *browsers], [(route.name, route.url) for route in routes])
    assert wrong == []


def test_no_two_cases_have_the_same_name() -> None:
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []
