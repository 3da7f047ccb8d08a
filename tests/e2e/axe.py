"""axe-core on a page: what keeps people from using it who see, hear or point otherwise."""

from importlib.resources import files
from typing import Any

from playwright.async_api import Page

SOURCE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
AT_REST = """() => Promise.all(document.getAnimations()
    .filter((animation) => animation.effect.getComputedTiming().endTime !== Infinity)
    .map((animation) => animation.finished.catch(() => {})))"""  # a colour on its way to another is neither


async def violations(page: Page) -> list[str]:
    """Each as a sentence: the rule, what it wants, and the first elements that break it."""
    await page.evaluate(AT_REST)
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(SOURCE)
    found: list[dict[str, Any]] = await page.evaluate(
        "async (rules) => (await axe.run(document, rules)).violations", RULES
    )
    return [f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}" for one in found]
