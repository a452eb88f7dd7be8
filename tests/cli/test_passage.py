"""A prompt is split into what is asked and what is handed over; together they are the prompt again."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptimal import passage


def kinds(prompt: str) -> list[str]:
    return [s.kind for s in passage.split(prompt)]


def view(prompt: str) -> str:
    return passage.view(passage.split(prompt))


PIECES = st.sampled_from(
    ["Fix this:", "\n", "\n\n", "\r\n", "```", "```python\nx = 1\n```", "    indented = 1\n", "| a | b |\n", "<doc>", "</doc>", '"', "“", "”", ": ",
     "Traceback (most recent call last):\n", "why?", " ", "\t", "> said\n", "A) one\n", "1. two\n", "Text: ", "{name}", "é", "😀"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(PIECES | st.text(max_size=20), max_size=30).map("".join))
def test_segments_joined_are_the_prompt(prompt: str) -> None:
    assert "".join(s.text for s in passage.split(prompt)) == prompt


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("Fix this:\n\n```python\nprint(1\n```", "code"),
        ("what does this do\n\n    for x in y:\n        print(x)\n", "code"),
        ("why\n\ndef f(x):\n    return x + 1\n", "code"),
        ('help\n\nTraceback (most recent call last):\n  File "a.py", line 1\nKeyError: 1', "error"),
        ("Which row is wrong?\n\n| a | b |\n|---|---|\n| 1 | 2 |", "table"),
        ("Summarize this: The mill closed in 1987 after 112 years.", "text"),
        ("Summarise the following paragraph.\n\nThe mill closed in 1987. Two hundred people lost their jobs.", "text"),
        ('Is this rude? "I have told you three times already that the door must stay shut at night."', "quote"),
        ("Shorten it.\n<doc>\nMany words, many words, many words, many words.\n</doc>", "text"),
    ],
)
def test_material_is_found(prompt: str, kind: str) -> None:
    assert kind in kinds(prompt)
    assert f"{kind}]" in view(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "who invented the telephone",
        "Which is right?\nA) one\nB) two\nC) three",
        "I moved here in May.\n\nHow do I register my car?",
        "My ratio is 3:1, is that safe?",
        'Who said "I think"?',
    ],
)
def test_a_request_alone_is_no_material(prompt: str) -> None:
    assert kinds(prompt) == ["ask"]
    assert view(prompt) == prompt


def test_the_model_reads_no_pasted_text_however_long() -> None:
    pasted = "Lorem secretword ipsum dolor. " * 7000
    seen = view(f"Summarize this:\n\n{pasted}")
    assert "secretword" not in seen
    assert len(seen) < 100


def test_a_request_of_any_length_has_a_short_view() -> None:
    assert len(view("please consider the lilies " * 10000)) < passage.MAX_VIEW + 10


def test_a_fence_closes_in_text_with_carriage_returns() -> None:
    assert kinds("Look:\r\n\r\n```\r\nx = 1\r\n```\r\n\r\nWhy does it fail?") == ["ask", "code", "ask"]


@pytest.mark.parametrize("piece", ["a: b. ", "<t1>", '"quoted words and more', "```\n", "\n \n", "~", "x\n\n", "1) ", "- a\n"])
def test_megabytes_are_split_in_seconds(piece: str) -> None:
    started = time.perf_counter()
    passage.split(piece * (2_000_000 // len(piece)))
    assert time.perf_counter() - started < 20
