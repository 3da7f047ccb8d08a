"""The life of a task: every change of a task's row, checked, together with the snapshot that tells of it."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import structs

from services.tasks.events import SCHEMA, Deleted, TaskStatus
from services.tasks.merge import merge
from services.tasks.model import NEXT, Task, TaskFields, snapshot_of, view
from services.tasks.owned_runs import OwnedRuns
from services.tasks.store import TaskStore
from shared.channel.channel import Channel
from shared.channel.log import Outcome, Transaction
from shared.edge.fields import check_depth
from shared.edge.idempotency import Answers, IdempotencyKey
from shared.edge.ids import new_id
from shared.edge.problems import BadInput, Conflict, Missing
from shared.protocol.position import Position
from shared.protocol.record import DELETED, Draft

NO_TASK = "There is no such task."

Check = Callable[[str], object]
"""Is given the position of the task's newest snapshot; raises to refuse the change."""


class Lifecycle:
    """Runs each change as a command of the channel, so that all changes of all processes happen one after another."""

    def __init__(self, channel: Channel, store: TaskStore, owned: OwnedRuns, answers: Answers) -> None:
        self._channel = channel
        self._store = store
        self._owned = owned
        self._answers = answers

    async def create(self, tenant: str, owner: str, fields: TaskFields, key: IdempotencyKey | None) -> bytes:
        """Store a new task; return the JSON of its view. With a key used before: what that returned."""
        task_id = new_id("task")

        async def change(tx: Transaction) -> Outcome[bytes]:
            if key is not None and (answer := await self._answers.recall(tx, key)) is not None:
                return Outcome(answer)
            now = await self._store.now(tx)
            decided = {name: getattr(fields, name) for name in fields.__struct_fields__}
            task = Task(
                id=task_id,
                tenant=tenant,
                owner=owner,
                **decided,
                rev=1,
                created_at=now,
                updated_at=now,
                run_ids=[],
                preview_status=await self._store.preview_status(tx, tenant, fields.generation_id),
                stops_runs=False,
                last_seq=tx.next_seq,
            )
            await self._store.insert(tx, task)
            answer = msgspec.json.encode(view(task, tx.epoch))
            if key is not None:
                await self._answers.remember(tx, key, answer)
            return Outcome(answer, [draft_of(task)])

        return (await self._channel.execute(change)).value

    async def patch(self, tenant: str, task_id: str, patch: Mapping[str, Any], check: Check) -> tuple[Task, str]:
        """Apply a merge patch. Raise Missing, BadInput, Conflict, and what `check` raises; a patch that changes nothing
        stores nothing.
        """
        check_patch(patch)

        async def change(tx: Transaction) -> Outcome[Task]:
            task = await self._find(tx, tenant, task_id, check)
            fields = patched(task, patch)
            changed = {name: value for name in patch if _differs(value := getattr(fields, name), getattr(task, name))}
            if not changed:
                return Outcome(task)
            if task.is_over:
                raise Conflict(f"The task has ended: it is {task.status}, and stays as it is.", task_status=task.status)
            if "generation_id" in changed:
                changed["preview_status"] = await self._store.preview_status(tx, tenant, fields.generation_id)
            return await self._change(tx, task, changed)

        return await self._executed(change)

    async def cancel(self, tenant: str, task_id: str, check: Check) -> tuple[Task, str]:
        """End a task, and ask its runs to stop. Asking again is harmless; after another end: Conflict."""

        async def change(tx: Transaction) -> Outcome[Task]:
            task = await self._find(tx, tenant, task_id, check)
            if task.status != "cancelled":
                return await self._change(tx, task, {"status": "cancelled"})
            if not task.stops_runs:  # its runs have made it so; those that come now are to stop as well
                await self._store.save(tx, structs.replace(task, stops_runs=True))
                await self._owned.stop(tx, task.id)
            return Outcome(task)

        return await self._executed(change)

    async def delete(self, tenant: str, task_id: str, check: Check) -> None:
        """Remove a task, and its snapshots from every read. Its runs go on."""

        async def change(tx: Transaction) -> Outcome[None]:
            task = await self._find(tx, tenant, task_id, check)
            await self._store.delete(tx, task)
            await self._owned.forget(tx, task.id)
            event = SCHEMA.built(Deleted(tenant=tenant, task_id=task.id, ts=await self._store.now(tx)))
            draft = Draft(type=event.type, tenant=tenant, subject=task.subject, ends=DELETED, data=event.data)
            return Outcome(None, [draft])

        await self._channel.execute(change)

    async def _executed(self, change: Any) -> tuple[Task, str]:
        done = await self._channel.execute(change)
        return done.value, done.last.epoch

    async def _find(self, tx: Transaction, tenant: str, task_id: str, check: Check) -> Task:
        task = await self._store.get(tx, tenant, task_id, lock=True)
        if task is None:
            raise Missing(NO_TASK)
        check(str(Position(tx.epoch, task.last_seq)))
        return task

    async def _change(self, tx: Transaction, task: Task, changed: Mapping[str, Any]) -> Outcome[Task]:
        if "status" in changed:
            check_move(task, changed["status"])
        if changed.get("status") == "cancelled":
            changed = {**changed, "stops_runs": True}
            await self._owned.stop(tx, task.id)
        task = renewed(task, changed, tx.next_seq, await self._store.now(tx))
        await self._store.save(tx, task)
        return Outcome(task, [draft_of(task)])


def check_move(task: Task, status: TaskStatus) -> None:
    """Raise Conflict for a move that is not allowed."""
    if status not in NEXT[task.status]:
        after = ", ".join(sorted(NEXT[task.status])) or "nothing: it has ended"
        raise Conflict(
            f"A task that is {task.status} cannot become {status}; what may follow: {after}.", task_status=task.status
        )


def _differs(value: Any, other: Any) -> bool:
    """Whether they are different JSON: to Python, true equals 1."""
    return value != other or msgspec.json.encode(value) != msgspec.json.encode(other)


def renewed(task: Task, changed: Mapping[str, Any], seq: int, now: datetime) -> Task:
    """The task with these changes; its snapshot is going to be stored at `seq`."""
    return structs.replace(task, **changed, rev=task.rev + 1, updated_at=now, last_seq=seq)


def draft_of(task: Task) -> Draft:
    """The snapshot of the task, to be stored."""
    event = SCHEMA.built(snapshot_of(task))
    ends = task.status if task.is_over else None
    return Draft(type=event.type, tenant=task.tenant, subject=task.subject, ends=ends, data=event.data)


def check_patch(patch: Mapping[str, Any]) -> None:
    """Raise BadInput for fields that are not there or not the caller's to set."""
    strange = sorted(set(patch) - set(TaskFields.__struct_fields__))
    if strange:
        allowed = ", ".join(TaskFields.__struct_fields__)
        raise BadInput(f"a task has no field {', '.join(map(repr, strange))[:200]} to set; allowed: {allowed}")
    try:
        check_depth("the patch", patch)
    except ValueError as error:
        raise BadInput(str(error)) from None


def patched(task: Task, patch: Mapping[str, Any]) -> TaskFields:
    """What a caller may set of the task, after the patch; a field set to null takes its default. Raise BadInput."""
    kept = {name: getattr(task, name) for name in TaskFields.__struct_fields__}
    merged = merge(msgspec.to_builtins(kept), patch)
    try:
        return msgspec.convert(merged, TaskFields)
    except msgspec.ValidationError as error:
        raise BadInput(f"{error}. Nothing was changed.") from None
