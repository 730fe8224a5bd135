"""Profiles: what a kind of request asks for, so that each client need not say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from app.errors import InvalidRequestError
from app.schema import ChatRequest
from app.section import Section
from app.shaping.compact import compacted
from app.strict import schema_format
from app.wire import last_user_text, message_text

_RAISED = 4  # times a profile's `max_tokens`, for an answer that it cut


class ProfileConfig(Section):
    """The shape of some requests. A request that says more itself is obeyed.

    A request has the profile that its header `x-tierwise-profile` names, else the one whose `models` have its model,
    else the first whose `tenants` and `system` both fit. One with neither is for those who name it.

    Attributes:
        models: Names that clients send as `model`; such a request is routed as `auto` is.
        tenants: Whose requests it is for.
        system: A regular expression that is found in the system prompt.
        json_schema: The schema that answers follow; where every property is required, OpenAI is held to it (`strict`),
            and to no other properties. Give strings a `maxLength` and arrays `maxItems`, well within
            `max_tokens`: a small model may go on for ever where it can.
        max_tokens: Longest answer. One that it cuts is asked for once more, with four times as many, or what the tier's
            context has room for; a streamed answer has these from the start.
        stop: Where an answer ends.
        temperature: Of sampling.
        reasoning_effort: Of models that reason.
        instruction: Added to the system prompt, such as "Answer with the category alone."
        tiers: The only ones that may answer, also where the prompt is too long for them.
        compact: Whether blank space and repeated paragraphs of the prompt may be left out.
    """

    models: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    system: str | None = None
    json_schema: Mapping[str, Any] | None = None
    max_tokens: PositiveInt | None = None
    stop: tuple[str, ...] = ()
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    reasoning_effort: Literal["minimal", "low", "medium", "high"] | None = None
    instruction: str | None = None
    tiers: tuple[str, ...] = ()
    compact: bool = False

    @field_validator("system")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return pattern

    def fits(self, tenant: str, system: str) -> bool:
        """Whether it is for a request that names no profile."""
        if not self.tenants and self.system is None:
            return False
        return (not self.tenants or tenant in self.tenants) and bool(re.search(self.system or "", system))

    def fields(self) -> dict[str, Any]:
        """Return the fields of a request's body that it sets, where the request does not."""
        fields = {
            "response_format": self.json_schema and schema_format(self.json_schema),
            "stop": list(self.stop) or None,
            "temperature": self.temperature,
            "reasoning_effort": self.reasoning_effort,
        }
        return {name: value for name, value in fields.items() if value is not None}


class Shaper:
    """Gives requests the shape of their profile.

    Args:
        profiles: By name.
        auto_model: The name of a model that is routed.
    """

    def __init__(self, profiles: Mapping[str, ProfileConfig], auto_model: str) -> None:
        self._profiles = profiles
        self._auto_model = auto_model
        self._by_model = {model: name for name, profile in profiles.items() for model in profile.models}

    def shaped(self, request: ChatRequest, named: str | None) -> ChatRequest:
        """Return the request in the shape of its profile, if it has one.

        Args:
            named: The profile that the client names.

        Raises:
            InvalidRequestError: There is none of that name.
        """
        if not self._profiles:
            if named is not None:
                raise _unknown(named, self._profiles)
            return request
        name = self._name(request, named)
        if name is None:
            return request
        profile = self._profiles[name]
        body = {**profile.fields(), **{key: value for key, value in request.body.items() if value is not None}}
        if request.model in self._by_model:
            body["model"] = self._auto_model
        limit = None if body.get("max_tokens") or body.get("max_completion_tokens") else profile.max_tokens
        raised = None if limit is None else _RAISED * limit
        if limit is not None:
            body["max_tokens"] = limit
        if profile.compact:
            body["messages"] = compacted(body["messages"])
        if profile.instruction is not None:
            body["messages"] = _instructed(body["messages"], profile.instruction)
        prompt = last_user_text(body["messages"])
        return replace(
            request,
            body=body,
            prompt=prompt,
            profile=name,
            tiers=profile.tiers,
            raised_max_tokens=raised,
        )

    def _name(self, request: ChatRequest, named: str | None) -> str | None:
        if named is not None:
            if named not in self._profiles:
                raise _unknown(named, self._profiles)
            return named
        if request.model in self._by_model:
            return self._by_model[request.model]
        system = "\n".join(message_text(m) for m in request.body["messages"] if m["role"] in ("system", "developer"))
        return next((name for name, profile in self._profiles.items() if profile.fits(request.tenant, system)), None)


def _unknown(name: str, profiles: Mapping[str, ProfileConfig]) -> InvalidRequestError:
    known = ", ".join(profiles) or "none"
    return InvalidRequestError(f"There is no profile `{name}` (header `x-tierwise-profile`). There are: {known}.")


def _instructed(messages: list[dict[str, Any]], instruction: str) -> list[dict[str, Any]]:
    """Add an instruction to the end of the first system prompt, so that what is before it stays a prefix."""
    first = messages[0]
    if first["role"] in ("system", "developer") and isinstance(first.get("content"), str):
        return [{**first, "content": f"{first['content'].rstrip()}\n\n{instruction}"}, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]
