"""What a replay's figures rest on, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from app.pricing import Price
from app.replay.quality import seen
from app.replay.routes import UNSUPPORTED
from app.replay.simulate import Simulation


def assumptions(simulation: Simulation) -> list[str]:
    """Say in sentences what the figures rest on beside the log."""
    replayed, costs, config = simulation.replayed, simulation.costs, simulation.config
    lines: list[str] = []
    say = lines.append
    if replayed.left_out:
        say(
            f"Left out: {replayed.left_out:,} older requests of the log; {len(replayed.hit):,} are played, by "
            "`replay.max_requests`, since memory grows with them."
        )
    for name, count in costs.estimated.items():
        if count:
            say(f"Estimated: {name} of {count:,} of {len(replayed.hit):,} requests ({_HOW[name]}).")
    say(
        "Costs a month are those of the log's days, scaled; prices are those of each request's day. Other models are "
        "taken to need the same tokens, and to find the same prompt tokens in their providers' caches."
    )
    say("Every request is routed, as if the models that the log names were listed under `auto_models`.")
    lines += _routing(simulation)
    lines += _shaping(simulation)
    say(
        "An answer is stored once it is there: before, an identical request waits for it, and one of the same meaning "
        "is a miss."
    )
    if free := int(np.asarray(replayed.columns["free"]).sum()):
        say(f"Free before, since a cache had the answer: {free:,} requests; here they are asked like any other.")
    if costs.unpriced:
        say(f"Counted as free, since no price is known: {', '.join(costs.unpriced)}. Set `price_list`.")
    if local := _free(simulation):
        say(
            f"Free by the configuration: {', '.join(local)}. Where the machine is not yours already, set `llm.price` "
            "to its `usd_per_gpu_hour` and the `output_tokens_per_s` that you measured."
        )
    say("Latency: " + "; ".join(f"{tier}: {words}" for tier, words in costs.latency.items()) + ".")
    assumed = config.replay
    say(
        f"Tierwise itself: {1e3 * assumed.exact_hit_s:.1f} ms for an exact hit, "
        f"{1e3 * assumed.semantic_hit_s:.1f} ms for one by meaning, {1e3 * assumed.miss_s:.1f} ms before a tier, "
        f"{100 * assumed.own_error:.0f} % more or less."
    )
    if config.cache.threshold is None:
        say("Expected false hits: the calibration's share holds for this log too; exact hits are never wrong.")
    if len(replayed.compared):
        say(
            "Measured false hits: answers in free text are compared by the encoder and the verifier, which is a hint "
            "and no verdict; look at the samples. Best settings take them for no proof: by them no threshold is looser "
            "than the one in force, and no share of wrong hits below the calibration's."
        )
    found = seen(config.classifier)
    if found:
        say(
            f"Quality kept: {found.source}. A tier that is too weak is taken to be worth nothing; how often it is "
            "falls off with the distance of the score from the cut."
        )
    say(
        "Reliability: every call fails as often as the log's requests did, each on its own, never all for one cause; "
        "a tier is asked as often as its policy says."
    )
    say(f"Net savings: a wrong answer costs ${simulation.wrong_usd:.4f}. Set `replay.wrong_answer_usd`.")
    say("Other settings are judged on the evidence of this one pass, without playing the log again.")
    return lines


def _routing(simulation: Simulation) -> Iterator[str]:
    """Say what of the routing is left out, or was decided by something else than the log."""
    routing, reasons = simulation.config.routing, simulation.costs.routes.reason
    refused = int(reasons.are(UNSUPPORTED.__eq__)[simulation.routed].sum())
    if refused:
        yield f"No tier takes what {refused:,} requests need: the gateway refuses them, here they go to the best tier."
    if routing.cascade.enabled or routing.cascade.tenants:
        yield "`routing.cascade` is left out: whether a cheaper answer would have been kept, no log says."
    if routing.conversation_ttl_s and simulation.config.redis is None:
        yield "Without `redis` no conversation is remembered: every turn is routed for itself."


def _shaping(simulation: Simulation) -> Iterator[str]:
    profile = simulation.replayed.profile
    shaped = int(profile.are(bool)[simulation.routed].sum())
    if not shaped:
        return
    known = simulation.config.replay.profile_answer_tokens
    lengths = ", ".join(f"{name} {tokens}" for name, tokens in known.items()) or "none is given"
    yield (
        f"Shaping: {shaped:,} routed requests have a profile. Prompts are compacted and instructed as the gateway does "
        "it; an answer is as long as the logged one up to the profile's `max_tokens`, one that it cuts is asked for "
        f"again and both are paid. Lengths by `replay.profile_answer_tokens`: {lengths}. Repairs of JSON are left out."
    )


def _free(simulation: Simulation) -> list[str]:
    """Name the local tiers whose tokens cost nothing."""
    return [tier.name for tier in simulation.config.tiers if tier.llm and tier.llm.price == Price()]


_HOW = {
    "user": "taken to be one tenant, who share all answers; name the column, or the hit rate is too high",
    "time": "put between their neighbours; a log without any is spread over the month that ends now",
    "model": "taken to be the baseline's",
    "prompt tokens": "counted by the tokenizer of the model, or of gpt-4o where that is not public",
    "completion tokens": "counted likewise, else the mean of the others",
    "answer": "none in the log; taken to be fit to store, unless the request failed",
    "latency": "by the latency model of the model asked",
}
