"""An evaluation measures what a run's rewrites do, pays for no answer twice, and says what it left out."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from llama_server import serve

from promptimal.rewrite import Rewrite
from promptimal_trainer import opro, sandbox, scoring
from promptimal_trainer.calls import Address, Answer, Call, NoAnswer, Server
from promptimal_trainer.evaluate import Plan, System, _answers
from promptimal_trainer.sources import Question

BIN = Path(sys.executable).parent
PROMPTS = ["why do cats purr", "Write an email to my landlord about the broken heating in flat 3B.", "plan a week in lisbon"]
CHOICES = [(f"Which planet has number {n}", "Mercury", "Venus", "Earth", "Mars", "ABCD"[n % 4]) for n in range(8)]


def evaluate(run: Path, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [BIN / "promptimal-train", "evaluate", run, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


class Chatbot:
    """A server that speaks OpenAI's protocol and answers by a rule; it counts what it was asked."""

    def __init__(self, rule: Callable[[str, int], str]) -> None:
        self.rule, self.asked, self.status = rule, Counter[str](), 200
        self.refused = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                message = body["messages"][0]["content"]
                status = 400 if message == outer.refused else outer.status
                text = outer.rule(message, body.get("seed", 0))
                if status == 200:
                    outer.asked[json.dumps([message, body.get("seed")])] += 1
                    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
                    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                    answer: dict[str, Any] = {
                        "id": "x",
                        "object": "chat.completion",
                        "created": 0,
                        "model": "m",
                        "choices": [choice],
                        "usage": usage,
                    }
                else:
                    answer = {"error": {"message": f"refused {self.headers['Authorization']}"}}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def chatbots() -> Iterator[Callable[[Callable[[str, int], str]], Chatbot]]:
    started: list[Chatbot] = []

    def start(rule: Callable[[str, int], str]) -> Chatbot:
        started.append(Chatbot(rule))
        return started[-1]

    yield start
    for bot in started:
        bot.server.shutdown()


def answer(message: str, seed: int) -> str:
    """Right where something was added to the question; as an optimizer, a numbered instruction; as a judge, for the longer side."""
    if "Reply with one JSON object" in message:
        first, second = message.split("First:")[1].split("Second:")[:2]
        return json.dumps({"better": "first" if len(first) > len(second.split("Reply with")[0]) else "second", "fault": ""})
    if "Reply with the instruction alone" in message:
        return f"Surely. <INS>Use method {seed}.</INS>"
    right = next((right for text, *_, right in CHOICES if text in message), None)
    if right is None:
        return "Some say so."
    method = message.partition("Use method ")[2].partition(".")[0]
    number = int(message.split("number ")[1].split()[0].strip("?.\n"))
    # Method n gets the questions 0 … n-1 right; what a rewriter adds helps with every question.
    knows = number < int(method) if method.isdigit() else "Let's" not in message and not message.rstrip().endswith("Mars")
    return f"The answer is {right if knows else 'ABCD'[('ABCD'.index(right) + 1) % 4]}."


@pytest.fixture(scope="module")
def measured(
    tiny_run: Path, tiny_reward: Path, chatbots: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Chatbot, dict[str, Any]]:
    """A run, evaluated with everything."""
    place = tmp_path_factory.mktemp("evaluation")
    shutil.copytree(tiny_run, place / "run")
    shutil.copy(tiny_run.parent / "pairs.jsonl", place)
    (place / "own.txt").write_text("\n".join(PROMPTS) + "\n")
    (place / "planets_test.csv").write_text("".join(",".join(row) + "\n" for row in CHOICES))
    bot = chatbots(answer)
    done = evaluate(place / "run", *arguments(place, bot, tiny_reward), OPENAI_API_KEY="sk-very-secret")
    assert done.returncode == 0, done.stderr
    assert "sk-very-secret" not in done.stdout + done.stderr
    assert "at most 48 calls" in done.stderr  # of the search: the first two and 2 × 4 instructions on 4 questions, and 8 proposals
    return place, bot, json.loads((place / "run" / "evaluation.json").read_text())


def arguments(place: Path, bot: Chatbot, reward: Path) -> list[object]:
    questions = ["--questions", f"own:{place / 'own.txt'}", "--questions", f"mmlu:{place / 'planets_test.csv'}"]
    return [*questions, "--data", place / "pairs.jsonl", "--answerer", bot.url, "--judge", bot.url, "--opro", 2, "--reward", reward]


