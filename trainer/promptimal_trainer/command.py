"""The command `promptimal-train`: check pairs, fine-tune on them, compare what came of it.

promptimal-train check
promptimal-train recipes
promptimal-train finetune --recipe smollm2-135m --out runs/mine
"""

import argparse
import os
import sys
from pathlib import Path

from promptimal_trainer import pairs, recipe


def main() -> int:
    """Run the command; its exit code is 0 done, 1 it could not or the pairs are faulty, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="promptimal-train",
        description="Build the data set and fine-tune the rewriter.",
        epilog="exit codes: 0 done, 1 it could not (for check: there are faults), 2 wrong usage, 130 interrupted",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    check = commands.add_parser("check", help="look for faults in training pairs")
    check.add_argument("pairs", type=Path, nargs="?", default=pairs.DEFAULT, help="JSON lines (default: the project's own pairs)")
    check.add_argument(
        "--against", type=Path, action="append", default=[], metavar="FILE", help="evaluation prompts that must not be near any pair"
    )
    finetune = commands.add_parser("finetune", help="train a LoRA adapter by a recipe")
    finetune.add_argument("--recipe", default="smollm2-135m", help="a built-in recipe or a .toml file (default: %(default)s)")
    finetune.add_argument("--data", type=Path, default=pairs.DEFAULT, metavar="FILE", help="pairs to train on (default: the project's own)")
    finetune.add_argument("--out", type=Path, metavar="DIRECTORY", help="where the adapter goes; a checkpoint there is gone on from")
    finetune.add_argument("--limit", type=int, metavar="N", help="train on the first N pairs only")
    finetune.add_argument("--plan", action="store_true", help="only print the memory and time to expect, before anything is loaded")
    finetune.add_argument("--memory", metavar="SIZE", help="with --plan: a GPU's memory, such as 24GB (default: this machine's)")
    finetune.add_argument(
        "--tflops", type=float, metavar="N", help="with --plan: its 16-bit TFLOP/s by its data sheet (default: this machine is measured)"
    )
    recipes = commands.add_parser("recipes", help="list the recipes, or copy one to change it")
    ways = recipes.add_subparsers(dest="way", metavar="copy")
    copy = ways.add_parser("copy", help="copy a recipe to a new file")
    copy.add_argument("name", help="one of those that `promptimal-train recipes` lists")
    copy.add_argument("to", type=Path, metavar="FILE", help="a new file; an old one is not written over")
    compare = commands.add_parser("compare", help="compare two systems' rewrites blind")
    compare.add_argument("a", help='"prompt" (the prompts as typed), or JSON lines with "prompt" and "rewrite"')
    compare.add_argument("b", help="the same; the table tells how often B was preferred to A")
    compare.add_argument("--prompts", type=Path, required=True, metavar="FILE", help='JSON lines with "prompt" and "kind"')
    compare.add_argument("--out", type=Path, required=True, metavar="DIRECTORY", help="where sheet, key and verdicts are")
    compare.add_argument("--judge", metavar="URL", help="have an OpenAI-compatible server judge (key: OPENAI_API_KEY)")
    compare.add_argument("--judge-model", default="default", metavar="NAME", help="the model to ask for there")
    arguments = parser.parse_args()
    if arguments.command == "finetune" and not (arguments.out or arguments.plan):
        finetune.error("--out is missing: where the adapter goes")
    if arguments.command == "finetune" and arguments.tflops is not None and arguments.tflops <= 0:
        finetune.error("--tflops must be above 0")
    try:
        return {"check": _check, "finetune": _finetune, "recipes": _recipes, "compare": _compare}[arguments.command](arguments)
    except (pairs.BadPairs, recipe.BadRecipe) as error:
        print(f"promptimal-train: {error}", file=sys.stderr)
    except OSError as error:
        print(f"promptimal-train: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("promptimal-train: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 1


def _check(arguments: argparse.Namespace) -> int:
    from promptimal_trainer.check import check, summary

    faults = check(arguments.pairs, [*arguments.against])
    for fault in faults:
        print(fault)
    print(summary(arguments.pairs), file=sys.stderr)
    return 1 if faults else 0


def _compare(arguments: argparse.Namespace) -> int:
    from promptimal_trainer import compare

    verdicts = arguments.out / "verdicts.jsonl"
    if not (arguments.out / "sheet.jsonl").exists():
        count = compare.make_sheet(arguments.a, arguments.b, arguments.prompts, arguments.out)
        print(f"{arguments.out / 'sheet.jsonl'}: {count} pairs to judge by {arguments.out / 'JUDGING.txt'}", file=sys.stderr)
    if arguments.judge:
        compare.ask_judge(arguments.out, arguments.judge, arguments.judge_model, os.environ.get("OPENAI_API_KEY"))
    if not verdicts.exists():
        print(f"write {verdicts} and run the same command again for the table", file=sys.stderr)
        return 0
    print(compare.table(*compare.tally(arguments.out)))
    return 0


def _finetune(arguments: argparse.Namespace) -> int:
    wanted = recipe.read_recipe(arguments.recipe)
    try:
        import torch  # noqa: F401
    except ImportError:
        print("promptimal-train: torch is not installed: pip install 'promptimal-local[train]'", file=sys.stderr)
        return 1
    if arguments.plan:
        return _plan(arguments, wanted)
    from promptimal_trainer.base import BadBase
    from promptimal_trainer.checkpoint import BadCheckpoint
    from promptimal_trainer.finetune import finetune
    from promptimal_trainer.training import Diverged

    try:
        run = finetune(wanted, arguments.data, arguments.out, limit=arguments.limit)
    except (BadBase, BadCheckpoint, Diverged) as error:
        print(f"promptimal-train: {error}", file=sys.stderr)
        return 1
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first one speaks
        print(f"held-out loss {' → '.join(f'{score.loss:.3f}' for score in run.scores)}; adapter in {run.directory}", file=sys.stderr)
    return 0


def _plan(arguments: argparse.Namespace, wanted: recipe.Recipe) -> int:
    from promptimal_trainer import plan
    from promptimal_trainer.base import BadBase

    try:
        print(plan.report(arguments.recipe, wanted, pairs.read(arguments.data)[: arguments.limit], arguments.memory, arguments.tflops))
    except (BadBase, plan.BadHardware) as error:
        print(f"promptimal-train: {error}", file=sys.stderr)
        return 1
    return 0


def _recipes(arguments: argparse.Namespace) -> int:
    if arguments.way == "copy":
        recipe.copy(arguments.name, arguments.to)
        print(f"{arguments.to}: a copy of {arguments.name}", file=sys.stderr)
        return 0
    for name, line in recipe.names().items():
        print(f"{name:14} {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
