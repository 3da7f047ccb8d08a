"""What a stack's first start makes: secrets that nobody has to invent, kept from then on."""

import datetime
import ipaddress
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from deploy import first_start


@pytest.fixture
def directories(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("database", "jwt", "tls")]
    for directory in made:
        directory.mkdir()
    return made


def start(directories: list[Path]) -> dict[str, str]:
    assert first_start.main([str(directory) for directory in directories]) == 0
    return {f"{path.parent.name}/{path.name}": path.read_text() for d in directories for path in d.iterdir()}


def test_a_first_start_makes_everything_and_a_second_one_changes_nothing(directories: list[Path]) -> None:
    made = start(directories)
    assert sorted(made) == ["database/password", "database/url", "jwt/secret", "tls/certificate.pem", "tls/key.pem"]
    assert made["database/url"] == f"postgresql://tailrace:{made['database/password']}@postgres:5432/tailrace"
    assert len(made["jwt/secret"]) >= 43  # 32 bytes of chance at least
    assert start(directories) == made


def test_two_stacks_have_nothing_in_common(directories: list[Path]) -> None:
    first = start(directories)
    for directory in directories:
        for file in directory.iterdir():
            file.unlink()
    second = start(directories)
    assert [name for name in first if first[name] == second[name]] == []


def test_secrets_are_readable_by_their_owner_alone(directories: list[Path]) -> None:
    start(directories)
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for directory in directories for f in directory.iterdir()}
    assert modes.pop("certificate.pem") == 0o444
    assert set(modes.values()) == {0o400}


def test_a_start_that_was_stopped_in_the_middle_is_made_good(directories: list[Path]) -> None:
    database = directories[0]
    (database / "password").write_text("of a start that did not come to the address")
    (database / "url.new").write_text("half")
    made = start(directories)
    assert made["database/password"] in made["database/url"]
    assert "half" not in made.values()


def test_the_certificate_is_for_the_names_and_made_anew_before_it_ends(
    directories: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CERTIFICATE_NAMES", "tailrace.test,*.tailrace.test,10.1.2.3")
    made = start(directories)
    certificate = x509.load_pem_x509_certificate(made["tls/certificate.pem"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["tailrace.test", "*.tailrace.test"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.1.2.3")]
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
        directories[2] / "certificate.pem", directories[2] / "key.pem"
    )

    monkeypatch.setattr(first_start, "RENEWED_DAYS", first_start.CERTIFICATE_DAYS + 1)
    assert start(directories)["tls/certificate.pem"] != made["tls/certificate.pem"]
    assert certificate.not_valid_after_utc > datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=300)
