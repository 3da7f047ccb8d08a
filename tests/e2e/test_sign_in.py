"""Signing in on the pages, against a service that asks for tokens."""

import httpx
import pytest
from playwright.async_api import Page, Route, expect

from tests.support.server import Server, running
from tests.support.tasks import create
from tests.support.tokens import JWT, client_of, token

pytestmark = pytest.mark.browser

PANEL = "#sign-in"


def signed_in(server: Server) -> httpx.AsyncClient:
    return client_of(server.url, token())


async def give(page: Page, text: str) -> None:
    await page.get_by_label("Token").fill(text)
    await page.locator(PANEL).get_by_role("button", name="Sign in").click()


async def test_a_page_asks_for_a_token_and_goes_on_with_it(database_url: str, page: Page) -> None:
    async with running(database_url, **JWT) as server, signed_in(server) as client:
        await create(client, title="of acme")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        await page.goto(f"{server.url}/tasks")
        await page.evaluate("window.isSame = true")
        await expect(page.locator(PANEL)).to_be_visible()
        await expect(page.get_by_label("Token")).to_be_focused()

        await give(page, token(iss="https://another.example"))
        await expect(page.locator(PANEL).get_by_role("alert")).to_have_text("That token was not taken.")
        await give(page, token(seconds=-60))
        await expect(page.locator(PANEL).get_by_role("alert")).to_contain_text("That token has expired")
        await give(page, "no token\u00e9")
        await expect(page.locator(PANEL).get_by_role("alert")).to_contain_text("That is no token")

        mine = token()
        await give(page, mine)
        await expect(page.locator(PANEL)).to_be_hidden()
        await expect(page.get_by_role("link", name="of acme")).to_be_visible()
        await expect(page.locator("#connection")).to_contain_text("Live")
        await create(client, title="told live")
        await expect(page.get_by_role("link", name="told live")).to_be_visible()
        assert await page.evaluate("window.isSame")  # nothing was loaded anew
        assert asked
        assert [url for url in asked if mine.rpartition(".")[2] in url] == []

        await page.reload()  # kept for the tab
        await expect(page.get_by_role("link", name="of acme")).to_be_visible()
        other = await page.context.new_page()  # and for no other
        await other.goto(f"{server.url}/tasks")
        await expect(other.locator(PANEL)).to_be_visible()


async def test_signing_out_forgets_the_token(database_url: str, page: Page) -> None:
    async with running(database_url, **JWT) as server:
        await page.goto(f"{server.url}/tasks")
        await give(page, token("ann@example"))
        await expect(page.get_by_text("No tasks yet")).to_be_visible()
        await page.get_by_role("button", name="Your account").click()
        await expect(page.locator("#account")).to_contain_text("ann@example · acme")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.locator(PANEL)).to_be_visible()
        assert await page.evaluate("sessionStorage.length") == 0
        await page.reload()
        await expect(page.locator(PANEL)).to_be_visible()


async def test_when_a_token_ends_the_page_asks_for_another_and_loses_nothing(database_url: str, page: Page) -> None:
    async with running(database_url, retry_milliseconds=50, **JWT) as server, signed_in(server) as client:
        await page.goto(f"{server.url}/tasks")
        await give(page, token(seconds=4))
        await expect(page.get_by_text("No tasks yet")).to_be_visible()
        await page.evaluate("window.isSame = true")
        await expect(page.locator(PANEL)).to_be_visible()  # when it has ended
        await expect(page.locator("#connection")).to_contain_text("Signed out")
        await create(client, title="told meanwhile")
        await give(page, token())
        await expect(page.get_by_role("link", name="told meanwhile")).to_be_visible()
        assert await page.evaluate("window.isSame")


async def test_each_sees_what_is_of_their_tenant(database_url: str, page: Page) -> None:
    async with running(database_url, **JWT) as server, signed_in(server) as client:
        await create(client, title="of acme")
        await page.goto(f"{server.url}/tasks")
        await give(page, token(tenant="others"))
        await expect(page.get_by_text("No tasks yet")).to_be_visible()


async def test_what_a_token_does_not_allow_is_said(database_url: str, page: Page) -> None:
    async with running(database_url, **JWT) as server:
        await page.goto(f"{server.url}/tasks")
        await give(page, token(scopes=["runs:read"]))
        await expect(page.locator("#board-state")).to_contain_text("tasks:read")
        await expect(page.locator("#connection")).to_contain_text("Refused")


async def test_the_application_around_it_gives_tokens_before_they_end(database_url: str, page: Page) -> None:
    """It stands in front of the same origin here, and answers at a path of its own."""
    given: list[str] = []

    async def give_one(route: Route) -> None:
        given.append(token(seconds=62))  # to be renewed a minute before
        await route.fulfill(json={"token": given[-1]})

    settings = {**JWT, "token_url": "/session/token"}
    async with running(database_url, **settings) as server, signed_in(server) as client:
        await page.route("**/session/token", give_one)
        await page.goto(f"{server.url}/tasks")
        await expect(page.get_by_text("No tasks yet")).to_be_visible()
        await expect(page.locator(PANEL)).to_be_hidden()
        async with page.expect_request("**/session/token"):
            pass
        await create(client, title="goes on")
        await expect(page.get_by_role("link", name="goes on", exact=True)).to_be_visible()
        assert len(given) >= 2
        assert await page.evaluate("sessionStorage.length") == 0


async def test_when_the_application_gives_none_the_page_says_so(database_url: str, page: Page) -> None:
    answers = [401, 500, 200]

    async def answer(route: Route) -> None:
        status = answers[0] if len(answers) == 1 else answers.pop(0)
        await route.fulfill(status=status, json={"token": token()} if status == 200 else {})

    async with running(database_url, **JWT, token_url="/session/token") as server:
        await page.route("**/session/token", answer)
        await page.goto(f"{server.url}/tasks")
        await expect(page.locator(PANEL)).to_contain_text("gave no token")
        await page.get_by_role("button", name="Try again").click()
        await expect(page.get_by_text("No tasks yet")).to_be_visible()
        await expect(page.locator(PANEL)).to_be_hidden()
