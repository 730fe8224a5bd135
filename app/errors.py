"""Every failure Tierwise can name.

GatewayError
├── ConfigError                  a configuration that must not start
├── InvalidRequestError          400  the client's request
│   ├── UnfitError               400  one model cannot serve it, another may
│   │   └── ContextLengthError   400  too long for every tier that may answer
│   ├── ModelNotFoundError       404
│   └── RequestTooLargeError     413
├── AuthenticationError          401
├── PermissionDeniedError        403
├── BudgetExceededError          429  the tenant has spent what it may
├── UnavailableError             503  no tier answered
│   └── OverloadedError          503  more is under way than may be
├── UpstreamError                502  one provider did not answer
│   ├── UpstreamTimeoutError     504
│   └── RestingError             502  it is not asked for now
├── CacheUnavailableError             costs a miss
└── ClassifierUnavailableError        costs the top tier

Clients see them in OpenAI's shape. Every argument goes to `super().__init__`: errors travel
between replicas by pickle, which rebuilds them from `args`.
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """A failure with an HTTP status and a message written for the client.

    Attributes:
        spent_usd: What the request's answers cost that could not be given, before it failed.
    """

    status_code: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    spent_usd: float = 0.0

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param, code)
        self.message = message
        self.param = param
        self.code = code

    def __str__(self) -> str:
        return self.message


class ConfigError(GatewayError):
    """The configuration cannot be served; the message names the key."""


class InvalidRequestError(GatewayError):
    """The request cannot be served as it is; the message says what to change."""

    status_code = 400
    type = "invalid_request_error"


class UnfitError(InvalidRequestError):
    """The request asks for what this model does not give; another target or tier may."""


class ContextLengthError(UnfitError):
    """The prompt, with the answer it asks for, is longer than the model's context."""

    def __init__(self, message: str, param: str | None = "messages", code: str | None = "context_length_exceeded"):
        super().__init__(message, param, code)


class ModelNotFoundError(InvalidRequestError):
    """The request names a model that the configuration does not."""

    status_code = 404

    def __init__(self, message: str, param: str | None = "model", code: str | None = "model_not_found"):
        super().__init__(message, param, code)


class RequestTooLargeError(InvalidRequestError):
    """The request's body is over the configured size."""

    status_code = 413


class AuthenticationError(GatewayError):
    """The request carries no key, or one that no tenant has."""

    status_code = 401
    type = "invalid_request_error"

    def __init__(self, message: str, param: str | None = None, code: str | None = "invalid_api_key"):
        super().__init__(message, param, code)


class PermissionDeniedError(GatewayError):
    """The key is known, and may not do this."""

    status_code = 403
    type = "permission_error"


class BudgetExceededError(GatewayError):
    """The tenant has spent what its budget allows, or more than lets it have this model."""

    status_code = 429
    type = "insufficient_quota"

    def __init__(self, message: str, retry_after_s: int) -> None:
        GatewayError.__init__(self, message, None, "budget_exceeded")
        self.args = (message, retry_after_s)
        self.retry_after_s = retry_after_s


class UnavailableError(GatewayError):
    """No tier that may serve the request answered."""

    status_code = 503
    type = "service_unavailable"
    retry_after_s: ClassVar[int] = 5


class OverloadedError(UnavailableError):
    """The gateway has as much under way as it may."""

    retry_after_s = 1

    def __init__(self, message: str, param: str | None = None, code: str | None = "overloaded") -> None:
        super().__init__(message, param, code)


class UpstreamError(GatewayError):
    """A provider failed to complete a request that was well formed.

    The message is in our words, since it is logged: those of an upstream may quote the request, or the key.

    Attributes:
        provider: Which one.
        retry_after_s: How long it asks to be left alone; None if it does not.
        passes: Whether the same request may do better later.
    """

    status_code = 502
    type = "upstream_error"

    def __init__(self, message: str, provider: str, retry_after_s: float | None = None, passes: bool = True) -> None:
        GatewayError.__init__(self, message)
        self.args = (message, provider, retry_after_s, passes)
        self.provider = provider
        self.retry_after_s = retry_after_s
        self.passes = passes


class UpstreamTimeoutError(UpstreamError):
    """A provider did not answer in time."""

    status_code = 504


class RestingError(UpstreamError):
    """Every target of a tier is left alone for now, so that none was asked; `retry_after_s` is the shortest rest."""


class CacheUnavailableError(GatewayError):
    """The cache or its store did not answer."""


class ClassifierUnavailableError(GatewayError):
    """The classifier did not answer."""
