"""The command `promptimal-train`: build pairs, check them, fine-tune on them, compare what came of it.

promptimal-train check
promptimal-train recipes
promptimal-train finetune --recipe smollm2-135m --out runs/mine
promptimal-train run recipe.toml --out runs/data
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from promptimal.engine import BadModel
from promptimal_trainer import pairs, recipe
from promptimal_trainer.errors import TrainError
from promptimal_trainer.pipeline import command as pipeline


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
    finetune.add_argument("--limit", type=_count, metavar="N", help="train on the first N pairs only")
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
    _add_evaluate(commands)
    report = commands.add_parser("report", help="a page of curves, scores and examples, from what runs have on record")
    report.add_argument("runs", type=Path, nargs="+", metavar="run", help="a run's directory")
    report.add_argument("--out", type=Path, metavar="DIRECTORY", help="where report.html and report.md go (default: the first run)")
    card = commands.add_parser("card", help="write a run's model card, README.md")
    card.add_argument("run", type=Path, help="a run's directory")
    push = commands.add_parser("push", help="send a run's adapter and model card to the Hugging Face hub")
    push.add_argument("run", type=Path, help="a run's directory")
    push.add_argument("--to", required=True, metavar="OWNER/NAME", help="the repository; a new one is private")
    pipeline.add(commands)
    arguments = parser.parse_args()
    if arguments.command == "finetune" and not (arguments.out or arguments.plan):
        finetune.error("--out is missing: where the adapter goes")
    if arguments.command == "finetune" and arguments.tflops is not None and arguments.tflops <= 0:
        finetune.error("--tflops must be above 0")
    try:
        return _COMMANDS.get(arguments.command, pipeline.run)(arguments)
    except (TrainError, BadModel) as error:
        print(f"promptimal-train: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"promptimal-train: {error.name} is not installed: pip install 'promptimal-local[train]'", file=sys.stderr)
    except OSError as error:
        print(f"promptimal-train: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("promptimal-train: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 1


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="measure a run: loss, fidelity, the answers' gain, wins, and what a search would have given"
    )
    evaluate.add_argument("run", type=Path, help="a run's directory, or a GGUF model")
    evaluate.add_argument(
        "--questions",
        action="append",
        metavar="SOURCE",
        help="such as mmlu:FOLDER or own:FILE, more than once if need be (default: the project's)",
    )
    evaluate.add_argument("--limit", type=_count, metavar="N", help="take N questions of each source, drawn at random but always the same")
    evaluate.add_argument("--data", type=Path, default=pairs.DEFAULT, metavar="FILE", help="pairs whose held-out part is scored")
    for name, does in (
        ("answerer", "answers the prompts"),
        ("judge", "compares prompts blind"),
        ("optimizer", "writes instructions in --opro"),
    ):
        default = " (default: the answerer)" if name == "optimizer" else ""
        evaluate.add_argument(f"--{name}", metavar="URL", help=f"an OpenAI-compatible server that {does}{default}; key: OPENAI_API_KEY")
        evaluate.add_argument(f"--{name}-model", default="default", metavar="NAME", help="the model to ask for there")
    evaluate.add_argument("--reward", metavar="NAME", help="a reward model for answers to open questions: a hub name or a folder")
    evaluate.add_argument(
        "--opro", type=int, default=0, metavar="N", help="search for an instruction over N generations (OPRO), to compare"
    )


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
    is_new = not (arguments.out / "sheet.jsonl").exists()
    count = compare.make_sheet(arguments.a, arguments.b, arguments.prompts, arguments.out)
    if is_new:
        print(f"{arguments.out / 'sheet.jsonl'}: {count} pairs to judge by {arguments.out / 'JUDGING.txt'}", file=sys.stderr)
    if arguments.judge:
        compare.ask_judge(arguments.out, arguments.judge, arguments.judge_model)
    if not verdicts.exists():
        print(f"write {verdicts} and run the same command again for the table", file=sys.stderr)
        return 0
    print(compare.table(*compare.tally(arguments.out), compare.judges(arguments.out)))
    return 0


def _finetune(arguments: argparse.Namespace) -> int:
    wanted = recipe.read_recipe(arguments.recipe)
    if arguments.plan:
        return _plan(arguments, wanted)
    from promptimal_trainer.finetune import finetune

    run = finetune(wanted, arguments.data, arguments.out, limit=arguments.limit)
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes the first one speaks
        return 0
    print(f"held-out loss {' → '.join(f'{score.loss:.3f}' for score in run.scores)}; adapter in {run.directory}", file=sys.stderr)
    return _card(argparse.Namespace(run=run.directory))


def _plan(arguments: argparse.Namespace, wanted: recipe.Recipe) -> int:
    from promptimal_trainer import plan

    some = [p for p in pairs.read(arguments.data) if not pairs.is_held_out(p.prompt, wanted.held_out)][: arguments.limit]
    if not some:
        raise pairs.BadPairs(f"{arguments.data}: too few pairs: all are held out, none is left to train on")
    print(plan.report(arguments.recipe, wanted, some, arguments.memory, arguments.tflops))
    return 0


def _recipes(arguments: argparse.Namespace) -> int:
    if arguments.way == "copy":
        recipe.copy(arguments.name, arguments.to)
        print(f"{arguments.to}: a copy of {arguments.name}", file=sys.stderr)
        return 0
    for name, line in recipe.names().items():
        print(f"{name:14} {line}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from promptimal_trainer.calls import Address
    from promptimal_trainer.evaluate import Plan, directory, evaluate
    from promptimal_trainer.report import results

    os.environ.pop("PROMPTIMAL_API_BASE", None)  # the run is what is measured, not what `promptimal` would use today

    def server(name: str) -> Address | None:
        url = getattr(arguments, name)
        return Address(url, getattr(arguments, f"{name}_model")) if url else None

    plan = Plan(
        questions=tuple(arguments.questions or Plan.questions),
        limit=arguments.limit,
        data=arguments.data,
        answerer=server("answerer"),
        reward=arguments.reward,
        judge=server("judge"),
        optimizer=server("optimizer"),
        generations=arguments.opro,
    )
    result = evaluate(arguments.run, plan)
    print(results(result))
    for part in result["left_out"]:
        print(f"left out: {part}", file=sys.stderr)
    print(f"all of it is in {directory(arguments.run) / 'evaluation.json'}", file=sys.stderr)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from promptimal_trainer.report import write

    for path in write(arguments.runs, arguments.out or arguments.runs[0]):
        print(path)
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from promptimal_trainer.card import write

    print(write(arguments.run))
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from promptimal_trainer.card import push

    print(push(arguments.run, arguments.to))
    return 0


_COMMANDS = {
    "check": _check, "recipes": _recipes, "finetune": _finetune, "compare": _compare, "evaluate": _evaluate, "report": _report, "card": _card,
    "push": _push,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
