"""Makes what a stack needs and nobody should have to invent: run once at every start, it makes what is missing.

Each directory that is given gets what its name says. A secret that is there is never changed: the database keeps the
password that it was made with, and tokens outlive a restart. Run with an interpreter that has Tailrace's packages.
"""

import datetime
import ipaddress
import os
import secrets
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CERTIFICATE_DAYS = 397  # browsers take none that is valid for longer
RENEWED_DAYS = 30  # before it ends


def main(directories: list[str]) -> int:
    for directory in map(Path, directories):
        MAKERS[directory.name](directory)
    return 0


def make_database(directory: Path) -> None:
    """The password, and the address with it in."""
    if not (directory / "url").exists():  # written last
        password = secrets.token_urlsafe(32)
        host, name = os.environ.get("DATABASE_HOST", "postgres"), os.environ.get("DATABASE_NAME", "tailrace")
        write(directory / "password", password)
        write(directory / "url", f"postgresql://{name}:{password}@{host}:5432/{name}")


def make_jwt(directory: Path) -> None:
    """The secret that tokens are signed with."""
    if not (directory / "secret").exists():
        write(directory / "secret", secrets.token_urlsafe(48))


def make_tls(directory: Path) -> None:
    """A certificate for development, signed by itself; made anew before it ends."""
    if ends_soon(directory / "certificate.pem"):
        names = os.environ.get("CERTIFICATE_NAMES", "localhost,*.localhost,127.0.0.1,::1").split(",")
        key, certificate = self_signed(names)
        write(directory / "key.pem", key)
        write(directory / "certificate.pem", certificate, mode=0o444)


MAKERS = {"database": make_database, "jwt": make_jwt, "tls": make_tls}


def ends_soon(certificate: Path) -> bool:
    """Also when there is none."""
    if not certificate.exists():
        return True
    end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return end < datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RENEWED_DAYS)


def self_signed(names: list[str]) -> tuple[str, str]:
    """A key, and a certificate for these names and addresses, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tailrace, for development")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([general_name(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return pem, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def write(path: Path, text: str, mode: int = 0o400) -> None:
    """In one step: whoever is stopped in the middle leaves nothing that looks finished."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        os.fsync(file.fileno())
    new.rename(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
