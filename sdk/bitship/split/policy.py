"""What a link can do, estimated from the last transfers, and what to do with an input because of it."""

from collections import deque
from dataclasses import dataclass, field

from bitship.split.frame import Answer

_FASTEST = 1e9  # bits a second: beyond it no transfer tells anything
_SHORTEST_S = 0.0005  # a transfer's time above the round trip, as well as it is known
_CHANGED = 1.5  # a rate that differs by more is another rate, not noise
_SMOOTH = 0.3
_GIVEN_UP = 0.7


@dataclass
class LinkEstimate:
    """Round trip and rate upwards. A fall of the rate counts at once, a rise when two transfers agree.

    round_trip_s  the lowest seen of what a transfer takes beside its bytes; rate_bps  bits a second; server_s  smoothed
    """

    round_trip_s: float = 0.05
    rate_bps: float = 1e6
    server_s: float = 0.002
    known: bool = False
    _higher: deque[float] = field(default_factory=lambda: deque(maxlen=2))

    def start(self, small_s: float, large_s: float, nbytes: int) -> None:
        """Begin from two probes, one of no bytes and one of ``nbytes`` more."""
        self.round_trip_s = small_s
        self.rate_bps = self._rate(nbytes, large_s - small_s)
        self.known = True
        self._higher.clear()

    def transferred(self, nbytes: int, seconds: float, server_s: float) -> None:
        """Take in a transfer of ``nbytes`` up that took ``seconds``, ``server_s`` of them at the server."""
        self.server_s += (server_s - self.server_s) * _SMOOTH
        network = max(seconds - server_s, 0.0)
        at_rate = 8 * nbytes / self.rate_bps
        if network < self.round_trip_s:
            self.round_trip_s = max(network - min(at_rate, network / 2), 0.0)
        self._take(self._rate(nbytes, network - self.round_trip_s))

    def gave_up(self, nbytes: int, seconds: float) -> None:
        """Take in a transfer that was not done after ``seconds``: the rate is below what that would have taken."""
        most = self._rate(nbytes, seconds - self.round_trip_s - self.server_s)
        self.rate_bps = min(self.rate_bps, most) * _GIVEN_UP
        self._higher.clear()

    def seconds(self, nbytes: int) -> float:
        """Return how long a request of ``nbytes`` is expected to take."""
        return self.round_trip_s + 8 * nbytes / self.rate_bps + self.server_s

    def _take(self, rate: float) -> None:
        if rate < self.rate_bps / _CHANGED:
            self.rate_bps = rate
            self._higher.clear()
        elif rate > self.rate_bps * _CHANGED:
            self._higher.append(rate)
            if len(self._higher) == 2:
                self.rate_bps = min(self._higher)
                self._higher.clear()
        else:
            self.rate_bps += (rate - self.rate_bps) * _SMOOTH
            self._higher.clear()

    @staticmethod
    def _rate(nbytes: int, seconds: float) -> float:
        return min(8 * nbytes / max(seconds, _SHORTEST_S), _FASTEST)


@dataclass(frozen=True)
class EnergyModel:
    """What a device's radio takes, in watts. Estimated: typical of a low-power wireless modem, not measured."""

    transmit_w: float = 0.35
    wait_w: float = 0.03

    def request_j(self, link: LinkEstimate, nbytes: int) -> float:
        """Return the energy of sending ``nbytes`` and waiting for the answer."""
        sending = 8 * nbytes / link.rate_bps
        return self.transmit_w * sending + self.wait_w * (link.seconds(nbytes) - sending)


@dataclass(frozen=True)
class Choice:
    """A rung to send at, or None: the local exit answers; ``why`` in a word or two."""

    rung: int | None
    why: str


CONFIDENT, TOO_SLOW, OFFLOAD = "confident", "too slow", "offload"


@dataclass(frozen=True)
class Policy:
    """Local exit where it is sure; else, of the rungs that meet the deadline, the cheapest of the nearly best.

    accuracy  by rung, 0 where not measured: then a lower rung counts as better
    slack     how much accuracy may be given up for energy
    margin    a rung must be expected to take no more than this share of what is left
    """

    threshold: int
    accuracy: tuple[float, ...]
    slack: float = 0.005
    margin: float = 0.85
    energy: EnergyModel = field(default_factory=EnergyModel)

    def choose(self, local: Answer, request_bytes: list[int], left_s: float, link: LinkEstimate) -> Choice:
        """Return what to do with an input whose frames, by rung, are requests of so many bytes."""
        if local.confidence >= self.threshold:
            return Choice(None, CONFIDENT)
        meets = [r for r, n in enumerate(request_bytes) if link.seconds(n) <= left_s * self.margin]
        if not meets:
            return Choice(None, TOO_SLOW)
        worth = [a if a else -float(r) for r, a in enumerate(self.accuracy)]
        best = max(worth[r] for r in meets)
        good = [r for r in meets if worth[r] >= best - self.slack]
        return Choice(min(good, key=lambda r: self.energy.request_j(link, request_bytes[r])), OFFLOAD)
