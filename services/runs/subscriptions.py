"""What the streams of the runs service carry: requests turned into subscriptions."""

from collections.abc import Sequence
from functools import partial
from urllib.parse import quote

from msgspec import structs

from services.runs.agent_events import DEFAULT_TYPES, HEARD_FROM_WORKERS, REPLAYED_TYPES
from services.runs.events import RUN_TYPES, SCHEMA, TERMINAL
from services.runs.lifecycle import NO_RUN
from services.runs.model import Run
from services.runs.store import RunStore
from shared.channel.channel import Channel
from shared.edge.admission import Ask, Connection, Follow, Subscription, list_parameter
from shared.edge.gate import entry_of
from shared.edge.ids import is_id, is_name
from shared.edge.principal import principal_of
from shared.edge.problems import BadInput, Missing
from shared.edge.visibility import INTERVAL_SECONDS, Seen, Visibility
from shared.protocol.filter import Filter, type_pattern
from shared.protocol.position import Anchor

MAX_RUNS = 200


def check_session(name: str) -> None:
    """Raise Missing for the id of a session or a worker that cannot be one."""
    if not is_name(name):
        raise Missing("There is no such session: an id has 1 to 200 printable characters and no slash.")


class Subscriptions:
    """Looks the subject up, in the caller's tenant only, and says what is to be sent."""

    def __init__(self, channel: Channel, store: RunStore, visibility: Visibility) -> None:
        self._channel = channel
        self._store = store
        self._visibility = visibility

    @staticmethod
    def of_run(run: Run) -> Filter:
        """Everything about one run."""
        return Filter(tenant=run.tenant, subjects=(run.subject,))

    async def require(self, tenant: str | None, run_id: str) -> Run:
        """The run. Raise Missing in the same words whether it is another tenant's, unknown or impossible."""
        run = await self._store.get(self._store.pool, tenant, run_id) if is_id("run", run_id) else None
        if run is None:
            raise Missing(NO_RUN)
        return run

    async def run(
        self, connection: Connection, run_id: str, *, follow: Follow | None = None, polling: bool = False
    ) -> Subscription:
        """One run: from its start unless told, until it ends."""
        ask = Ask.of(connection, SCHEMA, Anchor.START, follow=follow, on_reset="error" if polling else "reset")
        arrived = self._channel.state
        run = await self.require(principal_of(connection).reach, run_id)
        return ask.subscribe(
            self._channel,
            Filter(tenant=run.tenant, subjects=(run.subject,), types=ask.types),
            arrived,
            f"/api/v1/runs/{run.id}/events",
            ended=run.status if run.status in TERMINAL else None,
            watch=partial(self._visibility.watch, Seen(run.tenant, run.id), INTERVAL_SECONDS),
        )

    async def feed(
        self, connection: Connection, *, follow: Follow | None = None, polling: bool = False
    ) -> Subscription:
        """Several runs, or all of the tenant: from now unless told."""
        ask = Ask.of(connection, SCHEMA, Anchor.NOW, follow=follow, on_reset="error" if polling else "reset")
        arrived = self._channel.state
        tenant = principal_of(connection).reach
        run_ids = [] if follow is not None else sorted(set(list_parameter(connection, "run")))
        if run_ids:
            await self._check(tenant, run_ids)
        elif follow is None and "run" in connection.query_params:
            raise BadInput("run is empty; give the ids of runs, or leave it out for all of them")
        subjects = tuple(f"run/{run_id}" for run_id in run_ids) or None
        query = "&".join(f"run={quote(run_id)}" for run_id in run_ids)
        return ask.subscribe(
            self._channel,
            Filter(tenant=tenant, subjects=subjects, types=ask.types),
            arrived,
            "/api/v1/runs/events" + (f"?{query}" if query else ""),
            endless=True,
        )

    def session(
        self,
        connection: Connection,
        session_id: str,
        *,
        worker: str | None = None,
        follow: Follow | None = None,
        polling: bool = False,
    ) -> Subscription:
        """A session without its workers' chatter, or everything of one worker in it."""
        default = Anchor.START
        ask = Ask.of(connection, SCHEMA, default, follow=follow, on_reset="error" if polling else "reset")
        check_session(session_id)
        own = Filter(tenant=principal_of(connection).tenant, session=session_id)
        url = f"/api/v1/sessions/{quote(session_id, safe='')}"
        if worker is not None:
            check_session(worker)
            shown = structs.replace(own, worker=worker, types=ask.types)
            url += f"/workers/{quote(worker, safe='')}"
            return ask.subscribe(self._channel, shown, self._channel.state, f"{url}/events")
        shown = structs.replace(own, types=ask.types or DEFAULT_TYPES, from_workers=(*HEARD_FROM_WORKERS, *RUN_TYPES))
        history = None
        if ask.is_default:
            named = type_pattern(shown.types or ())
            history = structs.replace(shown, types=tuple(name for name in REPLAYED_TYPES if named.fullmatch(name)))
        return ask.subscribe(self._channel, shown, self._channel.state, f"{url}/events", history=history)

    async def channel(self, connection: Connection, follow: Follow) -> Subscription:
        """The subscription that a `follow` message names. Raise BadInput, Missing, OutOfScope."""
        parts = follow.channel.split("/")
        entry_of(connection.scope).demand(("sessions:read",) if parts[0] == "session" else ("runs:read",))
        match parts:
            case ["runs"]:
                return await self.feed(connection, follow=follow)
            case ["run", run_id] if run_id:
                return await self.run(connection, run_id, follow=follow)
            case ["session", session_id] if session_id:
                return self.session(connection, session_id, follow=follow)
            case ["session", session_id, "worker", worker]:
                return self.session(connection, session_id, worker=worker, follow=follow)
        ours = "runs, run/<id>, session/<id> or session/<id>/worker/<worker>"
        raise BadInput(f"there is no channel {follow.channel[:80]!r}; give {ours}")

    async def _check(self, tenant: str | None, run_ids: Sequence[str]) -> None:
        if len(run_ids) > MAX_RUNS:
            raise BadInput(f"{len(run_ids)} runs at once; at most {MAX_RUNS} go on one stream")
        found = await self._store.exist(self._store.pool, tenant, [r for r in run_ids if is_id("run", r)])
        missing = [run_id[:60] for run_id in run_ids if run_id not in found]
        if missing:
            raise Missing(f"There is no run {', '.join(missing[:5])}.")
