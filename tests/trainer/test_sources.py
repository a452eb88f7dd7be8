"""Questions come in one shape from four sources; a row that cannot be used is named by file and line."""

import csv
import gzip
import json
import sys
from pathlib import Path

import pytest

from promptimal_trainer.sources import BadSource, Question, read

SKY = [
    "Why is the sky blue?\nThink.",
    "The molecules are blue.",
    'It "reflects" the sea.',
    "Blue scatters more.",
    "Blue is absorbed less.",
    "C",
]
SUM = ["Find 2 + 2.", "3", "4", "5", "6", "B"]
CREPES = {"instruction": "Describe how to make crepes.", "input": "", "output": "Mix flour and eggs."}
SYNONYM = {"instruction": "Replace the adverb:", "input": "The car sped quickly.", "output": "The car sped rapidly."}
ADD = {
    "task_id": "HumanEval/3",
    "prompt": 'def add(a, b):\n    """Add.\n    >>> add(1, 2)\n    3\n    """\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


def mmlu(path: Path, *rows: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def humaneval(path: Path, *records: object) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def test_mmlu_is_read_as_published_a_file_a_subject(tmp_path):
    mmlu(tmp_path / "astronomy_test.csv", SKY, SUM)
    mmlu(tmp_path / "algebra_test.csv", SUM)
    first, second, third = read(f"mmlu:{tmp_path}")
    assert (first.id, second.id, third.id) == ("mmlu/algebra/1", "mmlu/astronomy/1", "mmlu/astronomy/2")
    assert second.kind == "choice" and second.answer == "C" and second.choices == tuple(SKY[1:5])
    assert second.text == (
        'Why is the sky blue?\nThink.\n\nA. The molecules are blue.\nB. It "reflects" the sea.\nC. Blue scatters more.\nD. Blue is absorbed less.'
    )
    assert list(read(f"mmlu:{tmp_path / 'astronomy_test.csv'}")) == [second, third]


def test_alpacas_input_follows_its_instruction(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([CREPES, SYNONYM, {**CREPES, "input": "<noinput>", "output": ""}], indent=2))
    first, second, third = read(f"alpaca:{tmp_path / 'a.json'}")
    assert first == Question("alpaca/1", "open", "Describe how to make crepes.", answer="Mix flour and eggs.")
    assert second.text == "Replace the adverb:\n\nThe car sped quickly."
    assert third.text == first.text and third.answer == ""


def test_humaneval_asks_for_a_function_and_brings_tests_that_run(tmp_path):
    (question,) = read(f"humaneval:{humaneval(tmp_path / 'h.jsonl.gz', ADD)}")
    assert question.id == "humaneval/HumanEval-3" and question.kind == "code" and question.entry_point == "add"
    assert question.text.startswith("Complete this Python function:\n\n```python\ndef add(a, b):") and question.text.endswith('"""\n```')
    exec(question.tests, {"add": lambda a, b: a + b})
    with pytest.raises(AssertionError):
        exec(question.tests, {"add": lambda a, b: a - b})


def test_a_persons_own_prompts_are_lines_or_records(tmp_path):
    (tmp_path / "p.txt").write_text("explain black holes\n\n  name a band \r\nexplain black holes\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "name a band", "kind": "ideas"}\n{"prompt": "two\\nlines\\u2028more"}\n')
    lines, records = list(read(f"own:{tmp_path / 'p.txt'}")), list(read(f"own:{tmp_path / 'p.jsonl'}"))
    assert [q.text for q in lines] == ["explain black holes", "name a band"]
    assert [q.text for q in records] == ["name a band", "two\nlines\u2028more"]
    assert lines[1].id == records[0].id and lines[1].id.startswith("own/")


def test_questions_are_read_one_at_a_time(tmp_path):
    mmlu(tmp_path / "long.csv", *[SUM] * 1000, ["broken"])
    questions = read(f"mmlu:{tmp_path / 'long.csv'}")
    assert [next(questions).id for _ in range(3)] == ["mmlu/long/1", "mmlu/long/2", "mmlu/long/3"]


@pytest.mark.parametrize(
    ("source", "name", "content", "message"),
    [
        ("mmlu", "m.csv", "q,1,2,3,4,A\nlong,1,2,3,4\n", r"m\.csv:2: 5 fields instead of 6"),
        ("mmlu", "m.csv", '"two\nlines",1,2,3,4,A\nq,1,2,3,4,E\n', r"m\.csv:3: the answer must be one of A to D, not 'E'"),
        ("mmlu", "m.csv", "q,1,,3,4,A\n", r"m\.csv:1: an option is empty"),
        ("mmlu", "m.csv", ",1,2,3,4,A\n", r"m\.csv:1: the question is empty"),
        ("mmlu", "m.csv", 'q,1,2,3,4,A\n"q" x,1,2,3,4,A\n', r"m\.csv:2: not CSV"),
        ("mmlu", "m.csv", b"q,1,2,3,4,A\nq\xff,1,2,3,4,A\n", r"m\.csv:2: not UTF-8"),
        (
            "alpaca",
            "a.json",
            '[\n{"instruction": "x", "input": "", "output": ""},\n{"instruction": "x"}]',
            r"a\.json:3: no text in 'input', 'output'",
        ),
        ("alpaca", "a.json", '[\n{"instruction": " ", "input": "x", "output": ""}]', r"a\.json:2: the instruction is empty"),
        ("alpaca", "a.json", '[\n\n"x"]', r"a\.json:3: not a JSON object"),
        ("humaneval", "h.jsonl", json.dumps(ADD) + "\nx\n", r"h\.jsonl:2: not JSON"),
        ("humaneval", "h.jsonl", json.dumps({**ADD, "entry_point": "sub"}), r"h\.jsonl:1: .*entry point 'sub'"),
        ("humaneval", "h.jsonl", json.dumps({**ADD, "test": "assert ("}), r"h\.jsonl:1: .*no Python"),
        ("own", "p.jsonl", '{"text": "x"}', r"p\.jsonl:1: no text in 'prompt'"),
        ("own", "p.jsonl", '{"prompt": "\\ud800"}', r"p\.jsonl:1: not UTF-8"),
    ],
)
def test_a_bad_row_is_named_or_on_request_counted(tmp_path, capsys, source, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadSource, match=message):
        list(read(f"{source}:{path}"))
    try:
        kept = len(list(read(f"{source}:{path}", skip_bad=True)))
    except BadSource as error:  # nothing else is in it
        kept = 0
        assert "no questions in it" in str(error)
    assert f"bad rows left out: 1 of {kept + 1}; the first: {path}:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "name", "content", "message"),
    [
        ("alpaca", "a.json", b"{}", "not a JSON list"),
        ("alpaca", "a.json", b'[\n{"instruction": "x", "input": "", "output": ""},\n{"inst', r"a\.json:3: not JSON, and what follows"),
        ("alpaca", "a.json", b'[{"instruction": "x", "input": "", "output": ""} {}]', "a comma or the list's end is missing"),
        ("alpaca", "a.json", b"[]", "no questions in it"),
        ("humaneval", "h.jsonl.gz", gzip.compress(json.dumps(ADD).encode())[:-20], "cannot be unpacked"),
        ("humaneval", "h.jsonl.gz", b"plain", "cannot be unpacked"),
        ("own", "p.txt", b"\n\n", "no questions in it"),
    ],
)
def test_a_damaged_file_stops_the_reading(tmp_path, source, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadSource, match=message):
        list(read(f"{source}:{tmp_path / name}", skip_bad=True))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gsm8k", "a source is one of mmlu, alpaca, humaneval, own"),
        ("own", "needs a path"),
        ("own:/none/p.txt", r"/none/p\.txt: cannot be read: No such file"),
        ("mmlu:/none", "/none: cannot be read"),
    ],
)
def test_what_is_not_there_is_said(spec, message):
    with pytest.raises(BadSource, match=message):
        list(read(spec))


