"""What a replay assumes where a log does not say it: latencies of tiers, lengths of answers, the price of an error."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from app.section import Section


class LatencyModel(Section):
    """How long an answer takes.

    Attributes:
        first_token_s: Until its first token,
        output_tokens_per_s: and then so many a second.
    """

    first_token_s: NonNegativeFloat
    output_tokens_per_s: PositiveFloat

    def seconds(self, tokens: float) -> float:
        """Return how long an answer of so many tokens takes."""
        return self.first_token_s + tokens / self.output_tokens_per_s


class Assumptions(Section):
    """The `replay` section of a configuration.

    Attributes:
        latency: By tier, in place of what the log's answers of its first model show.
        exact_hit_s: What an exact hit takes; this and the next two are `tierwise bench overhead`'s.
        semantic_hit_s: What a hit by meaning takes.
        miss_s: What a miss takes beside the tier's own time.
        own_error: By how much of themselves these three may be off, at 95 % confidence: a machine is not as fast at all
            times. It widens the intervals of latency.
        answer_tokens: Of an answer, where the log has no answers at all.
        profile_answer_tokens: By profile, of an answer that its instruction or its schema keeps short; by default an
            answer is as long as the logged one, up to the profile's `max_tokens`.
        wrong_answer_usd: What a wrong answer costs you; by default ten times the mean request.
        max_requests: The newest of a longer log are played, since memory grows with them, by some 80 bytes each.
    """

    latency: Mapping[str, LatencyModel] = {}
    exact_hit_s: NonNegativeFloat = 0.0012
    semantic_hit_s: NonNegativeFloat = 0.0144
    miss_s: NonNegativeFloat = 0.0261
    own_error: NonNegativeFloat = 0.2
    answer_tokens: PositiveInt = 300
    profile_answer_tokens: Mapping[str, PositiveInt] = {}
    wrong_answer_usd: NonNegativeFloat | None = None
    max_requests: PositiveInt = 20_000_000