def test_rewrites_are_measured_beside_those_of_the_untuned_base(measured):
    _, _, found = measured
    ours, base = found["systems"]["rewriter"], found["systems"]["base"]
    assert ours["faithful"]["hits"] == ours["faithful"]["count"] == len(PROMPTS) + len(CHOICES)
    assert ours["answered"]["hits"] == 0
    assert ours["unchanged"]["share"] < 1 < ours["length_ratio"]["mean"]
    assert base["faithful"]["count"] == ours["faithful"]["count"]
    assert ours["cost"]["tokens"] > 0 and base["cost"]["tokens"] > 0


def test_held_out_loss_is_that_of_training_but_of_the_file_that_runs(measured):
    place, _, found = measured
    card = json.loads((place / "run" / "card.json").read_text())
    assert found["held_out"]["of_this_run"] is True
    assert found["held_out"]["pairs"] == card["pairs"]["held_out"]
    assert found["held_out"]["words"] == pytest.approx(card["held_out"][-1]["words"], abs=0.05)
    assert found["held_out"]["first_helps"] == card["held_out"][-1]["first_helps"]


def test_the_gain_in_accuracy_is_that_of_the_questions_that_were_changed(measured):
    place, _, found = measured
    lines = [json.loads(line) for line in (place / "run" / "evaluation" / "rewriter.jsonl").read_text().splitlines()]
    changed = [line["rewrite"].strip() != line["prompt"].strip() for line in lines if line["kind"] == "choice"]
    assert any(changed)
    systems = found["systems"]
    assert systems["prompt"]["accuracy"]["hits"] == 0
    assert systems["rewriter"]["accuracy"]["hits"] == sum(changed)
    assert systems["rewriter"]["accuracy_gain"]["mean"] == pytest.approx(sum(changed) / len(CHOICES))
    assert systems["rewriter"]["unread"] == 0


def test_a_judge_compares_blind_and_unchanged_prompts_are_ties(measured):
    _, _, found = measured
    wins, ours = found["systems"]["rewriter"]["wins"], found["systems"]["rewriter"]
    assert wins["tied"] == ours["unchanged"]["hits"]
    assert wins["hits"] == wins["count"] - wins["tied"] > 0  # this judge likes what is longer


def test_the_search_gives_a_curve_of_quality_against_cost(measured):
    _, _, found = measured
    search = found["opro"]
    curve = search["curve"]
    assert search["questions"] == {"searched": 4, "tested": 4}
    assert [step["generation"] for step in curve] == [0, 1, 2]
    assert [step["proposed"] for step in curve] == [2, 6, 10]
    # Searched with are the questions 0, 2, 4 and 6, tested 1, 3, 5 and 7. Seeds begin at 4 in generation 1, so that methods 4 to 7 are proposed, then 8 to 11.
    # Method 7 is the first to get 0, 2, 4 and 6 right; of 1, 3, 5, 7 it gets three.
    assert [step["score"] for step in curve] == [0, 1, 1]
    assert [step["test"] for step in curve] == [0, 0.75, 0.75]
    assert curve[1]["instruction"] == "Use method 7."
    assert [step["cost"]["calls"] for step in curve] == [8, 8 + 4 + 16, 8 + 2 * (4 + 16)]
    assert curve[2]["cost"]["tokens"] == 10 * curve[2]["cost"]["calls"]
    assert search["systems"]["rewriter"]["cost"]["calls"] == 4


def test_open_answers_are_rewarded_against_the_prompt_as_typed(measured, tiny_reward):
    from promptimal_trainer.reward import RewardModel

    _, _, found = measured
    assert found["left_out"] == []
    reward = RewardModel(str(tiny_reward)).score([(prompt, "Some say so.") for prompt in PROMPTS])
    for name in ("prompt", "rewriter", "base"):  # this server says the same to all of them, whatever was added
        assert found["systems"][name]["reward"] == {"mean": pytest.approx(sum(reward) / len(reward), abs=1e-4), "count": len(PROMPTS)}
    assert found["systems"]["rewriter"]["reward_gain"]["mean"] == 0


