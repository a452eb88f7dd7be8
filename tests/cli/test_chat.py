"""The one prompt format: tidying, joining, and taking an improved prompt apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptimal import chat


@pytest.mark.parametrize(
    ("prompt", "tidied"),
    [
        ("who invented the telephone", "Who invented the telephone?"),
        ("  Explain tides.  ", "Explain tides."),
        ("how to boil an egg", "How to boil an egg."),
        ("i'm sure i've left it on", "I'm sure I've left it on."),
        ("what does for i in range do", "What does for i in range do?"),
        ("please summarize https://a.example/b", "Please summarize https://a.example/b"),
        ("black holes", "Black holes"),
        ("iPhone or Android for my dad", "iPhone or Android for my dad."),
        ("sql find duplicates", "sql find duplicates."),
        ("translate to French: I love you", "Translate to French: I love you"),
        ("in which ways do bees talk", "In which ways do bees talk?"),
        ("can't install numpy on m1", "Can't install numpy on m1."),
        ("explain tides :)", "Explain tides :)"),
        ("  name: web\n  ports:\n\nwhy is this invalid?", "  name: web\n  ports:\n\nwhy is this invalid?"),
        ("x = 3; what is x", "x = 3; what is x"),
        ("warum ist der Himmel blau, Ärger", "warum ist der Himmel blau, Ärger"),
    ],
)
def test_tidy_mends_only_the_outside(prompt: str, tidied: str) -> None:
    assert chat.tidy(prompt) == tidied


def test_tidy_leaves_material_alone() -> None:
    prompt = "fix this\n\n```\nprint(1\n```"
    assert chat.tidy(prompt) == prompt


@pytest.mark.parametrize(
    ("request_", "joined"),
    [
        ("Who was it?", "Who was it? Say when."),
        ("Name three rivers", "Name three rivers. Say when."),
        ("what is it", "what is it? Say when."),
        ("Tell a story, set on an island,", "Tell a story, set on an island,\n\nSay when."),
        ("Translate to French: I love you", "Translate to French: I love you\n\nSay when."),
        ("What do I need:", "What do I need:\n\nSay when."),
        ("Pick one:\nA) x\nB) y", "Pick one:\nA) x\nB) y\n\nSay when."),
        ("Fix it:\r\n\r\n```\r\nx\r\n```", "Fix it:\r\n\r\n```\r\nx\r\n```\r\n\r\nSay when."),
    ],
)
def test_asks_follow_the_request(request_: str, joined: str) -> None:
    assert chat.join(request_, "Say when.") == joined


def test_a_request_without_asks_stands() -> None:
    assert chat.join("Hello\n", "") == "Hello\n"


@pytest.mark.parametrize(
    ("prompt", "improved", "request_", "asks"),
    [
        ("who was it", "Who was it? Give the date.", "Who was it?", "Give the date."),
        ("sort dict python", "Show how to sort a dict in Python. Add an example.", "Show how to sort a dict in Python.", "Add an example."),
        ("tomatoes green its september", "My tomatoes are green and it's September. What can I do? Be brief.",
         "My tomatoes are green and it's September. What can I do?", "Be brief."),
        ("Be kind.", "Be kind.", "Be kind.", ""),
    ],
)  # fmt: skip
def test_an_improved_prompt_comes_apart(prompt: str, improved: str, request_: str, asks: str) -> None:
    assert chat.take_apart(prompt, improved) == (request_, asks)


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=80).filter(str.strip))
def test_joining_loses_nothing(prompt: str) -> None:
    assert chat.join(prompt.strip(), "Give the answer first.").startswith(prompt.strip())
    assert prompt.strip() in chat.join(prompt.strip(), "Give the answer first.")


def test_a_request_that_stands_is_one_token_to_write() -> None:
    assert chat.target("who was it", "Who was it? Give the date.") == "=\nGive the date."
    assert chat.target("sort dict python", "Sort a dict in Python. Add an example.") == "Sort a dict in Python.\nAdd an example."
    assert chat.target("who was it", "Who was it? Give the date.", write_asks=False) == "="
