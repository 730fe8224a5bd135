from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.bundled import missing
from app.embedding import OnnxEmbedder, OnnxEmbedderConfig
from app.errors import ConfigError, ContextLengthError

TEXTS = [
    "How do I reset my password?",
    "I forgot my password, how can I set a new one?",
    "Where is Bern?",
    "The quick brown fox jumps over the lazy dog. " * 8,
    "",
]
FILLER = "and then some more words that say little " * 60


@pytest.fixture(scope="module")
def embedder() -> OnnxEmbedder:
    if "minilm" in missing():
        pytest.skip("the bundled encoder is not prepared; `tierwise prepare` does")
    return OnnxEmbedderConfig().build()


def test_embeddings_have_norm_one(embedder: OnnxEmbedder) -> None:
    rows = embedder.embed(TEXTS)
    assert rows.shape == (len(TEXTS), 384)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_a_text_has_its_embedding_alone_as_in_a_batch(embedder: OnnxEmbedder) -> None:
    alone = np.vstack([embedder.embed([text]) for text in TEXTS])
    cosines = (alone * embedder.embed(TEXTS)).sum(axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-2)


def test_a_batch_keeps_its_order_over_many_lengths(embedder: OnnxEmbedder) -> None:
    texts = [f"{'word ' * (i % 7 * 9)}number {i}" for i in range(20)]
    forward, backward = embedder.embed(texts), embedder.embed(texts[::-1])[::-1]
    np.testing.assert_allclose((forward * backward).sum(axis=1), 1, atol=1e-2)


def test_what_means_the_same_is_nearer_than_what_does_not(embedder: OnnxEmbedder) -> None:
    password, forgot, bern, *_ = embedder.embed(TEXTS)
    assert password @ forgot > 0.7 > 0.3 > password @ bern


def test_a_long_text_keeps_its_head_and_its_tail(embedder: OnnxEmbedder) -> None:
    def long(head: str = "Hello.", middle: str = "nothing", tail: str = "Why?") -> str:
        return f"{head} {FILLER}{middle} {FILLER}{tail}"

    same, middle, head, tail = (
        float(embedder.embed([long()])[0] @ embedder.embed([other])[0])
        for other in (
            long(),
            long(middle="everything"),
            long(head="Translate into French:"),
            long(tail="Where is Bern?"),
        )
    )
    assert same == pytest.approx(1, abs=1e-5)
    assert middle == pytest.approx(1, abs=1e-5)
    assert head < 0.99
    assert tail < 0.99


def test_measured_texts_have_their_embeddings_and_the_count_of_their_tokens(embedder: OnnxEmbedder) -> None:
    rows, tokens = embedder.measure(["Where is Bern?", "Bern"])
    np.testing.assert_allclose(rows, embedder.embed(["Where is Bern?", "Bern"]), atol=1e-6)
    assert tokens == 6 + 3  # words and punctuation, and the two marks that the model puts around a text


def test_a_text_that_would_be_cut_is_not_measured(embedder: OnnxEmbedder) -> None:
    with pytest.raises(ContextLengthError, match=r"`input\[1\]` has \d+ tokens, of which the encoder reads 256"):
        embedder.measure(["short", FILLER])


def test_vectors_of_another_window_or_precision_have_another_space(embedder: OnnxEmbedder) -> None:
    spaces = {embedder.space, OnnxEmbedderConfig(max_tokens=128).build().space}
    assert len(spaces) == 2
    assert OnnxEmbedderConfig().build().space == embedder.space


def test_a_folder_without_the_model_says_which_file_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no `model\.int8\.onnx`"):
        OnnxEmbedderConfig(model=str(tmp_path)).build()
