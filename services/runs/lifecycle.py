"""The life of a run: every change of a run's row, checked, together with the events that tell of it."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import structs

from services.runs.agent_events import ClientInputReceived
from services.runs.events import SCHEMA, Deleted
from services.runs.model import FinishStatus, Run, view
from services.runs.producers import already_stored, is_repeat
from services.runs.steps import (
    LOST_LEASE,
    Appended,
    Batch,
    Created,
    Finish,
    Lease,
    NewRun,
    check_lease,
    check_session,
    draft_of,
    error_of,
    fresh,
    is_timed_out,
    moved,
    status_of,
    told,
    unleased,
)
from services.runs.store import RunStore
from services.runs.summary import summarise
from shared.channel.channel import Channel
from shared.channel.log import Outcome, Transaction
from shared.edge.idempotency import Answers, IdempotencyKey
from shared.edge.ids import new_id
from shared.edge.problems import Conflict, Forbidden, Missing
from shared.protocol.record import Draft
from shared.protocol.schema import Built, Event

NO_RUN = "There is no such run."


class Lifecycle:
    """Runs each change as a command of the channel, so that all changes of all processes happen one after another."""

    def __init__(self, channel: Channel, store: RunStore, answers: Answers, *, lease_seconds: float) -> None:
        self._channel = channel
        self._store = store
        self._answers = answers
        self.lease_seconds = lease_seconds

    # ── creating and leasing ───────────────────────────────────────────────────────────────────────────────────

    async def create(
        self, news: Sequence[NewRun], *, holder: str | None = None, key: IdempotencyKey | None = None
    ) -> Created:
        """Store new runs: queued, or running under leases of `holder`. With a key used before: what that made."""
        ids = sorted(new_id("run") for _ in news)  # of the same millisecond perhaps, and listed by their ids

        async def change(tx: Transaction) -> Outcome[Created]:
            if key is not None and (answer := await self._answers.recall(tx, key)) is not None:
                return Outcome(Created(answer))
            now = await self._store.now(tx)
            runs, leases = [], []
            drafts: list[Draft] = []
            for run_id, new in zip(ids, news, strict=True):
                run, lease, its_drafts = await self._insert(tx, len(drafts), fresh(run_id, new, now), holder, now)
                runs.append(run)
                drafts.extend(its_drafts)
                if lease is not None:
                    leases.append((run, lease))
            answer = msgspec.json.encode([view(run, tx.epoch) for run in runs])
            if key is not None:
                await self._answers.remember(tx, key, answer)
            return Outcome(Created(answer, tuple(leases)), drafts)

        return (await self._channel.execute(change)).value

    async def recall(self, key: IdempotencyKey) -> bytes | None:
        """What `create` answered to this key before. Raise Unprocessable when it was to another body."""
        return await self._answers.recall(self._store.pool, key)

    async def _insert(
        self, tx: Transaction, place: int, run: Run, holder: str | None, now: datetime
    ) -> tuple[Run, Lease | None, list[Draft]]:
        """`place` events of the same transaction stand before this run's."""
        events, lease = [status_of(run, now)], None
        if holder is not None:
            run, lease = self._leased(run, secrets.token_urlsafe(24), holder, now)
            events.append(status_of(run, now))
        run, drafts = told(tx.next_seq + place, run, [SCHEMA.built(event) for event in events], now)
        await self._store.insert(tx, run)
        return run, lease, drafts

    async def lease(self, run_id: str, holder: str) -> tuple[Run, str, Lease] | None:
        """Take a queued run. None when somebody else was faster."""
        token = secrets.token_urlsafe(24)

        async def change(tx: Transaction) -> Outcome[tuple[Run, Lease] | None]:
            locked = await self._store.lock(tx, run_id)
            if locked is None or locked[0].status != "queued":
                return Outcome(None)
            run, now = locked
            run, lease = self._leased(run, token, holder, now)
            run, drafts = await self._save(tx, run, [status_of(run, now)], now)
            return Outcome((run, lease), drafts)

        done = await self._channel.execute(change)
        return None if done.value is None else (done.value[0], done.last.epoch, done.value[1])

    def _leased(self, run: Run, token: str, holder: str, now: datetime) -> tuple[Run, Lease]:
        expires_at = now + timedelta(seconds=self.lease_seconds)
        run = structs.replace(
            moved(run, "running"),
            lease_token=token,
            lease_worker=holder,
            lease_expires_at=expires_at,
            started_at=run.started_at or now,
        )
        return run, Lease(token, expires_at)

    # ── working ────────────────────────────────────────────────────────────────────────────────────────────────

    async def append(self, tenant: str, run_id: str, token: str, batch: Batch) -> Appended:
        """Store a worker's events.

        Precedence: a repeat is acknowledged and not stored twice, even after the end; then a lost lease (Forbidden);
        a finished run, a hole in the producer's numbers (Conflict); of a partial overlap the new part is stored.
        """

        async def change(tx: Transaction) -> Outcome[tuple[int, int | None, Run]]:
            run, now = await self._find(tx, tenant, run_id)
            events, first = batch.events, batch.producer_seq
            check_session(run, events)
            if batch.producer is not None and first is not None:
                subject, count = run.subject, len(events)
                expected = await self._store.next_producer_seq(tx, tenant, subject, batch.producer)
                if is_repeat(expected, first, count):
                    return Outcome((0, expected, run))
                check_lease(run, token, now)
                events = events[already_stored(expected, first, batch.producer) :]
                await self._store.save_producer(tx, tenant, subject, batch.producer, first + count)
            else:
                check_lease(run, token, now)
            after = None if first is None else first + len(batch.events)
            if run.status == "running" and any(built.type == "client_input_requested" for built in events):
                run = moved(run, "waiting_input")
                summary = summarise(run.summary, [built.event for built in events], run.attempt)
                waits = SCHEMA.built(status_of(structs.replace(run, summary=summary), now))
                run, drafts = await self._save(tx, run, [*events, waits], now)
            else:  # the hot path: only what appending changes is written
                run, drafts = told(tx.next_seq, run, events, now)
                await self._store.save_progress(tx, run)
            return Outcome((len(events), after, run), drafts)

        done = await self._channel.execute(change, size=1_000 * len(batch.events))
        stored, next_seq, run = done.value
        return Appended(stored, f"{done.last.epoch}-{run.last_seq}", next_seq, run.should_stop)

    async def renew(self, tenant: str, run_id: str, token: str) -> tuple[Lease, bool]:
        """Keep the lease for another period; also whether the run is to stop. Raise Missing, Conflict, Forbidden."""
        row = await self._store.renew(self._store.pool, tenant, run_id, token, self.lease_seconds)
        if row is not None:
            return Lease(token, row["lease_expires_at"]), row["status"] == "cancelling"
        run = await self._store.get(self._store.pool, tenant, run_id)
        if run is None:
            raise Missing(NO_RUN)
        check_lease(run, token, datetime.now(UTC))
        raise Forbidden(LOST_LEASE)

    async def finish(self, tenant: str, run_id: str, token: str, finish: Finish) -> tuple[Run, str]:
        """End a run. The same word from the same holder again is acknowledged."""

        async def change(tx: Transaction) -> Outcome[Run]:
            run, now = await self._find(tx, tenant, run_id)
            if run.status == finish.status and run.lease_token == token:
                return Outcome(run)
            check_lease(run, token, now)
            run, drafts = await self._end(tx, run, finish.status, now, error=finish.error, output=finish.output)
            return Outcome(run, drafts)

        done = await self._channel.execute(change)
        return done.value, done.last.epoch

    async def give_back(self, tenant: str, run_id: str, token: str) -> None:
        """Put a run back into the queue without counting the attempt: its holder is shutting down."""

        async def change(tx: Transaction) -> Outcome[None]:
            run, now = await self._find(tx, tenant, run_id)
            if run.lease_token != token or run.is_over:
                return Outcome(None)
            if run.status == "cancelling":
                _, drafts = await self._end(tx, run, "cancelled", now)
                return Outcome(None, drafts)
            run = moved(unleased(run), "queued")
            _, drafts = await self._save(tx, run, [status_of(run, now, message="given back by its worker")], now)
            return Outcome(None, drafts)

        await self._channel.execute(change)

    # ── from outside ───────────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, tenant: str | None, run_id: str) -> tuple[Run, str]:
        """Ask a run to stop; a queued one is cancelled at once. Asking again is harmless; after the end: Conflict."""

        async def change(tx: Transaction) -> Outcome[Run]:
            run, now = await self._find(tx, tenant, run_id)
            if run.status in ("cancelling", "cancelled"):
                return Outcome(run)
            if run.is_over:
                raise Conflict(f"The run has ended already: it is {run.status}.", run_status=run.status)
            if run.status == "queued":
                run, drafts = await self._end(tx, run, "cancelled", now)
            else:
                run = moved(run, "cancelling")
                run, drafts = await self._save(tx, run, [status_of(run, now)], now)
            return Outcome(run, drafts)

        done = await self._channel.execute(change)
        return done.value, done.last.epoch

    async def input(self, tenant: str, run_id: str, value: Any) -> tuple[Run, str]:
        """Give a run that waits for input what it waits for. Raise Conflict when it does not wait."""

        async def change(tx: Transaction) -> Outcome[Run]:
            run, now = await self._find(tx, tenant, run_id)
            if run.status != "waiting_input":
                raise Conflict(f"The run does not wait for input: it is {run.status}.", run_status=run.status)
            run = moved(run, "running")
            text, data = (value, None) if isinstance(value, str) else (None, {"input": value})
            received = ClientInputReceived(
                tenant=tenant, run_id=run.id, session_id=run.session_id, ts=now, text=text, data=data
            )
            run, drafts = await self._save(tx, run, [received, status_of(run, now)], now)
            return Outcome(run, drafts)

        done = await self._channel.execute(change)
        return done.value, done.last.epoch

    async def delete(self, tenant: str, run_id: str) -> None:
        """Remove a run that has ended, and its events from every read. Raise Conflict while it goes on."""

        async def change(tx: Transaction) -> Outcome[None]:
            run, now = await self._find(tx, tenant, run_id)
            if not run.is_over:
                raise Conflict(f"The run is {run.status}: cancel it, then delete it.", run_status=run.status)
            await self._store.delete(tx, run)
            return Outcome(None, [draft_of(run, SCHEMA.built(Deleted(tenant=tenant, run_id=run.id, ts=now)))])

        await self._channel.execute(change)

    async def sweep(self, run_id: str) -> None:
        """Deal with a run whose lease has expired or whose time is up; harmless for any other."""

        async def change(tx: Transaction) -> Outcome[None]:
            locked = await self._store.lock(tx, run_id)
            if locked is None:
                return Outcome(None)
            run, now = locked
            if run.is_over or run.lease_expires_at is None:
                return Outcome(None)
            if is_timed_out(run, now):
                message = f"the run took longer than its {run.timeout_seconds:g} s"
                error = error_of(run, now, "timeout", message, fatal=True)
                _, drafts = await self._end(tx, run, "timed_out", now, error=message, before=[error])
                return Outcome(None, drafts)
            if run.lease_expires_at >= now:
                return Outcome(None)
            return Outcome(None, await self._abandoned(tx, run, now))

        await self._channel.execute(change)

    async def _abandoned(self, tx: Transaction, run: Run, now: datetime) -> Sequence[Draft]:
        """Its worker has not renewed the lease: another attempt, or the end."""
        message = f"worker {run.lease_worker} has lost its lease in attempt {run.attempt} of {run.max_attempts}"
        if run.status == "cancelling":
            return (await self._end(tx, run, "cancelled", now))[1]
        if run.attempt >= run.max_attempts:
            error = error_of(run, now, "lease_lost", message, fatal=True)
            return (await self._end(tx, run, "failed", now, error=message, before=[error]))[1]
        error = error_of(run, now, "lease_lost", message, fatal=False)
        run = structs.replace(moved(unleased(run), "queued"), attempt=run.attempt + 1)
        return (await self._save(tx, run, [error, status_of(run, now)], now))[1]

    # ── together ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _find(self, tx: Transaction, tenant: str | None, run_id: str) -> tuple[Run, datetime]:
        locked = await self._store.lock(tx, run_id)
        if locked is None or tenant not in (None, locked[0].tenant):
            raise Missing(NO_RUN)
        return locked

    async def _end(
        self,
        tx: Transaction,
        run: Run,
        status: FinishStatus,
        now: datetime,
        *,
        error: str | None = None,
        output: str | None = None,
        before: Sequence[Event] = (),
    ) -> tuple[Run, list[Draft]]:
        run = structs.replace(moved(run, status), error=error, output=output, finished_at=now, lease_expires_at=None)
        summary = summarise(run.summary, before, run.attempt)
        return await self._save(tx, run, [*before, status_of(structs.replace(run, summary=summary), now)], now)

    async def _save(
        self, tx: Transaction, run: Run, events: Sequence[Event | Built], now: datetime
    ) -> tuple[Run, list[Draft]]:
        built = [event if isinstance(event, Built) else SCHEMA.built(event) for event in events]
        run, drafts = told(tx.next_seq, run, built, now)
        await self._store.save(tx, run)
        return run, drafts
