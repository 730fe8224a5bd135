"""What a replay's figures rest on, in sentences."""

from __future__ import annotations

from app.replay.quality import seen
from app.replay.simulate import Simulation


def assumptions(simulation: Simulation) -> list[str]:
    """Say in sentences what the figures rest on beside the log."""
    replayed, costs, config = simulation.replayed, simulation.costs, simulation.config
    lines: list[str] = []
    say = lines.append
    if not replayed.timed:
        say("Some requests have no time: they are put between their neighbours; without any, spread over a month.")
    for name, count in costs.estimated.items():
        if count:
            say(f"Estimated: {name} of {count:,} of {len(replayed.hit):,} requests ({_HOW[name]}).")
    say(
        "Costs a month are those of the log's days, scaled; prices are those of each request's day. Other models are "
        "taken to need the same tokens, and to find the same prompt tokens in their providers' caches."
    )
    say("Every request is routed, as if the models that the log names were listed under `auto_models`.")
    say("A stored answer is there for the next request at once; identical requests in flight share one call likewise.")
    if costs.unpriced:
        say(f"Counted as free, since no price is known: {', '.join(costs.unpriced)}. Set `price_list`.")
    say("Latency: " + "; ".join(f"{tier}: {words}" for tier, words in costs.latency.items()) + ".")
    assumed = config.replay
    say(
        f"Tierwise itself: {1e3 * assumed.exact_hit_s:.1f} ms for an exact hit, "
        f"{1e3 * assumed.semantic_hit_s:.1f} ms for one by meaning, {1e3 * assumed.miss_s:.1f} ms before a tier."
    )
    if config.cache.threshold is None:
        say("Expected false hits: the calibration's share holds for this log too; exact hits are never wrong.")
    if len(replayed.compared):
        say(
            "Measured false hits: answers in free text are compared by the encoder and the verifier, which is a hint "
            "and no verdict; look at the samples."
        )
    found = seen(config.classifier)
    if found:
        say(
            f"Quality kept: {found.source}. A tier that is too weak is taken to be worth nothing; how often it is "
            "falls off with the distance of the score from the cut."
        )
    say("Reliability: every tier fails as often as the log's requests did, each on its own, never all for one cause.")
    say(f"Net savings: a wrong answer costs ${simulation.wrong_usd:.4f}. Set `replay.wrong_answer_usd`.")
    say("Other settings are judged on the evidence of this one pass, without playing the log again.")
    return lines


_HOW = {
    "prompt tokens": "4 characters a token",
    "completion tokens": "4 characters a token, else the mean of the others",
    "answer": "none in the log; taken to be fit to store, unless the request failed",
    "latency": "by the latency model of the model asked",
}