class TestHub:
    """The hub cannot be reached in a test: `datasets` takes a folder of the same name, laid out as the hub keeps it, the same way."""

    @pytest.fixture(autouse=True)
    def at_the_hub(self, tmp_path, monkeypatch):
        self.datasets = pytest.importorskip("datasets")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(self.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        self.folder = tmp_path

    def write(self, name: str, file: str, rows: list[dict[str, object]], card: str = "", features: object = None) -> None:
        path = self.folder / name / file
        path.parent.mkdir(parents=True)
        self.datasets.Dataset.from_list(rows, features=features).to_parquet(path)
        if card:
            (self.folder / name / "README.md").write_text(f"---\nconfigs:\n{card}\n---\n")

    def test_mmlu(self):
        d = self.datasets
        kinds = d.Features(
            {
                "question": d.Value("string"),
                "subject": d.Value("string"),
                "choices": d.List(d.Value("string")),
                "answer": d.ClassLabel(names=list("ABCD")),
            }
        )
        rows = [{"question": q, "subject": "astronomy", "choices": c, "answer": "ABCD".index(a)} for q, *c, a in (SKY, SUM)]
        card = "- config_name: all\n  data_files:\n  - split: test\n    path: all/test-*"
        self.write("cais/mmlu", "all/test-00000-of-00001.parquet", rows, card, kinds)
        mmlu(self.folder / "astronomy_test.csv", SKY, SUM)
        from_hub, from_file = list(read("mmlu")), list(read(f"mmlu:{self.folder / 'astronomy_test.csv'}"))
        assert [(q.text, q.choices, q.answer) for q in from_hub] == [(q.text, q.choices, q.answer) for q in from_file]
        assert from_hub[1].id == "mmlu/astronomy/row-2"

    def test_alpaca(self):
        self.write(
            "tatsu-lab/alpaca", "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet", [{**r, "text": "…"} for r in (CREPES, SYNONYM)]
        )
        (self.folder / "a.json").write_text(json.dumps([CREPES, SYNONYM]))
        assert list(read("alpaca")) == list(read(f"alpaca:{self.folder / 'a.json'}"))

    def test_humaneval(self):
        card = "- config_name: openai_humaneval\n  data_files:\n  - split: test\n    path: openai_humaneval/test-*"
        self.write("openai/openai_humaneval", "openai_humaneval/test-00000-of-00001.parquet", [ADD], card)
        assert list(read("humaneval")) == list(read(f"humaneval:{humaneval(self.folder / 'h.jsonl.gz', ADD)}"))

    def test_a_data_set_laid_out_otherwise_is_refused(self):
        self.write("tatsu-lab/alpaca", "data/train-00000-of-00001.parquet", [{"instruction": "x", "output": "y"}])
        with pytest.raises(BadSource, match="tatsu-lab/alpaca: no column input; it has instruction, output"):
            list(read("alpaca"))

    def test_a_missing_split_is_refused_in_one_line(self):
        self.write("openai/openai_humaneval", "train.parquet", [ADD])
        with pytest.raises(BadSource, match="openai/openai_humaneval: cannot be loaded from the hub: ") as caught:
            list(read("humaneval"))
        assert "\n" not in str(caught.value)

    def test_without_datasets_the_message_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(BadSource, match=r"pip install 'promptimal-local\[train\]'"):
            list(read("alpaca"))
