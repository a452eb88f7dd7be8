"""Score answers with a reward model: any sequence classifier of transformers with one output, by default OpenAssistant's.

It reads a prompt and an answer as a pair of texts and gives a logit, higher for an answer that people would like better (Köpf et al. 2023,
arXiv:2304.07327). Scores of one model compare; those of two do not.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from promptimal_trainer.batches import passes
from promptimal_trainer.errors import TrainError
from promptimal_trainer.pairs import sha256

DEFAULT = "OpenAssistant/reward-model-deberta-v3-large-v2"
_TOKENS_AT_ONCE = 4096  # of a batch, padding included
_DECIMALS = 4  # what a batch's composition changes of a score is some 1e-6


class BadReward(TrainError):
    """A reward model that cannot be used; the message says why."""


class RewardModel:
    """A loaded reward model. `fingerprint` names its weights, for the key of a store; `cut` counts the pairs that were too long.

    Of a pair that is longer than the model was trained for (512 tokens by default), the longer text loses its end, then both in turn.
    """

    def __init__(self, name_or_folder: str = DEFAULT) -> None:
        """Load from a folder or the hub, on the GPU where there is one. Raises BadReward."""
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name_or_folder)
            model, info = AutoModelForSequenceClassification.from_pretrained(name_or_folder, dtype=torch.float32, output_loading_info=True)
        except Exception as error:  # damage shows in many ways
            raise BadReward(
                f"cannot load the reward model {name_or_folder!r}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
            ) from error
        if model.config.num_labels != 1:
            raise BadReward(f"{name_or_folder!r} has {model.config.num_labels} outputs; a reward model has one")
        if info["missing_keys"]:
            raise BadReward(f"{name_or_folder!r} is no reward model: it lacks {', '.join(sorted(info['missing_keys'])[:3])}")
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device).eval()
        self._longest = min(self._tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
        self.fingerprint = _fingerprint(name_or_folder, model.config)
        self.cut = 0

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """A reward for each (prompt, answer), in their order, to four decimals: how they are batched does not show."""
        encoded = [self._encode(prompt, answer) for prompt, answer in pairs]

        def length(number: int) -> int:
            return len(encoded[number]["input_ids"])

        scores = [0.0] * len(pairs)
        for batch in passes(sorted(range(len(pairs)), key=length), length, _TOKENS_AT_ONCE):
            inputs = self._tokenizer.pad([encoded[number] for number in batch], return_tensors="pt").to(self._device)
            for number, logit in zip(batch, self._model(**inputs).logits[:, 0].tolist(), strict=True):
                scores[number] = round(logit, _DECIMALS)
        return scores

    def _encode(self, prompt: str, answer: str) -> dict[str, list[int]]:
        texts = [self._plain(prompt), self._plain(answer)]
        whole = self._tokenizer(*texts, verbose=False)
        if len(whole["input_ids"]) <= self._longest:
            return dict(whole)
        self.cut += 1
        return dict(self._tokenizer(*texts, truncation="longest_first", max_length=self._longest))

    def _plain(self, text: str) -> str:
        """The text with what looks like a control token broken up: an answer must not end itself."""
        for token in self._tokenizer.all_special_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def _fingerprint(name: str, config: Any) -> str:
    """The hash of a folder's files that a score depends on, or a hub name with its revision."""
    folder = Path(name)
    if not folder.is_dir():
        return f"{name}@{getattr(config, '_commit_hash', None)}"
    files = sorted(file for pattern in ("*.safetensors", "*.bin", "*.json", "*.model") for file in folder.glob(pattern))
    return hashlib.sha256("".join(f"{file.name}:{sha256(file)}\n" for file in files).encode()).hexdigest()
