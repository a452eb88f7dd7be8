"""The pipeline's sources, leak check, answer reading and sandbox, against every question of MMLU, Alpaca and HumanEval.

    python bench/sources.py FOLDER      with mmlu/*.csv, alpaca*.json and HumanEval.jsonl.gz

Honest prompts are each question with asks of the project's own pairs; dishonest ones give the answer away in several ways.
"""

import ast
import copy
import csv
import gzip
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import machine

from promptimal import chat
from promptimal_trainer import pairs, sandbox
from promptimal_trainer.answers import chosen
from promptimal_trainer.leak import leaks
from promptimal_trainer.sources import Question, read

OPPOSITES = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Lt: ast.GtE,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
OPPOSITES |= {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And, ast.Mod: ast.Mult, ast.FloorDiv: ast.Mult}


def main(folder: Path) -> None:
    print(machine())
    specs = {
        f"mmlu:{folder / 'mmlu'}": _count_csv(folder / "mmlu"),
        f"humaneval:{folder / 'HumanEval.jsonl.gz'}": _count_lines(folder / "HumanEval.jsonl.gz"),
    }
    for file in folder.glob("alpaca*.json"):
        specs[f"alpaca:{file}"] = len(json.loads(file.read_text()))
    asks = [parts.asks for pair in pairs.read(pairs.DEFAULT) if (parts := chat.take_apart(pair.prompt, pair.improved)).asks]
    asks += [" ".join(pair.asks[:2]) for pair in pairs.read(pairs.DEFAULT) if pair.asks]
    for spec, rows in specs.items():
        begun = time.perf_counter()
        questions = list(read(spec, skip_bad=True))
        seconds = time.perf_counter() - begun
        name = spec.partition(":")[0]
        print(f"\n{name}: {len(questions)} questions of {rows} rows, {len({q.id for q in questions})} names, {seconds:.2f} s")
        _leaks(questions, asks)
        if name == "mmlu":
            _answers(questions)
        if name == "humaneval":
            _sandbox(questions)


def _leaks(questions: list[Question], asks: list[str]) -> None:
    order = random.Random(7)
    honest = [(f"{question.text}\n\n{order.choice(asks)}", question) for question in questions for _ in range(5)]
    begun = time.perf_counter()
    _rate("as it is", [(q.text, q) for q in questions])
    _rate("with honest asks (each five times)", honest)
    print(f"  {(time.perf_counter() - begun) / 6 / len(questions) * 1e3:.2f} ms a check")
    for label, cheat in CHEATS[questions[0].kind].items():
        _rate(label, [(prompt, q) for q in questions if (prompt := cheat(q))])


def _rate(label: str, prompts: list[tuple[str, Question]]) -> None:
    found = [leaks(prompt, question) for prompt, question in prompts]
    print(f"  {label}: caught {sum(map(bool, found))} of {len(found)}")
    if "-v" in sys.argv:
        odd = [(p, q, f) for (p, q), f in zip(prompts, found, strict=True) if bool(f) == ("as it is" in label or "honest" in label)]
        for prompt, question, said in odd[:12]:
            print(f"    {question.id} {said}: {prompt[-300:]!r} / {question.answer[:80]!r} {question.choices}")


def _right(question: Question) -> str:
    return question.choices["ABCD".index(question.answer)]


def _renamed(question: Question) -> str:
    """The solution with every local variable and argument called otherwise."""
    tree = ast.parse(sandbox.program(question.text, question.answer))
    (function,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == question.entry_point]
    bound = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    bound |= {a.arg for n in ast.walk(function) if isinstance(n, ast.arguments) for a in n.args}
    names = {name: f"v{number}" for number, name in enumerate(sorted(bound))}
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
    return f"{question.text}\n\n```python\n{ast.unparse(function.body[1:] or function.body)}\n```"


