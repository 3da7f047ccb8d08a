"""What the streams of the previews service carry: requests turned into subscriptions."""

from functools import partial
from urllib.parse import quote

from services.previews.events import FEED_TYPES, LOG_STREAM_TYPES, SCHEMA
from services.previews.lifecycle import NO_PREVIEW, Lifecycle
from services.previews.model import Preview
from services.previews.owners import check_owner, sees_all
from services.previews.store import PreviewStore
from shared.channel.channel import Channel
from shared.edge.admission import Ask, Connection, Current, CurrentPage, Follow, Subscription, whole_number
from shared.edge.ids import is_name
from shared.edge.principal import Principal, principal_of
from shared.edge.problems import BadInput, Missing
from shared.edge.visibility import INTERVAL_SECONDS, Seen, Visibility
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor, Position
from shared.protocol.record import Record

PRIMARY = "log"
DEFAULT_TAIL, MAX_TAIL = 200, 5_000
PAGE = 500


class Subscriptions:
    """Looks the subject up, in the caller's tenant only, and says what is to be sent."""

    def __init__(self, channel: Channel, store: PreviewStore, lifecycle: Lifecycle, visibility: Visibility) -> None:
        self._channel = channel
        self._store = store
        self._lifecycle = lifecycle
        self._visibility = visibility

    async def require(self, principal: Principal, generation_id: str) -> Preview:
        """The newest preview of a generation. Raise Missing in the same words whether it is another tenant's, unknown
        or impossible, and Forbidden when it is another user's.
        """
        preview = None
        if is_name(generation_id):
            preview = await self._store.of_generation(self._store.pool, principal.tenant, generation_id)
        if preview is None:
            raise Missing(NO_PREVIEW)
        check_owner(principal, preview.owner)
        return preview

    async def logs(
        self, connection: Connection, generation_id: str, *, follow: Follow | None = None, polling: bool = False
    ) -> Subscription:
        """One preview's output: its last lines unless a position is given, until it ends."""
        ask = Ask.of(connection, SCHEMA, Anchor.START, follow=follow, on_reset="error" if polling else "reset")
        tail = DEFAULT_TAIL if follow is not None else whole_number(connection, "tail", DEFAULT_TAIL, 0, MAX_TAIL)
        if not ask.is_default and follow is None and "tail" in connection.query_params:
            raise BadInput("tail and a position exclude each other: give one of them")
        arrived = self._channel.state
        principal = principal_of(connection)
        preview = await self.require(principal, generation_id)
        if ask.is_default:
            ask = ask.from_position(await self._before_tail(preview, tail))
        shown = Filter(
            tenant=preview.tenant,
            subjects=(preview.subject,),
            types=ask.types or LOG_STREAM_TYPES,
            ends_above=preview.revived_seq,
        )
        return ask.subscribe(
            self._channel,
            shown,
            arrived,
            f"/api/v1/generations/{quote(generation_id, safe='')}/preview/logs/events",
            primary=PRIMARY,
            ended=preview.status if preview.is_over else None,
            watch=partial(self._visibility.watch, _seen(preview, principal), INTERVAL_SECONDS),
        )

    async def _before_tail(self, preview: Preview, tail: int) -> Position | Anchor:
        """Where the last `tail` lines begin, and what was told between them."""
        seq = await self._store.before_tail(self._store.pool, preview.subject, tail)
        return Anchor.START if seq is None else Position(self._channel.state.epoch, seq)

    def feed(self, connection: Connection, *, follow: Follow | None = None, polling: bool = False) -> Subscription:
        """All of the tenant's previews: from now unless told."""
        ask = Ask.of(connection, SCHEMA, Anchor.NOW, follow=follow, on_reset="error" if polling else "reset")
        tenant = principal_of(connection).reach
        return ask.subscribe(
            self._channel,
            Filter(tenant=tenant, types=ask.types or FEED_TYPES),
            self._channel.state,
            "/api/v1/previews/events",
            endless=True,
            current=self._current(tenant),
        )

    async def channel(self, connection: Connection, follow: Follow) -> Subscription:
        """The subscription that a `follow` message names. Raise BadInput, Missing."""
        match follow.channel.split("/"):
            case ["previews"]:
                return self.feed(connection, follow=follow)
            case ["preview", generation_id] if generation_id:
                return await self.logs(connection, generation_id, follow=follow)
        raise BadInput(f"there is no channel {follow.channel[:80]!r}; give previews or preview/<generation>")

    def _current(self, tenant: str | None) -> Current:
        async def current(after: int, upto: int) -> CurrentPage:
            previews, state = await self._store.changed(self._store.pool, tenant, after, upto, PAGE)
            drafts = [self._lifecycle.status_draft(preview) for preview in previews]
            records = tuple(Record.of(p.last_seq, d) for p, d in zip(previews, drafts, strict=True))
            return CurrentPage(records, state)

        return current


def _seen(preview: Preview, principal: Principal) -> Seen:
    return Seen(preview.tenant, preview.id, None if sees_all(principal) else preview.owner)
