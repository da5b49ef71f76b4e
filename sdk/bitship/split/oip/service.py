"""The Open Inference Protocol's service: its methods and messages, refusals as status codes, parameters."""

import os
from typing import Any

from bitship.extras import require
from bitship.split.frame import Refusal, RefusedError

SERVICE = "inference.GRPCInferenceService"
INFER = "ModelInfer"
METHODS = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", INFER)

# What a request must carry, so that halves that do not belong together never give a plausible answer.
MODEL_HASH, TABLE_HASH, SPLIT_POINT = "model_hash", "table_hash", "split_point"
IDENTITY = (MODEL_HASH, TABLE_HASH, SPLIT_POINT)
FRAME, LOGITS, ANSWER = "frame", "logits", "answer"
TIMES = ("queue_us", "decode_us", "inference_us", "encode_us")

STATUS = {
    Refusal.WRONG_MODEL: "FAILED_PRECONDITION",
    Refusal.STALE_TABLE: "FAILED_PRECONDITION",
    Refusal.WRONG_SPLIT: "FAILED_PRECONDITION",
    Refusal.UNKNOWN_RUNG: "INVALID_ARGUMENT",
    Refusal.UNKNOWN_CODEC: "INVALID_ARGUMENT",
    Refusal.DAMAGED: "INVALID_ARGUMENT",
    Refusal.TOO_LARGE: "RESOURCE_EXHAUSTED",
    Refusal.WRONG_KIND: "INVALID_ARGUMENT",
    Refusal.BUSY: "RESOURCE_EXHAUSTED",
    Refusal.LATE: "DEADLINE_EXCEEDED",
    Refusal.NOT_ALLOWED: "UNAUTHENTICATED",
    Refusal.UNAVAILABLE: "UNAVAILABLE",
    Refusal.INTERNAL: "INTERNAL",
}
_OTHER = {
    "RESOURCE_EXHAUSTED": Refusal.BUSY,
    "DEADLINE_EXCEEDED": Refusal.LATE,
    "UNAUTHENTICATED": Refusal.NOT_ALLOWED,
    "PERMISSION_DENIED": Refusal.NOT_ALLOWED,
    "UNAVAILABLE": Refusal.UNAVAILABLE,
    "CANCELLED": Refusal.UNAVAILABLE,
    "FAILED_PRECONDITION": Refusal.WRONG_MODEL,
    "NOT_FOUND": Refusal.WRONG_MODEL,
    "INVALID_ARGUMENT": Refusal.DAMAGED,
}


class UnknownModelError(RefusedError):
    """A request is for a model of another name or version."""

    def __init__(self, message: str) -> None:
        super().__init__(Refusal.WRONG_MODEL, message)


def grpc() -> Any:
    """Return the grpc module; its own lines on stderr are off unless GRPC_VERBOSITY asks for them."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return require("grpc", "split", "split computing over gRPC")


def messages() -> Any:
    """Return the module of the protocol's messages."""
    return require("bitship.split.oip.open_inference_pb2", "split", "split computing over gRPC")


def status_of(error: RefusedError) -> Any:
    """Return grpc's status code of a refusal; the details are the error's text, with the refusal's name first."""
    name = "NOT_FOUND" if isinstance(error, UnknownModelError) else STATUS[error.code]
    return getattr(grpc().StatusCode, name)


def refusal_of(status: str, details: str) -> Refusal:
    """Return why a call failed: the name its details begin with, or what the status suggests."""
    name = details.split(":", 1)[0]
    return Refusal[name] if name in Refusal.__members__ else _OTHER.get(status, Refusal.INTERNAL)


def texts(parameters: Any) -> dict[str, str]:
    """Return the string parameters of a request."""
    return {k: v.string_param for k, v in parameters.items() if v.WhichOneof("parameter_choice") == "string_param"}
