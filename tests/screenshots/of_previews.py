"""The pages of previews: all of them, a program beside its terminal, and one that has crashed."""

from playwright.async_api import Page, expect

from tests.screenshots.stage import Stage
from tests.support.previews import ended, launch, running, tell

APP = """\
from litestar import Litestar, MediaType, get

PAGE = '''<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>The river today</title>
<style>
  :root { color-scheme: light dark; font-family: system-ui, sans-serif; }
  body { max-width: 30rem; margin: 2rem auto; padding: 0 1.25rem; line-height: 1.5; }
  h1 { font-size: 1.6rem; } table { width: 100%; border-collapse: collapse; }
  td { padding: .5rem 0; border-bottom: 1px solid #8884; } td:last-child { text-align: right; font-weight: 600; }
</style>
<h1>The river today</h1><p>What passes the weirs, in cubic metres a second.</p>
<table><tr><td>Upper weir<td>41.2<tr><td>Mill pond<td>12.9<tr><td>Sluice<td>3.4<tr><td>Tailrace<td>57.5</table>'''


@get("/", media_type=MediaType.HTML)
async def index() -> str:
    print("INFO: somebody looks at the river")
    return PAGE


@get("/health")
async def health() -> str:
    return "ok"


app = Litestar([index, health])
print("\\x1b[32mthe river\\x1b[0m is open")
"""
CRASH = """\
def gate(level: float) -> float:
    return 100 / (level - 12)


print("INFO: opening the gate")
gate(12)
"""
TALK = """\
import random
random.seed(7)
places = ["the weir", "the sluice", "the mill pond", "the tailrace", "the spillway"]
for n in range(900):
    place, chance, colour = random.choice(places), random.random(), random.choice([32, 33, 34, 35, 36])
    if chance < 0.03: print(f"ERROR: {place} does not answer", file=sys.stderr, flush=True)
    elif chance < 0.1: print(f"WARNING: the water at {place} is high", file=sys.stderr, flush=True)
    elif chance < 0.25: print(f"DEBUG: looked at {place}", flush=True)
    else: print(f"INFO: \\x1b[{colour}m{place}\\x1b[0m lets through {random.random() * 9:.2f} m³/s", flush=True)
sys.stdout.write("opening the mill pond: [##############           ] 56%"); sys.stdout.flush()
"""


async def previews(stage: Stage) -> None:
    """The form, and a list with something of everything."""
    await _all(stage)
    await stage.shoot("previews", "/previews", is_whole=True)


async def one_preview(stage: Stage) -> None:
    """A program beside its output."""
    await _all(stage)

    async def is_there(page: Page) -> None:
        await expect(page.frame_locator("iframe").get_by_text("The river today").first).to_be_attached()

    await stage.shoot("preview", "/previews/river-site", ready=is_there)


async def terminal(stage: Stage) -> None:
    """Searching what a talkative program has printed."""
    await _all(stage)

    async def searches(page: Page) -> None:
        if await page.get_by_role("button", name="Output", exact=True).is_visible():
            await page.get_by_role("button", name="Output", exact=True).click()
        await page.get_by_role("searchbox").fill("mill")
        await expect(page.locator(".line[data-current]")).to_be_visible()

    await stage.shoot("preview-terminal", "/previews/weir-report", ready=searches)


async def crashed(stage: Stage) -> None:
    """The cause of an end."""
    await _all(stage)
    await stage.shoot("preview-crashed", "/previews/gate-control")


async def _all(stage: Stage) -> None:
    """Whatever scenes are played, once."""
    client = stage.client
    if (await client.get("/api/v1/generations/river-site/preview")).status_code == 200:
        return
    await launch(client, "gate-control", files={"main.py": CRASH}, kind="asgi", entry="main:app", command=[])
    await ended(client, "gate-control")
    await running(client, "weir-report")
    await tell(client, "weir-report", TALK)
    await running(client, "river-site", files={"main.py": APP}, kind="asgi", entry="main:app", command=[])


SCENES = (previews, one_preview, terminal, crashed)
