"""A development authority: certificates for a server and a client, their keys, a token. Not for production."""

import datetime
import ipaddress
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitship.errors import PackageError
from bitship.extras import require
from bitship.split.security import Security

AUTHORITY, TOKEN = "ca.pem", "token"
SERVER, CLIENT = "server", "client"
_DAYS = 90
_SKEW = datetime.timedelta(minutes=10)  # certificates are valid for clocks that lag


def make(folder: Path, hosts: Sequence[str], days: int = _DAYS) -> list[Path]:
    """Make an authority, a server's and a client's certificate and a token in a new or empty folder.

    hosts  names and addresses that clients reach the server by
    days   until the server's and the client's certificates expire; below 0 they are expired already

    PackageError where the folder holds anything. Keys and the token have mode 600.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()):
        raise PackageError(f"{folder}: not empty; certificates go into a folder of their own")
    ec = _module("hazmat.primitives.asymmetric.ec")
    authority_key = ec.generate_private_key(ec.SECP256R1())
    name = _name("bitship development authority")
    authority = _certificate(name, name, authority_key, authority_key, max(days, 1), None, ())
    made = [_write(folder / AUTHORITY, _pem(authority))]
    for who, names in ((SERVER, tuple(hosts)), (CLIENT, ())):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(_name(f"bitship {who}"), name, key, authority_key, days, who, names)
        made.append(_write(folder / f"{who}.pem", _pem(certificate)))
        made.append(_write(folder / f"{who}.key", _key_pem(key), 0o600))
    made.append(_write(folder / TOKEN, secrets.token_urlsafe(32).encode(), 0o600))
    return made


def security(folder: Path, who: str) -> Security:
    """Return one side's files of a folder that ``make`` made."""
    from bitship.split.security import read_token

    return Security(folder / f"{who}.pem", folder / f"{who}.key", folder / AUTHORITY, read_token(folder / TOKEN))


def _module(name: str) -> Any:
    return require(f"cryptography.{name}", "split", "certificates")


def _name(text: str) -> Any:
    x509 = _module("x509")
    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, text)])


def _certificate(
    subject: Any, issuer: Any, key: Any, signer: Any, days: int, who: str | None, hosts: Sequence[str]
) -> Any:
    """Return a certificate; ``who`` None makes an authority's."""
    x509 = _module("x509")
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end - datetime.timedelta(days=1)) - _SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=who is None, path_length=0 if who is None else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if who is not None:
        use = x509.oid.ExtendedKeyUsageOID
        allowed = use.SERVER_AUTH if who == SERVER else use.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([allowed]), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
    return builder.sign(signer, _module("hazmat.primitives.hashes").SHA256())


def _host(text: str) -> Any:
    x509 = _module("x509")
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: Any) -> bytes:
    data: bytes = certificate.public_bytes(_module("hazmat.primitives.serialization").Encoding.PEM)
    return data


def _key_pem(key: Any) -> bytes:
    s = _module("hazmat.primitives.serialization")
    data: bytes = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    return data


def _write(path: Path, data: bytes, mode: int = 0o644) -> Path:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    path.chmod(mode)
    return path
