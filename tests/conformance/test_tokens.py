"""Who may, by every way of asking: tokens that expire, that are none, that are somebody else's."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conformance.asking import SECONDS, all_live, asking, together, wrong_with
from tests.conformance.nginx import through_nginx
from tests.conformance.reading import Reading
from tests.conformance.stage import Stage
from tests.conformance.table import Ask, Comes
from tests.conformance.ways import Way
from tests.support.contract import Served, served, sql
from tests.support.tokens import JWT, client_of, token

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.nginx]

SHORT_SECONDS = 10  # long enough to become live in


@pytest.fixture(scope="module")
def guarded(postgres_url: str) -> Iterator[Served]:
    with served(postgres_url, service="runs", heartbeat_seconds=0.2, lease_seconds=300, **JWT) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def guarded_routes(guarded: Served, nginx_path: Path) -> AsyncIterator[list[tuple[str, str]]]:
    async with through_nginx(nginx_path, guarded.server.port) as proxied:
        yield [("directly", guarded.url), ("through nginx", proxied)]


@asynccontextmanager
async def staged(guarded: Served, steps: Sequence[str]) -> AsyncIterator[Stage]:
    """What ann of acme has published."""
    async with (
        asyncio.timeout(SECONDS),
        sql(guarded.database_url) as database,
        client_of(guarded.url, token()) as client,
    ):
        stage = Stage(client, database, services=("runs",))
        await stage.play(steps)
        yield stage


async def test_a_stream_ends_with_its_token_a_poll_is_refused_and_a_client_with_another_goes_on(
    guarded: Served, guarded_routes: list[tuple[str, str]], ways: list[Way]
) -> None:
    async with staged(guarded, ("run a", "a updates 2")) as stage:
        tokens = (token(seconds=SHORT_SECONDS), token())
        async with asking(Ask(of="run a"), stage, ways, guarded_routes, tokens) as at_work:
            await all_live(at_work)
            clients = [each for each in at_work if each.way.kind == "client"]
            polls = [each for each in at_work if each.way.kind == "poll"]
            streams = [each for each in at_work if each.way.kind == "stream"]
            await together(each.reading.until(each.is_done) for each in [*streams, *polls])
            assert wrong_with(stage, Comes(history="a1 a2 a3 a4", end="token_expired"), streams) == []
            assert [each.name for each in polls if each.reading.refused is None or each.reading.refused[0] != 401] == []
            await stage.play(("a updates 1", "a completed"))
            await together(each.reading.until(each.is_done) for each in clients)
        for each in clients:
            assert stage.labels("runs", each.reading.events) == "a1 a2 a3 a4 a5 a6", each.name
            assert each.reading.ended == "terminal completed", each.name


@pytest.mark.parametrize(
    ("tokens", "refused"),
    [
        ((), (401, "")),
        ((token(seconds=-60),), (401, "")),
        ((token(scopes=["tasks:read"]),), (403, "runs:read")),
        ((token(sub="bob", tenant="other"),), (404, "no such run")),
    ],
    ids=["no token", "a token that is over", "a token for something else", "another tenant's token"],
)
async def test_who_may_not_is_refused_before_the_first_byte(
    guarded: Served,
    guarded_routes: list[tuple[str, str]],
    ways: list[Way],
    tokens: tuple[str, ...],
    refused: tuple[int, str],
) -> None:
    async with staged(guarded, ("run a",)) as stage:
        # Without a token a WebSocket is let in, since it may send one as its first message.
        telling = [way for way in ways if tokens or not is_socket(way)]
        async with asking(Ask(of="run a"), stage, telling, guarded_routes, tokens) as at_work:
            await together(each.reading.until(partial(is_refused, each.reading)) for each in at_work)
            assert wrong_with(stage, Comes(refused=refused), at_work) == []


def is_socket(way: Way) -> bool:
    return way.kind == "stream" and way.name != "sse"


def is_refused(reading: Reading) -> bool:
    return reading.refused is not None
