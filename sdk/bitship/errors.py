"""The one error tree of bitship.

    BitshipError                 everything a user can cause; the command line prints it as one line, exit code 2
    |- GraphError                a graph breaks its own rules: shapes, dtypes, a cycle, an op outside the set
    |  `- OverflowProofError     an accumulator cannot be proven to stay inside its dtype
    |- FormatError               a file is damaged, truncated, hostile or of another format
    |- UnsupportedError          a well-formed model uses something bitship does not take
    |- QuantizationError         calibration is missing, or something would stay in float
    |- TargetError               unknown target, or one that lacks what was asked of it
    |  `- DoesNotFitError        flash or RAM is too small, with the number of bytes missing
    |- MissingDependencyError    an optional package or program is not installed; says what to install
    |- PackageError              a package folder is incomplete, altered, or already exists
    `- DeviceError               a device is silent, answers garbage, or was lost
       `- BitsDifferError        the device computed other bits than the graph

A message reads ``where: what was found, what is allowed[; what to do]``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitship.report import Report


class BitshipError(Exception):
    """Base of every error a user of bitship can cause or mend."""


class GraphError(BitshipError):
    """A graph breaks the rules of the integer graph."""


class OverflowProofError(GraphError):
    """No proof exists that an accumulator stays inside its dtype for every input."""


class FormatError(BitshipError):
    """A file is damaged, truncated, hostile, or of another format."""


class UnsupportedError(BitshipError):
    """A well-formed model uses an op, dtype or option outside the supported set."""


class QuantizationError(BitshipError):
    """A model cannot be made integer-only as asked."""


class TargetError(BitshipError):
    """A target is unknown or cannot do what was asked."""


class DoesNotFitError(TargetError):
    """A package needs more flash or RAM than its target has."""


class MissingDependencyError(BitshipError):
    """An optional package or program is absent."""


class PackageError(BitshipError):
    """A package folder is incomplete, altered, or in the way."""


class DeviceError(BitshipError):
    """A device is silent, answers garbage, or was lost."""


class BitsDifferError(DeviceError):
    """The bits that came back are not the reference's; ``report``, where there is one, says how many and where."""

    def __init__(self, message: str, report: "Report | None" = None) -> None:
        super().__init__(message)
        self.report = report
