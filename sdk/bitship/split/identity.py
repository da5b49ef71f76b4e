"""The handshake: a request names the model, the tables and the cut it was made for, or it is refused."""

from collections.abc import Mapping

from bitship.split.frame import Frame, Refusal, RefusedError
from bitship.split.oip.service import IDENTITY
from bitship.split.wire import Wire

_CODES = (Refusal.WRONG_MODEL, Refusal.STALE_TABLE, Refusal.WRONG_SPLIT)


def check_identity(wire: Wire, frame: Frame, given: Mapping[str, object]) -> None:
    """Raise RefusedError, with what was given and what is served, unless a request's parameters are this package's."""
    wire.check_rung(frame.rung)
    wanted = (wire.model, wire.tables[frame.rung], wire.split)
    for name, here, code in zip(IDENTITY, wanted, _CODES, strict=True):
        if (found := given.get(name)) != here:
            said = "the request has none" if found is None else f"the request has {str(found)[:64]}"
            raise RefusedError(code, f"{name}: {said}, this server has {here}")
