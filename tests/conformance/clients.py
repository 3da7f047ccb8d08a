"""The clients that Tailrace brings, as ways of asking."""

import ssl

import msgspec

from shared.client import AccessRevoked, Client, Refused
from shared.client.client import Transport
from shared.protocol.control import Gap, Reset
from shared.protocol.schema import Event
from tests.conformance.reading import Reading
from tests.conformance.ways import Asked, Kind, Way
from tests.support.contract import Frame


class PythonClient(Way):
    """`shared.client`, which comes back by itself."""

    kind: Kind = "client"

    def __init__(self, transport: Transport, tls: ssl.SSLContext) -> None:
        self.name = f"python client, {transport}"
        self._tls = tls  # unused, and takes 20 ms to make
        self._transport: Transport = transport

    def can_ask(self, asked: Asked) -> bool:
        return not asked.by_header

    async def read(self, asked: Asked, reading: Reading) -> None:
        parameters = dict(asked.parameters)
        types, lossless = parameters.pop("types", None), parameters.pop("lossless", "0")
        on_reset = parameters.pop("on_reset", "reset")
        tokens = list(asked.tokens)

        async def another() -> str:
            return tokens.pop(0) if len(tokens) > 1 else tokens[0]

        async with (
            Client(
                asked.base, transport=self._transport, ssl_context=self._tls, token=another if tokens else None
            ) as client,
            client.follow(
                f"{asked.path}/stream",
                after=asked.after,
                types=None if types is None else types.split(","),
                params=parameters,
                lossless=lossless == "1",
                on_reset=on_reset,
            ) as stream,
        ):
            try:
                while await stream.wait():
                    for item in stream.ready():
                        if stream.live:
                            reading.mark_live()
                        assert not isinstance(item, Event)  # without a schema all are of an unknown type
                        fields = msgspec.to_builtins(item) if isinstance(item, Gap | Reset) else item.fields
                        reading.take(Frame(stream.position, fields))
                    if stream.live:
                        reading.mark_live()
                    await reading.lives()
            except AccessRevoked:
                reading.ended = "access_revoked"
            except Refused as error:
                reading.refuse(error.status, error.problem)
            if stream.end is not None:
                reading.ended = f"{stream.end.reason} {stream.end.status}"
