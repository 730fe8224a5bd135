from __future__ import annotations

import pickle

import pytest

from app import errors
from app.errors import BudgetExceededError, GatewayError, UpstreamError


def tree(base: type[GatewayError]) -> list[type[GatewayError]]:
    return [base, *(found for child in base.__subclasses__() for found in tree(child))]


PLAIN = [kind for kind in tree(GatewayError) if not issubclass(kind, (UpstreamError, BudgetExceededError))]


@pytest.mark.parametrize("kind", PLAIN)
def test_an_error_travels_between_replicas(kind: type[GatewayError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what happened", "messages[0]", "a_code")))
    assert type(error) is kind
    assert (error.message, error.param, error.code, str(error)) == (
        "what happened",
        "messages[0]",
        "a_code",
        "what happened",
    )


@pytest.mark.parametrize("kind", tree(UpstreamError))
def test_an_upstreams_error_travels_with_its_provider(kind: type[UpstreamError]) -> None:
    error = pickle.loads(pickle.dumps(kind("no answer in 30 s", "vllm")))
    assert type(error) is kind
    assert (error.message, error.provider, error.param, error.code) == ("no answer in 30 s", "vllm", None, None)


def test_an_upstreams_error_travels_with_how_long_to_wait() -> None:
    assert pickle.loads(pickle.dumps(UpstreamError("busy", "anthropic", 7.0))).retry_after_s == 7.0


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("InvalidRequestError", 400, None),
        ("UnfitError", 400, None),
        ("ContextLengthError", 400, "context_length_exceeded"),
        ("ModelNotFoundError", 404, "model_not_found"),
        ("RequestTooLargeError", 413, None),
        ("AuthenticationError", 401, "invalid_api_key"),
        ("UnavailableError", 503, None),
    ],
)
def test_an_error_knows_its_status_and_its_code(name: str, status: int, code: str | None) -> None:
    error = getattr(errors, name)("what happened")
    assert (error.status_code, error.code) == (status, code)


def test_a_timeout_is_an_upstreams_error_of_its_own_status() -> None:
    assert (UpstreamError("x", "y").status_code, errors.UpstreamTimeoutError("x", "y").status_code) == (502, 504)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    for kind in tree(GatewayError):
        assert kind.__name__ in (errors.__doc__ or "")
