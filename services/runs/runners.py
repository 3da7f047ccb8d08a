"""Runners that live in the service: `sample`, which needs nothing, and `openai`."""

import asyncio
from collections.abc import Awaitable, Callable

from services.runs.model import Run
from services.runs.openai import Endpoint, OpenAiRunner
from services.runs.reporting import Reporter
from shared.edge.settings import Settings

SAMPLE_TEXT = """This is a sample: no model is asked, these words are always the same. They arrive one after another
so that you can watch a run, cut the connection, come back, and see that nothing is lost or repeated."""


Runner = Callable[[Run, Reporter], Awaitable[str]]  # returns the output; raises to fail; is cancelled to stop


async def sample(run: Run, reporter: Reporter) -> str:
    """Walks supervisor, writer and reviewer through a fixed text. `params.step_seconds` (0.15) sets its pace,
    `params.words` how many words it says, `params.fail` makes it fail with that text.
    """
    step = float(run.params.get("step_seconds", 0.15))
    words = SAMPLE_TEXT.split()
    words = words[: int(run.params.get("words", len(words)))]
    await reporter.node("supervisor", phase="plan", agent="sample", snippet="The sample runner plans nothing.")
    for count in range(1, len(words) + 1):
        await asyncio.sleep(step)
        text = " ".join(words[:count])
        await reporter.node(
            "writer", phase="write", agent="sample", iteration=count, tokens_out=count, snippet=text[-200:]
        )
    if "fail" in run.params:
        raise RuntimeError(str(run.params["fail"]))
    await reporter.node(
        "reviewer", phase="review", agent="sample", tokens_out=len(words), snippet="No review is needed."
    )
    return " ".join(words)


def make_runners(settings: Settings) -> dict[str, Runner]:
    """The built-in runners by name; `missing_settings` tells which of them cannot work."""
    endpoint = Endpoint(settings.openai_base_url, settings.openai_model, settings.openai_api_key.strip())
    return {"sample": sample, "openai": OpenAiRunner(endpoint)}


def missing_settings(settings: Settings) -> dict[str, str]:
    """For each runner that cannot work here, what is to be set."""
    needed = {
        "TAILRACE_OPENAI_BASE_URL": settings.openai_base_url,
        "TAILRACE_OPENAI_MODEL": settings.openai_model,
    }
    unset = [name for name, value in needed.items() if not value]
    return {"openai": f"set {' and '.join(unset)}"} if unset else {}
