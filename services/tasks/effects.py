"""What news of runs do to the tasks they belong to, inside the transaction that moves the feed's position."""

from collections.abc import Sequence

from msgspec import structs

from services.tasks.events import TERMINAL
from services.tasks.feeds import Feeds
from services.tasks.lifecycle import draft_of, renewed
from services.tasks.model import NEXT, Task
from services.tasks.owned_runs import OwnedRuns
from services.tasks.rules import OwnedRun, followed, is_news
from services.tasks.store import TaskStore
from shared.channel.log import MAX_EVENT_BYTES, Outcome, Transaction
from shared.protocol.record import Draft

SHORT_ERROR = 200  # characters of it that are kept where a task has no room for all


class Effects:
    """Told what became of runs; what it cannot do is recorded, never raised."""

    def __init__(self, store: TaskStore, owned: OwnedRuns, feeds: Feeds, feed: str) -> None:
        self._store = store
        self._owned = owned
        self._feeds = feeds
        self._feed = feed

    async def apply(self, tx: Transaction, groups: Sequence[Sequence[OwnedRun]]) -> Outcome[list[str]]:
        """The effects of these news, and why some had none. Each group holds runs of one task, told at one moment;
        groups come one after the other, so that what becomes of a task does not hang on how news are batched. Of each
        task that changed, the last state is told.
        """
        found = _Found()
        newest: dict[str, OwnedRun] = {}
        refused: list[str] = []
        for group in groups:
            refused += await self._group(tx, group, found)
            newest[group[-1].task_id] = group[-1]
        drafts: list[Draft] = []
        now = await self._store.now(tx)
        for task in found.tasks.values():
            if task == found.before[task.id]:  # what came went again, such as a question that was answered
                continue
            saved = renewed(task, {}, tx.next_seq + len(drafts), now)
            draft = draft_of(saved)
            if len(draft.data) > MAX_EVENT_BYTES and saved.error is not None:
                saved = structs.replace(saved, error=saved.error[:SHORT_ERROR] + "…")
                draft = draft_of(saved)
            if len(draft.data) > MAX_EVENT_BYTES:  # nothing could be told of it; the other tasks go on
                refused.append(await self._refuse(tx, newest[task.id], "too_large"))
                continue
            await self._store.save(tx, saved)
            drafts.append(draft)
        return Outcome(refused, drafts)

    async def _group(self, tx: Transaction, group: Sequence[OwnedRun], found: "_Found") -> list[str]:
        """The effects of one group, on top of those before it."""
        task_id = group[0].task_id
        task = found.tasks.get(task_id)
        if task is None and (task := await self._store.of_anyone(tx, task_id)) is not None:
            found.before[task_id] = found.tasks[task_id] = task
            # once: 200 news of a task of 5,000 runs took 7 s, now 0.4
            found.runs[task_id] = {run.run_id: run for run in await self._owned.of_task(tx, task_id)}
        runs = found.runs.get(task_id, {})
        news, refused = [], []
        for run in group:
            why_not = _why_not(task, run, is_known=run.run_id in runs)
            if why_not is not None:
                refused.append(await self._refuse(tx, run, why_not))
            elif task is not None and is_news(runs.get(run.run_id), run):
                await self._owned.save(tx, run, stop=task.stops_runs)
                runs[run.run_id] = run
                news.append(run)
        if task is None or not news:
            return refused
        wanted = followed(task, [runs[run_id] for run_id in sorted(runs)])
        status = wanted["status"]
        if task.is_over:
            if status in TERMINAL and status != task.status:
                refused.append(await self._refuse(tx, news[-1], "task_has_ended"))
        elif status != task.status and status not in NEXT[task.status]:
            refused.append(await self._refuse(tx, news[-1], "illegal_move"))
        elif any(getattr(task, field) != value for field, value in wanted.items()):
            found.tasks[task_id] = structs.replace(task, **wanted)
        return refused

    async def _refuse(self, tx: Transaction, run: OwnedRun, reason: str) -> str:
        await self._feeds.refuse(tx, self._feed, run, reason, f"the run is {run.status}")
        return reason


class _Found:
    """Tasks and their runs by the task's id, as a batch of news has found them and as it leaves them."""

    def __init__(self) -> None:
        self.before: dict[str, Task] = {}
        self.tasks: dict[str, Task] = {}
        self.runs: dict[str, dict[str, OwnedRun]] = {}


def _why_not(task: Task | None, run: OwnedRun, *, is_known: bool) -> str | None:
    """Why a run does not belong to the task it names."""
    if task is None:
        return "no_such_task"
    if task.tenant != run.tenant:
        return "other_tenant"
    if task.is_over and not is_known and not task.stops_runs:
        return "task_has_ended"
    return None
