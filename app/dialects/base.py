"""What every dialect is to the API, and what those that translate share."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from app.errors import GatewayError, InvalidRequestError
from app.wire import shaped

T = TypeVar("T")


class Dialect(Protocol):
    """One request in an API's own words, and its answer in them; made from the request's bytes.

    Attributes:
        done: What ends a stream, after its last event.
        body: The request as a chat completion's.
    """

    done: ClassVar[bytes]
    body: dict[str, Any]

    def __init__(self, raw: bytes) -> None:
        """Read a request.

        Raises:
            InvalidRequestError: It is malformed, or asks for what a chat completion cannot; `param` names the field.
        """
        ...

    def answer(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Say a completion."""
        ...

    def events(self, chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Say the next chunks of a completion; an event that has a `type` is sent under that name."""
        ...

    def end(self) -> Iterator[dict[str, Any]]:
        """Say that the completion has ended."""
        ...

    def failed(self, error: GatewayError) -> dict[str, Any]:
        """Say that a stream broke off."""
        ...


def understood(body: Mapping[str, Any], shape: type[T], more: Collection[str], advice: Mapping[str, str]) -> T:
    """Read a body as a struct, and refuse what has no translation, unless it is null, false or empty.

    Args:
        more: Fields that are taken beside those of the struct.
        advice: What to do where a field, or a value in it, has no translation.

    Raises:
        InvalidRequestError: `param` names the field.
    """
    for name, value in body.items():
        if name not in shape.__annotations__ and name not in more and value not in (None, False, [], {}):
            raise unsupported(name, advice.get(name, "Leave it out."))
    try:
        return shaped(body, shape)
    except InvalidRequestError as error:
        field = re.split(r"[.\[]", error.param or "")[0]
        if error.message.startswith(("Invalid", "Expected")) and field in advice:
            raise InvalidRequestError(f"{error.message} {advice[field]}", error.param) from error
        raise


def unsupported(field: str, advice: str) -> InvalidRequestError:
    """Refuse a field of a request."""
    return InvalidRequestError(f"`{field}` is not supported here. {advice}", field)


def plain(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return a message's content: a text alone as it is, so that it reads as one that was sent to chat completions."""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts
