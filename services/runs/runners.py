"""Runners that live in the service: the interface, and `sample`, which needs nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from services.runs.model import Run

SAMPLE_TEXT = """This is a sample: no model is asked, these words are always the same. They arrive one after another
so that you can watch a run, cut the connection, come back, and see that nothing is lost or repeated."""


class Report(Protocol):
    """How a runner tells of its work: fields of a `node_update`; returns when it is stored."""

    def __call__(self, node: str, **fields: Any) -> Awaitable[None]: ...


Runner = Callable[[Run, Report], Awaitable[str]]  # returns the output; raises to fail; is cancelled to stop


async def sample(run: Run, report: Report) -> str:
    """Walks supervisor, writer and reviewer through a fixed text. `params.step_seconds` (0.15) sets its pace,
    `params.words` how many words it says, `params.fail` makes it fail with that text.
    """
    step = float(run.params.get("step_seconds", 0.15))
    words = SAMPLE_TEXT.split()
    words = words[: int(run.params.get("words", len(words)))]
    await report("supervisor", phase="plan", agent="sample", snippet="The sample runner plans nothing.")
    for count in range(1, len(words) + 1):
        await asyncio.sleep(step)
        text = " ".join(words[:count])
        await report("writer", phase="write", agent="sample", iteration=count, tokens_out=count, snippet=text[-200:])
    if "fail" in run.params:
        raise RuntimeError(str(run.params["fail"]))
    await report("reviewer", phase="review", agent="sample", tokens_out=len(words), snippet="No review is needed.")
    return " ".join(words)


BUILT_IN: Mapping[str, Runner] = {"sample": sample}