def test_the_same_command_again_pays_for_nothing(measured, tiny_reward):
    place, bot, found = measured
    asked = bot.asked.copy()
    assert set(asked.values()) == {1}
    again = evaluate(place / "run", *arguments(place, bot, tiny_reward))
    assert again.returncode == 0, again.stderr
    assert bot.asked == asked
    result = json.loads((place / "run" / "evaluation.json").read_text())
    assert result["opro"]["curve"] == found["opro"]["curve"]
    assert result["answerer"]["cost"] == found["answerer"]["cost"]


def test_the_key_stands_in_no_file(measured):
    place, _, _ = measured
    for path in (place / "run").rglob("*"):
        assert path.is_dir() or b"sk-very-secret" not in path.read_bytes(), path


def test_without_servers_a_model_file_is_measured_by_its_rewrites_alone(default_model, tmp_path):
    """The default model, which is a file: its header tells what it was made from, and its record stands beside it."""
    (tmp_path / "mine.gguf").symlink_to(default_model)
    (tmp_path / "own.txt").write_text("\n".join(PROMPTS[:2]) + "\n")
    done = evaluate(tmp_path / "mine.gguf", "--questions", f"own:{tmp_path / 'own.txt'}", "--data", _held_out_pairs(tmp_path, 2))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "mine" / "evaluation.json").read_text())
    assert found["systems"]["rewriter"]["faithful"]["share"] == 1
    assert found["systems"]["rewriter"]["unchanged"]["share"] < 1 < found["systems"]["rewriter"]["length_ratio"]["mean"]
    assert found["held_out"]["of_this_run"] is False  # two of its pairs are not its data
    assert 0 < found["held_out"]["words"] < 3
    assert "this rewriter" in done.stdout and "untuned base" in done.stdout
    assert [part.partition(":")[0] for part in found["left_out"]] == [
        "accuracy and reward of the answers", "the search for an instruction (OPRO)", "blind win rate",
    ]  # fmt: skip
    assert all(f"left out: {part}" in done.stderr for part in found["left_out"])


def test_a_server_that_fails_leaves_out_its_part_alone(measured, tiny_run, chatbots, tmp_path):
    run = shutil.copytree(measured[0] / "run", tmp_path / "run")
    (tmp_path / "own.txt").write_text(PROMPTS[0] + "\n")
    bot = chatbots(answer)
    bot.status = 401
    done = evaluate(
        run,
        "--questions",
        f"own:{tmp_path / 'own.txt'}",
        "--answerer",
        bot.url,
        "--data",
        tiny_run.parent / "pairs.jsonl",
        OPENAI_API_KEY="sk-very-secret",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "evaluation.json").read_text())
    assert found["systems"]["rewriter"]["faithful"]["share"] == 1
    assert "reward of open answers: no --reward" in found["left_out"]
    assert any(part.startswith("answers: no answer from") for part in found["left_out"])
    assert "sk-very-secret" not in done.stderr + json.dumps(found)


def test_a_server_that_fails_half_way_leaves_what_came_before_to_the_report_and_the_card(measured, chatbots, tmp_path):
    run = shutil.copytree(measured[0] / "run", tmp_path / "run")
    bot = chatbots(answer)
    lines = [json.loads(line) for line in (run / "evaluation" / "rewriter.jsonl").read_text().splitlines()]
    bot.refused = next(line["rewrite"] for line in lines if line["rewrite"] != line["prompt"])
    *questions, _, _, _, _, _, _, _, _ = arguments(measured[0], bot, tmp_path)
    done = evaluate(run, *questions, "--answerer", bot.url)
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "evaluation.json").read_text())
    assert found["systems"]["prompt"]["accuracy"]["count"] == len(CHOICES) and "accuracy" not in found["systems"]["rewriter"]
    assert found["answerer"]["cost"]["calls"] >= len(PROMPTS) + len(CHOICES)
    for command in ("report", "card"):
        done = subprocess.run([BIN / "promptimal-train", command, run], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_model_whose_base_is_not_here_is_measured_without_it(measured, tiny_run, tmp_path):
    (made,) = (measured[0] / "run" / "evaluation").glob("model-*.gguf")
    base = str(tiny_run.parent / "base").encode()
    assert base in made.read_bytes()
    (tmp_path / "mine.gguf").write_bytes(made.read_bytes().replace(base, base[:-4] + b"gone"))
    (tmp_path / "own.txt").write_text(PROMPTS[0] + "\n")
    done = evaluate(tmp_path / "mine.gguf", "--questions", f"own:{tmp_path / 'own.txt'}", "--data", tiny_run.parent / "pairs.jsonl")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "mine" / "evaluation.json").read_text())
    assert found["systems"]["rewriter"]["faithful"]["count"] == 1 and "base" not in found["systems"]
    assert "the untuned base: it is not here, or cannot be converted" in found["left_out"]


