"""Sentence embeddings from an ONNX encoder, on CPU or on a part of a GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from app.bundled import PREFIX, exported_encoder, resolve
from app.errors import ConfigError, ContextLengthError
from app.nvidia import gpu_memory_bytes
from app.section import Section

if TYPE_CHECKING:
    import onnxruntime
    import tokenizers

Precision = Literal["int8", "fp32"]
GpuFraction = Annotated[float, Field(ge=0, le=1)]
_CUDA = "CUDAExecutionProvider"
_FILES: dict[Precision, str] = {"fp32": "model.onnx", "int8": "model.int8.onnx"}


class OnnxEmbedderConfig(Section):
    """A folder with `tokenizer.json` and a graph from `input_ids`, `attention_mask` to `sentence_embedding`.

    Attributes:
        model: The folder, or `bundled:minilm`.
        precision: `fp32` reads `model.onnx`, `int8` reads `model.int8.onnx`.
        max_tokens: The window; of a longer text its head and its tail are read.
        threads: Of a CPU, for one batch.
        gpu_fraction: Part of a GPU, and of its memory, that a replica runs it on; 0 is the CPU. It takes
            `onnxruntime-gpu` in place of `onnxruntime`, and gains most with `fp32`.
    """

    kind: Literal["onnx"] = "onnx"
    model: str = "bundled:minilm"
    precision: Precision = "int8"
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 256
    threads: PositiveInt = 1
    gpu_fraction: GpuFraction = 0

    def build(self) -> OnnxEmbedder:
        """Load the graph; a replica does so once.

        Raises:
            ConfigError: The folder is missing or has other files.
        """
        folder = Path(resolve(self.model)).expanduser()
        # by the weights it was made of, since an export of the same weights is not the same bytes everywhere
        name = folder.name if self.model.startswith(PREFIX) else None
        return open_encoder(folder, name, self.precision, self.max_tokens, self.threads, self.gpu_fraction)


class SentenceTransformersConfig(Section):
    """A folder as sentence-transformers saves it, with mean or CLS pooling; exported to ONNX when first used.

    Attributes:
        model: The folder.
        precision: Of the export; `int8` is faster and less exact.
        max_tokens: The window; of a longer text its head and its tail are read.
        threads: Of a CPU, for one batch.
        gpu_fraction: Part of a GPU, and of its memory, that a replica runs it on; 0 is the CPU. It takes
            `onnxruntime-gpu` in place of `onnxruntime`, and gains most with `fp32`.
    """

    kind: Literal["sentence-transformers"]
    model: Path
    precision: Precision = "fp32"  # int8 moves some models far: all-mpnet-base-v2 to a cosine of 0.89
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 256
    threads: PositiveInt = 1
    gpu_fraction: GpuFraction = 0

    def build(self) -> OnnxEmbedder:
        """Load the graph, made from the folder if it is not yet; that takes a minute and needs PyTorch.

        Raises:
            ConfigError: It is no such folder.
        """
        folder = exported_encoder(self.model.expanduser())
        return open_encoder(folder, folder.name, self.precision, self.max_tokens, self.threads, self.gpu_fraction)


def open_encoder(
    folder: Path, name: str | None, precision: Precision, max_tokens: int, threads: int, gpu_fraction: float = 0
) -> OnnxEmbedder:
    """Load an encoder; without a name its space is named by the graph's bytes.

    Raises:
        ConfigError: The folder is missing or has other files, or there is no GPU to run it on.
    """
    graph, vocabulary = folder / _FILES[precision], folder / "tokenizer.json"
    for file in (graph, vocabulary):
        if not file.is_file():
            raise ConfigError(f"embedder.model: there is no `{file.name}` in `{folder}`")
    name = name or hashlib.blake2b(graph.read_bytes(), digest_size=4).hexdigest()
    return OnnxEmbedder(
        open_graph(graph, vocabulary, threads, max_tokens, gpu_fraction), f"{name}-{precision}-{max_tokens}"
    )


def open_graph(graph: Path, vocabulary: Path, threads: int, max_tokens: int, gpu_fraction: float = 0) -> OnnxEncoder:
    """Load a graph and its tokenizer."""
    import tokenizers

    session = open_session(graph, threads, gpu_fraction)
    return OnnxEncoder(session, tokenizers.Tokenizer.from_file(str(vocabulary)), max_tokens)


def open_session(graph: Path, threads: int, gpu_fraction: float = 0) -> onnxruntime.InferenceSession:
    """Load an ONNX graph for the CPU, on `threads` threads, or for a part of a GPU.

    Raises:
        ConfigError: There is no GPU to run it on.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu_fraction:
        if _CUDA not in onnxruntime.get_available_providers():
            raise ConfigError(
                "gpu_fraction: onnxruntime was built without CUDA; install `onnxruntime-gpu`, or leave it out"
            )
        providers.insert(0, (_CUDA, {"gpu_mem_limit": int(gpu_fraction * gpu_memory_bytes())}))
    session = onnxruntime.InferenceSession(graph, options, providers=providers)
    if gpu_fraction and session.get_providers()[0] != _CUDA:
        raise ConfigError("gpu_fraction: onnxruntime could not use the GPU; its log says why")
    return session