CHEATS: dict[str, dict[str, Callable[[Question], str]]] = {
    "choice": {
        '"The answer is B."': lambda q: f"{q.text}\n\nThe answer is {q.answer}.",
        '"Explain why B is correct."': lambda q: f"{q.text}\n\nExplain why {q.answer} is correct.",
        '"(Hint: B)"': lambda q: f"{q.text} (Hint: {q.answer})",
        "the right option again": lambda q: f"{q.text}\n\n{_right(q)}",
        "the right option in a sentence": lambda q: f"{q.text}\n\nShow that it is {_right(q)}.",
        "one wrong option struck out": lambda q: "\n".join(
            line
            for line in q.text.split("\n")
            if not line.startswith(f"{'BA'[q.answer == 'B']}. {q.choices['BA'[q.answer == 'B'] == 'B']}")
        ),
        "the others struck out": lambda q: q.text.rpartition("\n\nA. ")[0] + f"\n\n{q.answer}. {_right(q)}",
        "the right option in bold": lambda q: q.text.replace(f"\n{q.answer}. {_right(q)}", f"\n**{q.answer}. {_right(q)}**"),
    },
    "open": {
        "the reference answer": lambda q: q.answer and f"{q.text}\n\n{q.answer}",
        "its first half": lambda q: q.answer and f"{q.text}\n\n{q.answer[: len(q.answer) // 2]}",
    },
    "code": {
        "the solution": lambda q: f"{q.text}\n\n{q.answer}",
        "its variables renamed": _renamed,
        "its longest line in a sentence": lambda q: f"{q.text}\n\nUse `{max(q.answer.splitlines(), key=len).strip()}` here.",
    },
}


def _answers(questions: list[Question]) -> None:
    for form in (
        "{0}",
        "{0}. {1}",
        "The answer is {0}.",
        "The correct answer is **{0}. {1}**\n\nThe others do not fit.",
        "{1}",
        "I think it is {1}.",
    ):
        found = Counter(
            "right"
            if (letter := chosen(form.format(q.answer, _right(q)), q.choices)) == q.answer
            else "none"
            if letter is None
            else "wrong"
            for q in questions
        )
        print(f"  read from {form!r}: {dict(found)}")


def _sandbox(questions: list[Question]) -> None:
    begun = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(lambda q: sandbox.run_tests(sandbox.program(q.text, q.answer), q.tests, q.entry_point), questions))
    print(
        f"  canonical solutions: {sum(o.passed for o in right)} of {len(right)} pass, {(time.perf_counter() - begun) / len(right) * 1e3:.0f} ms each, two at a time"
    )
    for question, outcome in zip(questions, right, strict=True):
        if not outcome.passed:
            print(f"    {question.id}: {outcome.why}")
    jobs = [(question, mutant) for question in questions for mutant in _mutants(question)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda job: sandbox.run_tests(job[1], job[0].tests, job[0].entry_point, seconds=3), jobs))
    print(f"  mutants: {sum(not o.passed for o in outcomes)} of {len(outcomes)} fail")
    print(
        "    "
        + ", ".join(
            f"{why} {count}"
            for why, count in Counter(re.sub(r" in line .*|line \d+", "", o.why) or "passed" for o in outcomes).most_common(8)
        )
    )
    for (question, mutant), outcome in zip(jobs, outcomes, strict=True):
        if outcome.passed and "-v" in sys.argv:
            print(f"    {question.id} passes:\n{mutant}")
    empty = [sandbox.run_tests(sandbox.program(q.text, "    return None\n"), q.tests, q.entry_point) for q in questions]
    print(f"  solutions that return nothing: {sum(not o.passed for o in empty)} of {len(empty)} fail")


def _mutants(question: Question) -> Iterator[str]:
    """Up to three solutions with one operator or number changed."""
    whole = ast.parse(sandbox.program(question.text, question.answer))
    places = [n for n, node in enumerate(ast.walk(whole)) if _mutable(node)]
    for place in random.Random(question.id).sample(places, min(3, len(places))):
        tree = copy.deepcopy(whole)
        node = list(ast.walk(tree))[place]
        if isinstance(node, ast.Compare):
            node.ops = [OPPOSITES[type(node.ops[0])](), *node.ops[1:]]
        elif isinstance(node, ast.BinOp | ast.BoolOp):
            node.op = OPPOSITES[type(node.op)]()  # type: ignore[assignment]
        elif isinstance(node, ast.Constant):
            node.value += 1  # type: ignore[operator]
        yield ast.unparse(tree)


def _mutable(node: ast.AST) -> bool:
    return (
        (isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITES)
        or (isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPPOSITES)
        or (isinstance(node, ast.Constant) and type(node.value) is int)
    )


def _count_csv(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            total += sum(1 for row in csv.reader(file) if row)
    return total


def _count_lines(path: Path) -> int:
    with gzip.open(path) as file:
        return sum(1 for line in file if line.strip())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
