"""A pipeline's recipe: a TOML file that a person copies and changes; `recipe.toml` beside this file says what each key means."""

import dataclasses
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_origin

from promptimal_trainer.errors import TrainError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLE = Path(__file__).parent / "recipe.toml"
ROLES = ("teacher", "answerer", "judge")


class BadRecipe(TrainError):
    """A recipe that cannot be run; the message names the key."""


@dataclass(frozen=True)
class Model:
    """A model behind an OpenAI-compatible server. Prices are for a million tokens, in any one currency."""

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_env: str = "OPENAI_API_KEY"
    replies_as: str = ""
    price_in: float = 0.0
    price_out: float = 0.0
    timeout: float = 120.0
    sampling: MappingProxyType[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def body(self, messages: list[dict[str, str]], sample: int) -> dict[str, Any]:
        """The request for the `sample`-th answer to `messages`: the sample's number is the seed, which makes each request one of its own."""
        return {"model": self.model, "messages": messages, "seed": sample, **self.sampling}

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    @property
    def most_tokens(self) -> int:
        """Tokens of an answer at most, as the sampling says; 0 where it does not."""
        given = (self.sampling.get(name) for name in ("max_tokens", "max_completion_tokens"))
        return max((number for number in given if isinstance(number, int) and number > 0), default=0)

    @property
    def key(self) -> str:
        """The key from the environment. A server on one's own machine mostly wants none, but the client insists on one."""
        return os.environ.get(self.key_env) or "none"


@dataclass(frozen=True)
class Recipe:
    """A run's settings."""

    sources: tuple[str, ...]
    teacher: Model
    answerer: Model
    judge: Model | None = None
    reward: str = ""
    per_source: int = 0
    worst: float = 0.25
    versions: int = 2
    samples: int = 4
    rounds: int = 3
    concurrency: int = 16
    against: tuple[str, ...] = ()
    budget_tokens: int = 0
    budget_cost: float = 0.0

    def model(self, role: str) -> Model:
        """The model that plays a role."""
        model = {"teacher": self.teacher, "answerer": self.answerer, "judge": self.judge}[role]
        assert model is not None, "only asked for where there is one"
        return model


def read(path: Path) -> Recipe:
    """The recipe in a file. Raises BadRecipe where it is missing, is no TOML, or has unknown, missing, ill-typed or senseless values."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadRecipe(f"{path}: no such recipe; copy {EXAMPLE} and change it") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadRecipe(f"{path}: {error}") from error
    for role in ROLES:
        if isinstance(values.get(role), dict):
            values[role] = Model(**_checked(Model, values[role], f"{path}: [{role}] "))
    recipe = Recipe(**_checked(Recipe, values, f"{path}: "))
    check_sense(recipe, path)
    return recipe


def check_sense(recipe: Recipe, path: Path) -> None:
    """Raises BadRecipe where values are out of range or do not go together."""
    for name in ("versions", "samples", "concurrency"):
        if getattr(recipe, name) < 1:
            raise BadRecipe(f"{path}: {name} must be at least 1")
    for name in ("rounds", "per_source", "budget_tokens", "budget_cost"):
        if getattr(recipe, name) < 0:
            raise BadRecipe(f"{path}: {name} must not be negative")
    if not recipe.sources:
        raise BadRecipe(f"{path}: sources must name at least one")
    if not 0 < recipe.worst <= 1:
        raise BadRecipe(f"{path}: worst must be a share above 0, at most 1")
    if recipe.judge and recipe.reward:
        raise BadRecipe(f"{path}: open answers are scored by [judge] or by reward, not by both: leave one out")
    for role in ROLES:
        model = getattr(recipe, role)
        if model and not model.base_url.startswith(("http://", "https://")):
            raise BadRecipe(f"{path}: [{role}] base_url must begin with http:// or https://, as in http://localhost:8080/v1")
        if model and (reserved := {"model", "messages", "seed", "n", "stream"} & set(model.sampling)):
            raise BadRecipe(f"{path}: [{role}] sampling must not set {min(reserved)}: that is the pipeline's business")
        if model and (recipe.budget_tokens or (recipe.budget_cost and model.price_out)) and not model.most_tokens:
            raise BadRecipe(f"{path}: [{role}] sampling must set max_tokens: without it no call is sure to stay within the budget")
    if recipe.budget_cost and not any((m := getattr(recipe, role)) and (m.price_in or m.price_out) for role in ROLES):
        raise BadRecipe(f"{path}: budget_cost needs prices: give price_in and price_out of the models that cost something")


def _checked(kind: type, values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values of a table, each of the type that its field has."""
    known = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise BadRecipe(f"{where}unknown key {unknown[0]!r}")
    for name, entry in known.items():
        if name not in values and entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise BadRecipe(f"{where}missing key {name!r}")
    return {name: _typed(known[name].type, value, f"{where}{name}") for name, value in values.items()}


def _typed(kind: Any, value: Any, where: str) -> Any:
    if get_origin(kind) is tuple:
        if not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
            raise BadRecipe(f"{where} must be a list of texts")
        return tuple(value)
    if get_origin(kind) is MappingProxyType:
        if not isinstance(value, dict):
            raise BadRecipe(f"{where} must be a table")
        return MappingProxyType(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind in (Model, Model | None):
        if not isinstance(value, Model):
            raise BadRecipe(f"{where} must be a table, [{where.split()[-1]}]")
    elif type(value) is not kind:
        raise BadRecipe(f"{where} must be of type {kind.__name__}")
    return value
