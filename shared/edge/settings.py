"""Settings: environment variables, read once, refused at start-up with a sentence when wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

PREFIX = "TAILRACE_"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class SettingsError(Exception):
    """A setting is wrong; the message names it and says what is allowed."""


class Settings(Struct, frozen=True, kw_only=True):
    """Each field is the environment variable of the same name in capitals, with `TAILRACE_` before it."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    database_url: str = ""
    data_directory: str = ".tailrace"
    auth: Literal["off", "jwt"] = "off"
    auth_off_beyond_loopback: bool = False
    jwt_secret: str = ""
    jwt_public_key: str = ""
    jwks_url: str = ""
    jwt_algorithms: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_tenant_claim: str = "tenant"
    service_token: str = ""
    service_token_file: str = ""
    token_url: str = ""
    hosts: str = ""
    origins: str = ""
    trusted_proxies: str = ""
    requests_per_second: Annotated[float, Meta(ge=0, le=1e6)] = 1_000.0
    request_burst: Annotated[float, Meta(ge=1, le=1e7)] = 10_000.0
    unauthenticated_sockets: Annotated[int, Meta(ge=0)] = 100
    websockets: bool = True
    heartbeat_seconds: Annotated[float, Meta(ge=0.05, le=300)] = 15.0
    slow_reader_seconds: Annotated[float, Meta(ge=0.05, le=600)] = 30.0
    retry_milliseconds: Annotated[int, Meta(ge=10, le=600_000)] = 2_000
    stream_max_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    streams_per_process: Annotated[int, Meta(ge=1)] = 20_000
    streams_per_tenant: Annotated[int, Meta(ge=1)] = 10_000
    connections_per_process: Annotated[int, Meta(ge=1)] = 25_000
    connections_per_address: Annotated[int, Meta(ge=0)] = 0
    request_seconds: Annotated[float, Meta(ge=0.1, le=600)] = 15.0
    tail_bytes: Annotated[int, Meta(ge=0)] = 64 * 1024 * 1024
    lag_budget_bytes: Annotated[int, Meta(ge=0)] = 1024 * 1024
    body_bytes: Annotated[int, Meta(ge=1024)] = 2 * 1024 * 1024
    retention_events: Annotated[int, Meta(ge=0, le=10**15)] = 10_000_000
    retention_hours: Annotated[float, Meta(ge=0, le=1_000_000)] = 24.0 * 30
    lease_seconds: Annotated[float, Meta(ge=0.2, le=3600)] = 30.0
    runs_inline_capacity: Annotated[int, Meta(ge=0, le=10_000)] = 32
    tasks_stream_interval_seconds: Annotated[float, Meta(ge=0.1, le=10)] = 1.0
    runs_url: str = ""
    previews_url: str = ""
    public_url: str = ""
    preview_domain: str = "localhost"
    preview_isolation: Literal["", "bubblewrap", "uid", "process"] = ""
    preview_network: bool = True
    preview_ttl_seconds: Annotated[float, Meta(gt=0, le=7 * 86_400)] = 3_600.0
    preview_check_seconds: Annotated[float, Meta(ge=0.05, le=3_600)] = 30.0
    previews_per_tenant: Annotated[int, Meta(ge=0, le=10_000)] = 10
    preview_memory_bytes: Annotated[int, Meta(ge=16 * 1024 * 1024)] = 512 * 1024 * 1024
    preview_disk_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 512 * 1024 * 1024
    preview_processes: Annotated[int, Meta(ge=4, le=100_000)] = 128
    preview_log_lines: Annotated[int, Meta(ge=1_000)] = 500_000
    preview_log_lines_per_second: Annotated[float, Meta(gt=0)] = 10_000.0
    openai_base_url: str = ""
    openai_api_key: str = ""
    openai_model: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Raise SettingsError with a sentence about the first fault found."""
        names = {PREFIX + field.name.upper(): field.name for field in msgspec.structs.fields(cls)}
        environment = with_files(environment)
        given = {names[variable]: value for variable, value in environment.items() if variable in names}
        strange = [v for v in environment if v.startswith(PREFIX) and v not in names and not v.startswith(_OTHER)]
        if strange:
            raise SettingsError(f"There is no setting {sorted(strange)[0]}. There are: {', '.join(sorted(names))}")
        try:
            settings = msgspec.convert(given, cls, strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(_sentence(str(error), environment)) from None
        return settings._checked()

    def list_of(self, name: str) -> tuple[str, ...]:
        """A setting that is a comma list."""
        return tuple(entry for part in getattr(self, name).split(",") if (entry := part.strip()))

    def secrets(self) -> tuple[str, ...]:
        """What must not stand in a log."""
        password = urlsplit(self.database_url).password if "://" in self.database_url else None
        return tuple(text for text in (*(getattr(self, name) for name in SECRETS[1:]), password) if text)

    def _checked(self) -> Self:
        if self.auth == "off" and self.host not in LOOPBACK and not self.auth_off_beyond_loopback:
            raise SettingsError(
                f"TAILRACE_HOST is {self.host}, but with TAILRACE_AUTH=off anybody who reaches it may do anything. "
                "Listen on 127.0.0.1, or set TAILRACE_AUTH_OFF_BEYOND_LOOPBACK=true if that is what you want."
            )
        if self.auth == "off" and any(getattr(self, name) for name in _KEYS):
            raise SettingsError(
                "There is a key for tokens, but TAILRACE_AUTH is off; set it to jwt, or take the key away."
            )
        for name in ("runs_url", "previews_url", "public_url"):
            if (url := getattr(self, name)) and not is_address(url):
                raise SettingsError(f"{PREFIX}{name.upper()} is {url!r}; give an address that begins with http://.")
        if self.token_url and not self.token_url.startswith("/") and not is_address(self.token_url):
            raise SettingsError(
                f"TAILRACE_TOKEN_URL is {self.token_url!r}; give a path such as /session/token, or an address that "
                "begins with https://."
            )
        if not self.openai_api_key.strip().isascii() or not self.openai_api_key.strip().isprintable():
            raise SettingsError("TAILRACE_OPENAI_API_KEY has characters that no HTTP header can carry; set it anew.")
        return self


SECRETS = ("database_url", "jwt_secret", "service_token", "openai_api_key")
FROM_FILES = ("database_url", "jwt_secret", "jwt_public_key", "openai_api_key")  # a service's token is read as needed
_KEYS = ("jwt_secret", "jwt_public_key", "jwks_url")


def with_files(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with what `…_FILE` variables name put in their place, as container secrets are handed over.

    Raise SettingsError for a file that cannot be read, and for a setting that is given twice.
    """
    found = dict(environment)
    for name in FROM_FILES:
        variable = PREFIX + name.upper()
        path = found.pop(f"{variable}_FILE", "")
        if not path:
            continue
        if found.get(variable):
            raise SettingsError(f"{variable} and {variable}_FILE are both set: leave one out.")
        try:
            found[variable] = Path(path).read_text("utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise SettingsError(f"{variable}_FILE is {path!r}, which cannot be read: {_reason(error)}.") from None
    return found


def _reason(error: Exception) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "it is no UTF-8"


# read by the tests, the benchmarks and the commands that are clients, not by a service
_OTHER = ("TAILRACE_TEST_", "TAILRACE_BENCH_", "TAILRACE_URL", "TAILRACE_TOKEN")


def is_address(text: str) -> bool:
    """Whether it is a URL where a service may answer: http or https, a host, and a port that there is."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond 65535, half an IPv6 address
        return False


def _sentence(fault: str, environment: Mapping[str, str]) -> str:
    """msgspec says "Expected `int` <= 65535 - at `$.port`"; a person set TAILRACE_PORT."""
    what, _, where = fault.partition(" - at `$.")
    name = where.rstrip("`")
    variable = PREFIX + name.upper()
    if name in SECRETS:
        return f"{variable} is not as it should be: {what[:1].lower()}{what[1:]}."
    return f"{variable} is {environment.get(variable, '')!r}, which it can't be: {what[:1].lower()}{what[1:]}."