class OnnxEncoder:
    """A session over texts, batched by their length. Texts longer than the window keep their head and their tail, where
    questions are asked.
    """

    def __init__(self, session: onnxruntime.InferenceSession, tokenizer: tokenizers.Tokenizer, max_tokens: int) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_tokens = max_tokens

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of texts, of which longer ones lose some when they are run."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]

    def run(self, texts: Sequence[str], **inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the graph's output for texts; blocks the calling thread.

        Args:
            inputs: More inputs of the graph, `(len(texts), ...)`.

        Returns:
            `(len(texts), dim)`.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        rows = [windowed(encoding.ids, self.max_tokens) for encoding in encodings]
        outputs: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(rows)
        for group in _groups([len(row) for row in rows]):
            more = {name: values[group] for name, values in inputs.items()}
            for i, output in zip(group, self._run([rows[i] for i in group], more), strict=True):
                outputs[i] = output
        return np.stack(outputs)

    def _run(self, rows: list[list[int]], more: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        output: NDArray[np.float32] = self._session.run(None, {"input_ids": ids, "attention_mask": mask, **more})[0]
        return output


class OnnxEmbedder:
    """An encoder whose graph's output is the embedding."""

    def __init__(self, encoder: OnnxEncoder, space: str) -> None:
        self.space = space
        self._encoder = encoder

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts; blocks the calling thread.

        Returns:
            `(len(texts), dim)`, rows of L2 norm 1.
        """
        return self._encoder.run(texts)

    def measure(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Embed whole texts, and count their tokens; blocks the calling thread.

        Raises:
            ContextLengthError: A text is longer than the window.
        """
        lengths = self._encoder.lengths(texts)
        window = self._encoder.max_tokens
        for i, length in enumerate(lengths):
            if length > window:
                message = f"`input[{i}]` has {length} tokens, of which the encoder reads {window}. Send shorter pieces."
                raise ContextLengthError(message, "input")
        return self.embed(texts), sum(lengths)


def windowed(ids: list[int], max_tokens: int) -> list[int]:
    """Keep the head and the tail of a longer text's tokens, half each."""
    if len(ids) <= max_tokens:
        return ids
    tail = max_tokens // 2
    return ids[: max_tokens - tail] + ids[-tail:]


def _groups(lengths: Sequence[int], max_size: int = 8) -> list[list[int]]:
    """Group indices of similar length: padding costs as much as text, and past eight rows a batch gains nothing."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        shortest = lengths[groups[-1][0]] if groups else 0
        if groups and len(groups[-1]) < max_size and lengths[i] <= 1.2 * shortest + 2:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