def _held_out_pairs(place: Path, count: int) -> Path:
    from promptimal_trainer import pairs

    held = [line for line in pairs.DEFAULT.read_text().splitlines() if pairs.is_held_out(json.loads(line)["prompt"], 0.05)]
    (place / "pairs.jsonl").write_text("\n".join(held[:count]) + "\n")
    return place / "pairs.jsonl"


def test_answers_that_came_before_a_failure_are_not_asked_again(chatbots, tmp_path):
    bot = chatbots(lambda message, seed: f"answer to {message}")
    bot.refused = "12"
    calls = [Call(str(number)) for number in range(20)]
    record = tmp_path / "calls.jsonl"
    with pytest.raises(NoAnswer):
        Server(Address(bot.url, "m"), record).ask(calls)
    kept = record.read_text().splitlines()
    assert 0 < len(kept) < 20
    record.write_text("\n".join(kept) + '\n{"key": "cut of')  # killed while writing
    bot.refused = ""
    before = bot.asked.copy()
    answers = Server(Address(bot.url, "m"), record).ask(calls)
    assert [a.text for a in answers] == [f"answer to {number}" for number in range(20)]
    assert sum((bot.asked - before).values()) == 20 - len(kept)
    assert len({json.loads(line)["key"] for line in record.read_text().splitlines() if line.endswith("}")}) == 20


def test_a_real_server_with_a_real_model_is_asked_and_its_tokens_are_counted(measured):
    """The run's base behind llama-cpp-python's own server: what it says makes no sense, how it says it is the protocol."""
    model = measured[0] / "run" / "evaluation" / "base.gguf"
    with serve(model, "--n_ctx", "256", "--n_threads", "1", "--n_threads_batch", "1") as address:
        server = Server(Address(address, "default"))
        first, second = server.ask([Call("Why?", most=8), Call("Why?", 1.0, 3, most=8)])
    assert first.text != second.text
    assert min(first.tokens, second.tokens) > 8  # the prompt's tokens count; a sampled answer may end before its eighth
    assert server.spent.tokens == first.tokens + second.tokens


def test_code_is_judged_with_the_imports_and_the_head_that_the_question_gave():
    text = 'Complete:\n\n```python\nfrom math import tau\n\ndef turn(n):\n    """n turns, in radians."""\n```'
    question = Question("x", "code", text, tests="assert round(turn(2), 3) == 12.566", entry_point="turn")
    answers = [
        "```python\n    return n * tau\n```",
        "```python\ndef turn(n):\n    return n * tau\n```",
        "```python\ndef turn(n):\n    return n\n```",
    ]
    assert scoring.Scorer(None)([question] * 3, [Answer(answer, 0, 0.0) for answer in answers]) == [1.0, 1.0, 0.0]


def test_code_gets_no_score_where_the_sandbox_does_not_work_and_the_evaluation_says_so(chatbots, monkeypatch, tmp_path):
    """In this process, for a sandbox that does not work must be made."""
    sandbox.try_out.cache_clear()
    monkeypatch.setattr(sandbox, "_JAIL", tmp_path / "none.py")
    code = Question("x", "code", "Write one().", tests="assert one() == 1", entry_point="one")
    choice = Question("y", "choice", f"{CHOICES[1][0]}\nMercury\nVenus\nEarth", choices=("Mercury", "Venus", "Earth", "Mars"), answer="B")
    bot = chatbots(lambda message, seed: "def one(): return 1" if "one()" in message else "The answer is B.")
    result: dict[str, Any] = {"systems": {}, "left_out": []}
    systems = {"prompt": System([code.text, choice.text])}
    _answers(systems, [code, choice], Plan(answerer=Address(bot.url, "m")), scoring.Scorer(None), tmp_path, result)
    assert systems["prompt"].scores == [None, 1.0]
    assert result["systems"]["prompt"]["accuracy"]["hits"] == 1 and "passed" not in result["systems"]["prompt"]
    (left_out,) = result["left_out"]
    assert left_out.startswith("tests of code: the sandbox for code does not work here")


