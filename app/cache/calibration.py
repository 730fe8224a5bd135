"""Thresholds with evidence: the loosest one whose false-hit rate stays under a limit, by an upper confidence bound."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.cache.decision import SURFACE, evidence, screen
from app.cache.pairs import Pair
from app.errors import ConfigError
from app.record import load_record, save_record

BUNDLED = Path(__file__).with_name("weights") / "calibration.json"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold and the evidence for it.

    Attributes:
        threshold: The evidence from which a hit is served (`app/cache/decision.py`).
        max_error_rate: The limit the operator set: wrong hits as a share of hits.
        confidence: Of the bound.
        hits: Pairs that would be hits at the threshold; `wrong` of them should not be.
        upper_bound: One-sided Clopper-Pearson bound of wrong over hits.
        models: Names of the encoder and the verifier; with others the threshold means nothing.
        data: SHA-256 of the pairs.
    """

    threshold: float
    max_error_rate: float
    confidence: float
    hits: int
    wrong: int
    upper_bound: float
    models: str
    data: str

    @classmethod
    def load(cls, file: Path) -> Calibration:
        """Read a calibration.

        Raises:
            ConfigError: There is none, or it has other fields.
        """
        return load_record(cls, file, "cache.calibration", "tierwise calibrate cache PAIRS.jsonl")

    def save(self, file: Path) -> None:
        """Write the calibration."""
        save_record(self, file)


def upper_bound(wrong: int, hits: int, confidence: float) -> float:
    """Return the one-sided upper bound of a binomial share (Clopper and Pearson, Biometrika 26, 1934)."""
    from scipy.stats import beta

    return 1.0 if wrong >= hits else float(beta.ppf(confidence, wrong + 1, hits - wrong))


def interval(found: int, among: int) -> list[float]:
    """Return the two-sided 95 % interval of a binomial share, likewise, to four places."""
    low = 1 - upper_bound(among - found, among, 0.975) if found else 0.0
    return [round(low, 4), round(upper_bound(found, among, 0.975), 4)]


def evidences(
    pairs: Sequence[Pair],
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
    verify: Callable[[Sequence[tuple[str, str]]], NDArray[np.float32]],
    floor: float,
) -> NDArray[np.float64]:
    """Return each pair's evidence as the decision sees it, -1 where it can be no hit.

    `a` is the stored text, `b` the new one.
    """
    cosines = np.sum(embed([pair.a for pair in pairs]) * embed([pair.b for pair in pairs]), axis=1)
    result = np.full(len(pairs), -1.0)
    for i in np.flatnonzero(cosines >= floor):
        pair = pairs[i]
        screening = screen(pair.b, [pair.a])
        if screening.same is not None:
            result[i] = SURFACE
        elif screening.grey:
            # one by one, as the gateway does: what is quantised in a batch comes out a little otherwise
            (probability,) = verify([(pair.a, pair.b)])
            result[i] = evidence(float(cosines[i]), float(probability))
    return result


def calibrate(
    found: NDArray[np.float64],
    same: NDArray[np.bool_],
    models: str,
    data: bytes,
    max_error_rate: float,
    confidence: float,
) -> Calibration:
    """Pick the loosest threshold whose upper bound of the false-hit rate is at most `max_error_rate`.

    Thresholds are tested from strict to loose, each at the full confidence, up to the first that fails: fixed sequence
    testing, which needs no correction for many tests (Angelopoulos et al., Learn then Test, arXiv 2110.01052). The
    first one must be chosen without a look at the labels: it is the strictest with hits enough, were none wrong.

    Args:
        found: `(pairs,)` from `evidences`.
        same: `(pairs,)`, whether one answer serves both texts.

    Raises:
        ConfigError: The data cannot support the claim; the message says what it showed, and what would do.
    """
    served = found[None, :] >= _GRID[:, None]
    hits, wrong = served.sum(1), (served & ~same).sum(1)
    chosen: Calibration | None = None
    for i in range(_first_tested(hits, max_error_rate, confidence), len(_GRID)):
        bound = upper_bound(int(wrong[i]), int(hits[i]), confidence)
        if bound > max_error_rate:
            break
        counts = int(hits[i]), int(wrong[i]), bound
        digest = hashlib.sha256(data).hexdigest()
        chosen = Calibration(float(_GRID[i]), max_error_rate, confidence, *counts, models, digest)
    if chosen is None:
        raise ConfigError(_unsupported(hits, wrong, max_error_rate, confidence))
    return chosen


_GRID = np.array([SURFACE, *np.arange(1.2, 0.6, -0.0025).round(4)])  # thresholds, strictest first
_RATES = np.arange(0.001, 0.5, 0.001).round(3).tolist()


def _needed(max_error_rate: float, confidence: float) -> int:
    """Return the fewest hits that show the rate, none of them wrong."""
    return int(np.ceil(np.log(1 - confidence) / np.log(1 - max_error_rate)))


def _first_tested(hits: NDArray[np.int_], max_error_rate: float, confidence: float) -> int:
    """Return the index of the threshold where the tests start; past the end if none has hits enough."""
    return int(np.searchsorted(hits, _needed(max_error_rate, confidence)))


def _unsupported(hits: NDArray[np.int_], wrong: NDArray[np.int_], max_error_rate: float, confidence: float) -> str:
    """Say what the data showed in place of the claim."""
    needed, first = _needed(max_error_rate, confidence), _first_tested(hits, max_error_rate, confidence)
    if first == len(_GRID):
        shown = f"that takes at least {needed} hits with none wrong, and there are {hits[-1]} hits in all"
    else:
        bound = upper_bound(int(wrong[first]), int(hits[first]), confidence)
        shown = (
            f"of the {hits[first]} hits at {_GRID[first]:g}, the strictest threshold with the {needed} hits that it "
            f"takes, {wrong[first]} are wrong, and the bound is {bound:.2%}; looser thresholds may not be "
            "tested after that"
        )
    passing = next((r for r in _RATES if r > max_error_rate and _first_passes(hits, wrong, r, confidence)), 0)
    hint = f" (these pairs would pass at {passing:g}: a hint and no bound, since it was found by looking at them)"
    return (
        f"the data cannot support at most {max_error_rate:.2%} wrong hits at {confidence:.0%} confidence: {shown}; "
        f"check the labels, give more pairs or a higher --max-error-rate{hint if passing else ''}"
    )


def _first_passes(hits: NDArray[np.int_], wrong: NDArray[np.int_], rate: float, confidence: float) -> bool:
    first = _first_tested(hits, rate, confidence)
    return first < len(_GRID) and upper_bound(int(wrong[first]), int(hits[first]), confidence) <= rate
