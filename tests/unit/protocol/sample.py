"""A small schema with every delivery class, and events of it. Shared with the contract tests."""

from datetime import UTC, datetime

import msgspec
from hypothesis import strategies as st

from shared.protocol.record import Draft, Record
from shared.protocol.schema import Delivery, Event, Schema

TS = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Log(Event, frozen=True, kw_only=True, tag="log"):
    delivery = Delivery.SHEDDABLE
    line: int
    text: str = ""


class Token(Event, frozen=True, kw_only=True, tag="token"):
    delivery = Delivery.SHEDDABLE
    text: str = ""


class Snapshot(Event, frozen=True, kw_only=True, tag="snapshot"):
    delivery = Delivery.LATEST
    progress: float = 0.0


class WorkerState(Event, frozen=True, kw_only=True, tag="worker.state"):
    delivery = Delivery.LATEST
    latest_key = "worker"
    load: float = 0.0


class Status(Event, frozen=True, kw_only=True, tag="status"):
    status: str
    attempt: int = 1


SCHEMA = Schema([Log, Token, Snapshot, WorkerState, Status])


def draft(
    type: str = "log",
    subject: str = "run/1",
    *,
    tenant: str = "t",
    session: str | None = None,
    worker: str | None = None,
    ends: str | None = None,
    data: bytes | None = None,
) -> Draft:
    if data is None:
        data = msgspec.json.encode({"type": type, "tenant": tenant})
    return Draft(type=type, tenant=tenant, subject=subject, session=session, worker=worker, ends=ends, data=data)


def record(
    seq: int,
    type: str = "log",
    subject: str = "run/1",
    *,
    tenant: str = "t",
    session: str | None = None,
    worker: str | None = None,
    ends: str | None = None,
    data: bytes | None = None,
) -> Record:
    return Record.of(seq, draft(type, subject, tenant=tenant, session=session, worker=worker, ends=ends, data=data))


@st.composite
def logs(draw: st.DrawFn, max_size: int = 40) -> list[Record]:
    """Events of several subjects, workers and types in order, their seqs with holes as a filter makes them."""
    steps = draw(st.lists(st.integers(1, 3), max_size=max_size))
    types = st.sampled_from([*SCHEMA.names, "from.the.future"])
    seq, records = 0, []
    for step in steps:
        seq += step
        records.append(
            record(
                seq,
                draw(types),
                draw(st.sampled_from(["run/1", "run/2"])),
                worker=draw(st.sampled_from([None, "w1", "w2"])),
                ends=draw(st.sampled_from([None, None, None, "done"])),
                data=draw(st.sampled_from([b"{}", b'{"a":1}', b'{"b":"' + b"x" * 100 + b'"}'])),
            )
        )
    return records
