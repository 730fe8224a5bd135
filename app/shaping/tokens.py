"""How many tokens a text has, for the models whose tokenizer is public."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_LATEST = "o200k_base"  # of OpenAI's models since gpt-4o; near enough for those whose tokenizer is not public
_EARLIER = "cl100k_base"
_BEFORE_4O = re.compile(r"gpt-4(?!o|\.)|gpt-3\.5|gpt-35|text-embedding-", re.IGNORECASE)


def count_tokens(text: str, model: str = "") -> int:
    """Count the tokens of a text; the vocabularies are on disk, nothing is fetched.

    Args:
        model: Whose tokens; OpenAI's and Mistral's are counted as they do, others as gpt-4o does.
    """
    if "mistral" in model.lower() or "mixtral" in model.lower():
        mistral = _mistral()
        if mistral is not None:
            return len(mistral.encode(text, bos=False, eos=False))
    return len(_openai(_EARLIER if _BEFORE_4O.match(model) else _LATEST).encode_ordinary(text))


@cache
def _openai(encoding: str) -> Any:
    import bpe_openai

    return bpe_openai.get_encoding(encoding)


@cache
def _mistral() -> Any:
    """Return the tokenizer of Mistral-7B-Instruct v0.3, which comes with vLLM; None where that is not installed."""
    try:
        from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    except ImportError:
        return None
    return MistralTokenizer.v3().instruct_tokenizer.tokenizer
