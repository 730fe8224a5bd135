"""The configuration of a local model, and what a replica of it takes of the GPUs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from app.pricing import GivenPrice, Price
from app.section import Section

_CONTEXT = 4096  # of a model whose `engine` does not say
_MEMORY_SHARE = 0.9  # of a replica's part of a GPU; the rest is for CUDA graphs and for the neighbour on the same GPU
_ALONE = 0.98  # of a whole GPU; CUDA itself has the rest before the engine looks


class LocalLLMConfig(Section):
    """A model served by `ray.serve.llm` on vLLM.

    Attributes:
        model: A Hugging Face name, a folder, or `bundled:smollm2-135m`.
        name: What clients may call it; by default the last part of `model`.
        device: `cpu` needs vLLM's CPU build.
        cpus: CPUs that Ray sets aside for a replica; a GPU's replica has them beside it.
        gpu_fraction: Part of one GPU that a replica has to itself, or a number of whole GPUs, which share the model
            (`tensor_parallel_size`). The engine takes nine tenths of that memory; a `gpu_memory_utilization` of your
            own, a share of the whole GPU, must not be over that, or over 0.98 of whole ones.
        engine: vLLM engine arguments (`max_model_len`, `dtype`, ...). JSON without blank space is a sixth shorter:
            `structured_outputs_config: {backend: xgrammar, disable_any_whitespace: true}`; schemas that xgrammar does
            not know are then refused, where by default another backend takes them.
        env: Environment of the replica.
        timeout_s: Longest wait for a whole answer, and for each chunk of a streamed one.
        weight: In a tier with `targets` too, its share of the requests beside their weights; without one it is asked
            before the targets that have none.
        price: What its tokens cost, or what the rented GPU costs and makes; by default nothing.
    """

    model: str
    name: str = ""
    device: Literal["cpu", "cuda"] = "cuda"
    cpus: PositiveFloat = 1
    gpu_fraction: Annotated[float, Field(gt=0, le=8)] = 1.0
    engine: dict[str, Any] = {}
    env: dict[str, str] = {}
    timeout_s: PositiveFloat = 120
    weight: PositiveFloat | None = None
    price: GivenPrice = Price()

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.device == "cpu":
            return self
        part = self.gpu_fraction
        if part > 1 and part != int(part):
            raise ValueError(f"gpu_fraction: {part:g} is neither a part of one GPU nor a number of whole ones")
        pipeline = int(self.engine.get("pipeline_parallel_size", 1))
        shards = pipeline * int(self.engine.get("tensor_parallel_size", self.gpus // pipeline))
        if shards != self.gpus:
            raise ValueError(f"gpu_fraction: is {part:g}, but `engine` spreads the model over {shards} GPUs")
        most = _most_memory(part)
        if self.gpu_memory > most:
            number = int(1 / part + 1e-9) or 1
            raise ValueError(
                f"engine.gpu_memory_utilization: a replica with {part:g} of a GPU must not take {self.gpu_memory:g} "
                f"of its memory, since {number} of them would take {number * self.gpu_memory:g} and each somewhat more "
                f"for CUDA, so that the last one would not start; set at most {most:g}"
            )
        return self

    @property
    def gpus(self) -> int:
        """How many GPUs a replica is on."""
        return max(1, int(self.gpu_fraction))

    @property
    def gpu_memory(self) -> float:
        """Share of the memory of each of its GPUs that a replica takes."""
        own = self.engine.get("gpu_memory_utilization")
        return _share(self.gpu_fraction) if own is None else float(own)

    @property
    def target(self) -> str:
        """The name that clients and answers use."""
        return self.name or self.model.rpartition("/")[2].rpartition(":")[2]

    @property
    def context_tokens(self) -> int:
        """Tokens of the longest prompt and answer together."""
        return int(self.engine.get("max_model_len", _CONTEXT))


def _share(part: float) -> float:
    return round(_MEMORY_SHARE * min(part, 1), 3)


def _most_memory(part: float) -> float:
    """Return the share of a GPU that an engine may take: it does not start unless all of that is free."""
    return _share(part) if part < 1 else _ALONE
