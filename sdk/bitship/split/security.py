"""Who may talk to a server: loopback alone, or mutual TLS and a token."""

import hmac
import ipaddress
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitship.errors import DeviceError
from bitship.split.oip import service

TOKEN_HEADER = "authorization"
_MIN_TOKEN = 16


@dataclass(frozen=True)
class Security:
    """Files of one side: a certificate, its key, the authority that both sides' certificates are of; a token."""

    certificate: Path
    key: Path
    authority: Path
    token: str

    def server(self) -> Any:
        """Return grpc's server credentials, with the client's certificate required."""
        pair = (_read(self.key, secret=True), _read(self.certificate))
        return service.grpc().ssl_server_credentials([pair], _read(self.authority), require_client_auth=True)

    def client(self) -> Any:
        """Return grpc's channel credentials."""
        return service.grpc().ssl_channel_credentials(
            _read(self.authority), _read(self.key, secret=True), _read(self.certificate)
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what a call carries."""
        return ((TOKEN_HEADER, f"Bearer {self.token}"),)

    def allows(self, metadata: Any) -> bool:
        """Whether a call carries the token."""
        given = dict(metadata).get(TOKEN_HEADER, "")
        text = given if isinstance(given, str) else given.decode(errors="replace")
        return hmac.compare_digest(text.encode(), f"Bearer {self.token}".encode())


def read_token(path: Path) -> str:
    """Return the token that a file holds; DeviceError for a short one."""
    token = _read(path, secret=True).decode(errors="replace").strip()
    if len(token) < _MIN_TOKEN:
        raise DeviceError(f"{path}: a token of {len(token)} characters: at least {_MIN_TOKEN} are needed")
    return token


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(host: str, security: Security | None) -> None:
    """Raise DeviceError where a server would listen beyond loopback without certificates and a token."""
    if not is_loopback(host) and security is None:
        raise DeviceError(
            f"{host}: beyond loopback a server needs certificates and a token; bitship split certs makes them, "
            "or listen on 127.0.0.1"
        )


def _read(path: Path, secret: bool = False) -> bytes:
    try:
        mode = path.stat().st_mode
        if secret and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise DeviceError(f"{path}: others may read it (mode {mode & 0o777:o}); chmod 600 {path}")
        return path.read_bytes()
    except OSError as e:
        raise DeviceError(f"{path}: {e.strerror}; bitship split certs makes certificates, keys and a token") from None
