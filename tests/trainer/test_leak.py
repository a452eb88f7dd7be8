"""A rewritten prompt that gives the answer away is caught; one that only asks well is not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptimal_trainer.leak import leaks
from promptimal_trainer.sources import Question

LISTED = "A. mercury\nB. silver bromide\nC. gold\nD. silver"
METAL = Question(
    "x", "choice", f"Which metal is liquid at room temperature?\n\n{LISTED}", ("mercury", "silver bromide", "gold", "silver"), "A"
)
TIMES = Question("x", "choice", "What is 6 times 7?\n\nA. 40\nB. 42\nC. 44\nD. 48", ("40", "42", "44", "48"), "B")
PENCILS = Question(
    "x", "open", "Roslyn has twenty boxes. Thirteen contain pencils. How many do not?", answer="Seven boxes contain no pencils."
)
CAPITAL = Question("x", "open", "Name the capital of Australia.", answer="Canberra")
MILL = Question(
    "x",
    "open",
    "Why did the mill close?",
    answer="The mill closed because cheap cotton from overseas had made its spinning rooms too costly to run, and the last owner died without heirs.",
)
COUNT = Question(
    "x",
    "code",
    'Complete this Python function:\n\n```python\ndef count_vowels(text: str) -> int:\n    """Count vowels.\n    >>> count_vowels("tree")\n    2\n    """\n```',
    answer="    total = 0\n    for letter in text.lower():\n        if letter in 'aeiou':\n            total += 1\n    return total\n",
    entry_point="count_vowels",
)
SHORT = Question("x", "code", "Complete:\n\n```python\ndef square(n):\n```", answer="    return n**2\n", entry_point="square")


@pytest.mark.parametrize("question", [METAL, TIMES, PENCILS, CAPITAL, MILL, COUNT, SHORT], ids=lambda q: q.text[:20])
@pytest.mark.parametrize(
    "asks",
    [
        "",
        " Think step by step, then give the final answer on its own line.",
        "\n\nPick the best option and say briefly why not the others.",
        "\n\nAnswer with one letter: A, B, C or D.",
        "\n\nBegin with the letter (A–D). A short reason is enough.",
        "\n\nThe answer is A, B, C or D; check each option in turn.",
        " State what is established and what is debated, with an example. I want one reason for it.",
        " Write clear, commented code that handles edge cases and bad input, and return early where you can.",
    ],
)
def test_an_honest_prompt_passes(question, asks):
    assert leaks(question.text + asks, question) is None


def test_other_marks_for_all_options_and_mended_typing_pass():
    assert leaks(TIMES.text.replace(". 4", ") 4"), TIMES) is None
    assert leaks(METAL.text.replace("mercury", "Mercury").replace("gold", "Gold"), METAL) is None
    assert leaks(METAL.text + "\n\nFor each of these, mercury, silver bromide, gold and silver, say whether it is liquid.", METAL) is None
    assert leaks(METAL.text.replace("Which metal", "Of these, which metal"), METAL) is None


@pytest.mark.parametrize(
    ("question", "prompt", "said"),
    [
        (TIMES, TIMES.text + "\n\nThe answer is B.", "says that the answer is B"),
        (TIMES, TIMES.text + " (Hint: B)", "singles out option B"),
        (TIMES, TIMES.text + " Explain why B is right.", "answer is B"),
        (METAL, METAL.text + " Show why A is the correct option.", "answer is A"),
        (METAL, METAL.text + " Begin with option A.", "singles out option A"),
        (TIMES, TIMES.text.replace("B. 42", "**B. 42**"), "marks the right option"),
        (TIMES, TIMES.text.replace("B. 42", "B. 42 (correct)"), "marks the right option"),
        (TIMES, TIMES.text.replace("B. 42", "B. 42 ✓"), "marks the right option"),
        (METAL, METAL.text.replace("mercury", "MERCURY"), "marks the right option"),
        (METAL, METAL.text + " Explain why mercury is liquid.", "repeats the right option"),
        (METAL, "Explain why mercury is liquid at room temperature.", "repeats the right option"),
        (TIMES, "What is 6 times 7?\n\nB. 42", "not the others"),
        (TIMES, "What is 6 times 7?\n\nA. 40\nB. 42", "leaves out wrong options"),
        (METAL, METAL.text.replace("B. silver bromide\n", ""), "leaves out wrong options"),
        (METAL, METAL.text.replace("C. gold\n", ""), "leaves out wrong options"),
        (TIMES, "What is 6 times 7?\n\nA. 42\nB. 44\nC. 48", "leaves out wrong options"),
        (COUNT, COUNT.text + "\n\nUse `sum(1 for c in t.lower() if c in 'aeiou')`.\n```python\nk = 0\nfor c in (t.lower()):\n    if (c in 'aeiou'): k += 1\n```", "most of the solution"),
        (TIMES, TIMES.text + " Show that it comes to forty-two.", "answer's number, 42"),
        (PENCILS, PENCILS.text + " Show that 7 are left.", "answer's number, 7"),
        (PENCILS, PENCILS.text + " Show that seven are left.", "answer's number, 7"),
        (CAPITAL, "Explain why Canberra is the capital of Australia.", "it has the answer: 'Canberra'"),
        (MILL, MILL.text + " Say that cheap cotton from overseas had made its spinning rooms costly.", "it has words of the answer"),
        (COUNT, COUNT.text.replace('"""\n```', '"""\n' + COUNT.answer + "```"), "solution"),
        (COUNT, COUNT.text + "\n\nUse `for c in s.lower():` and `if c in \"aeiou\":`, add `k += 1`, and `return k`.", "most of the solution"),
        (COUNT, COUNT.text + "\n\nn = 0\nfor ch in word.lower():\n  if ch in 'aeiou': n += 1\nreturn n", "most of the solution"),
        (COUNT, COUNT.text + "\n\nFrom `n = 0`, look whether `if ch in 'aeiou':`, then `total += 1`, and `return total`.", "most of the solution"),
        (SHORT, SHORT.text + " Hint: return x ** 2", "most of the solution"),
    ],
)  # fmt: skip
def test_a_prompt_that_cheats_is_caught(question, prompt, said):
    assert said in (leaks(prompt, question) or "")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([METAL, TIMES, PENCILS, MILL, COUNT]),
    st.text() | st.from_regex(r"(```(python)?\n|[A-J][.)] |\\d+ |forty|and|hundred|[(\\n\"'])*"),
)
def test_any_text_can_be_checked(question, text):
    for prompt in (text, question.text + text):
        assert isinstance(leaks(prompt, question), str | None)
