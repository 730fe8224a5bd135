"""How many tokens each logged request has, and how many in the shape of its profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.config import GatewayConfig
from app.replay.run import Replayed

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is billed for a request, `(rows,)`.

    Attributes:
        calls: How many calls that takes: two where a profile's limit cuts the first answer.
    """

    prompt: Floats
    completion: Floats
    calls: Floats


def logged_tokens(replayed: Replayed, config: GatewayConfig) -> tuple[Tokens, dict[str, int]]:
    """Return the tokens as logged; those that are not are counted, and an answer that is not there has the mean.

    Returns:
        The tokens, and for how many rows each field was filled in.
    """
    numbers = replayed.columns
    prompt, completion = numbers["prompt_tokens"].astype(float), numbers["completion_tokens"].astype(float)
    no_prompt, no_completion = np.isnan(prompt), np.isnan(completion)
    prompt[no_prompt] = np.maximum(1, numbers["counted_tokens"][no_prompt])
    by_text = no_completion & (numbers["answer_tokens"] >= 0)
    completion[by_text] = np.maximum(1, numbers["answer_tokens"][by_text])
    known = completion[~np.isnan(completion) & np.asarray(numbers["ok"])]
    completion[np.isnan(completion)] = round(known.mean()) if len(known) else config.replay.answer_tokens
    estimated = {
        "prompt tokens": int(no_prompt.sum()),
        "completion tokens": int(no_completion.sum()),
        "answer": int((numbers["answer_tokens"] < 0).sum()),
    }
    keep = replayed.keep
    return Tokens(keep(prompt), keep(completion), np.broadcast_to(np.float64(1), len(prompt))), estimated


def shaped_tokens(logged: Tokens, replayed: Replayed, config: GatewayConfig) -> Tokens:
    """Return the tokens in the shape of the profiles: compacted and instructed prompts, limited answers.

    An answer that a profile's limit cuts is asked for once more, as the gateway does, and both are paid.
    """
    numbers = replayed.columns
    prompt = np.maximum(1, logged.prompt + numbers["added_tokens"])
    said = np.minimum(logged.completion, _lengths(replayed, config.replay.profile_answer_tokens))
    limit, raised = numbers["limit"].astype(float), numbers["raised_limit"].astype(float)
    first = np.where(limit > 0, np.minimum(said, limit), said)
    again = (raised > 0) & (said > limit)
    completion = np.where(again, first + np.minimum(said, raised), first)
    calls = np.where(again, 2.0, 1.0)
    keep = replayed.keep
    return Tokens(keep(prompt * calls), keep(completion), keep(calls))


def _lengths(replayed: Replayed, by_profile: Mapping[str, int]) -> Floats:
    longest = np.array([by_profile.get(name, np.inf) for name in replayed.profile.names], np.float64)
    return np.asarray(longest[replayed.profile.index], np.float64)