def test_calls_that_are_the_same_are_sent_once(chatbots):
    bot = chatbots(lambda message, seed: time.sleep(0.1) or f"answer to {message}")
    server = Server(Address(bot.url, "m"))
    answers = server.ask([Call("a"), Call("b"), Call("a"), Call("a", 1.0, 1), Call("b")])
    assert [a.text[-1] for a in answers] == ["a", "b", "a", "a", "b"]
    assert sorted(bot.asked.values()) == [1, 1, 1] and server.spent.calls == 3


def test_a_reward_model_that_was_downloaded_in_part_is_a_sentence(tiny_reward, tmp_path):
    from promptimal_trainer.reward import BadReward

    half = shutil.copytree(tiny_reward, tmp_path / "half")
    weights = (half / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(BadReward, match="cannot load the reward model"):
        scoring.Scorer(str(half))


def test_seconds_of_calls_that_overlap_add_up_to_the_time_waited(chatbots):
    bot = chatbots(lambda message, seed: time.sleep(0.2) or "done")
    server = Server(Address(bot.url, "m"))
    started = time.monotonic()
    server.ask([Call(str(number)) for number in range(8)])
    assert server.spent.seconds == pytest.approx(time.monotonic() - started, abs=0.1)
    assert server.spent.calls == 8 and server.spent.tokens == 80


def test_the_optimizer_sees_the_best_instructions_worst_first_and_where_they_stand():
    text = opro.meta_prompt({"": 0.25, "Be exact.": 0.75, "Guess.": 0.1}, ["Who was first?"])
    assert text.index("Guess.") < text.index("(nothing added)") < text.index("Be exact.")
    assert "Score: 75" in text and "Who was first? <INS>" in text


@pytest.mark.parametrize(
    ("answer", "instruction"),
    [
        ("Here: <INS>Think first.</INS> Good luck!", "Think first."),
        ("<INS>Think\nfirst.", "Think first."),
        ('\nInstruction: "Think first."\nScore: 90', "Think first."),
        ("", ""),
    ],
)
def test_an_instruction_is_read_from_what_an_optimizer_says(answer, instruction):
    assert opro.read(answer) == instruction


@pytest.mark.parametrize(
    ("prompt", "text", "asks", "answers"),
    [
        ("Why do cats purr?", "Why do cats purr? Give an example.", ("Give an example.",), False),
        ("Why do cats purr?", "Why do cats purr? They are happy.", ("They are happy.",), True),
        ("Why do cats purr when they sleep?", "Because of a muscle in the larynx.", (), True),
        ("python sort dict by value", "Show how to sort a dict by value in Python.", (), False),
    ],
)
def test_a_rewrite_that_answers_is_told_from_one_that_asks(prompt, text, asks, answers):
    assert scoring.answers_instead(Rewrite(prompt, text, text, asks)) is answers


def test_a_gain_has_an_interval_that_holds_nothing_where_nothing_changed_and_leaves_it_out_where_all_did():
    same = scoring.gain([0, 1, 0, 1], [0, 1, 0, 1])
    assert (same["mean"], same["low"], same["high"]) == (0, 0, 0)
    mixed = scoring.gain([0.0] * 40, [1.0] * 25 + [-1.0] * 15)
    assert mixed["mean"] == 0.25
    assert mixed["low"] < 0 < mixed["high"] < 0.6
    assert scoring.gain([0.0] * 40, [1.0, 2.0] * 20)["low"] > 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda place: place / "nothing", "no run"),
        (lambda place: place, "no run"),
        (lambda place: _write(place / "x.gguf", "no model"), "x.gguf"),
    ],
)
def test_what_is_no_run_is_refused_in_a_sentence(tmp_path, make, says):
    (tmp_path / "own.txt").write_text("why\n")
    done = evaluate(make(tmp_path), "--questions", f"own:{tmp_path / 'own.txt'}")
    assert done.returncode == 1
    assert says in done.stderr and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
