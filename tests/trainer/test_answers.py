"""Which option a chat answer picks, however it says so."""

import pytest

from promptimal_trainer.answers import chosen

CHOICES = ("8", "2", "24", "120")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("**B**", "B"),
        ("(B) because it divides 120", "B"),
        ("B) 2", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is: **B. 2**.", "B"),
        ("**Answer:** C", "C"),
        ("The best answer is\n\n**D**", "D"),
        ("Option B is correct.", "B"),
        ("I would choose option B", "B"),
        (r"So we get \boxed{C}.", "C"),
        ("The index is 24.", "C"),
        ("Let me see: 2 · 12.\n\nFinal answer: C", "C"),
        ("A. 8 is too small.\nB. 2 is right.\n\nSo the answer is B.", "B"),
        ("The answer is not A. The answer is C.", "C"),
        ("The answer is A. No, wait. So the correct answer is B.", "B"),
        ("C. 24\n\nExplanation: A is wrong, for 8 is small.", "C"),
        ("A: no\nB: yes\nC: no\nD: no", None),
        ("The answer is A or B.", None),
        ("The answer is A, B or C.", None),
        ("The answer is B, not A.", "B"),
        ("The answer is E.", None),
        ("A good way is to count.", None),
        ("The answer is a permutation.", None),
        ("It is 8, or perhaps 24.", None),
        ("I don't know.", None),
        ("", None),
    ],
)
def test_the_letter_is_read(answer, letter):
    assert chosen(answer, CHOICES) == letter


def test_an_option_that_speaks_of_letters_is_read_as_an_option():
    choices = ("Valid", "Invalid. Counterexample when A is true and B is false", "Invalid. Counterexample when B is true", "(A) and (B)")
    assert chosen(choices[2], choices) == "C"
    assert chosen(f"B. {choices[1]}", choices) == "B"
    assert chosen("(A) and (B)", choices) == "D"


def test_an_option_inside_another_does_not_count_twice():
    choices = ("silver", "silver bromide", "gold", "I and II")
    assert chosen("It is silver bromide.", choices) == "B"
    assert chosen("It is silver.", choices) == "A"
    assert chosen("I think both, so I and II.", choices) == "D"
