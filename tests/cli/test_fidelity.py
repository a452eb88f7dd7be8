"""What the person gave is still there, and nothing was put in their mouth."""

import json
from pathlib import Path

import pytest

from promptimal.fidelity import check, check_asks, ruled_out


def faults(request: str, rewrite: str, **options: bool) -> list[str]:
    return [str(f) for f in check(request, rewrite, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_text", "rewrite", "fault"),
    [
        ("Thirteen of twenty boxes", "Five of twenty boxes", "missing number: Thirteen"),
        ("Thirteen of twenty boxes", "Five of thirteen of twenty boxes", "new number: Five"),
        ("a 2.5 kg cat", "a 25 kg cat", "missing number: 2.5"),
        ("What does Ada Lovelace say?", "What does Ada say?", "missing name: Lovelace"),
        ("Who wrote it?", "Who wrote it? Was it Shakespeare?", "new name: Shakespeare"),
        ("see https://a.example/x?y=1", "see https://a.example/x", "missing link: https://a.example/x?y=1"),
        ("call get_user(id)", "call getUser", "missing code: get_user(id)"),
        ('he said "never again"', 'he said "again"', 'missing quotation: "never again"'),
        ("Dear {name}, hi", "Dear name, hi", "missing placeholder: {name}"),
        ("do not use loops", "use loops", "missing negation: not"),
        ("at most 5 apples", "5 apples", "missing limit: at most"),
        ("gin cocktail", "ginsu cocktail", "missing word: gin"),
        ("make soup without onions", "make soup with onions", "missing negation: without"),
    ],
)
def test_a_loss_or_an_invention_is_named(request_text: str, rewrite: str, fault: str) -> None:
    assert fault in faults(request_text, rewrite)


@pytest.mark.parametrize(
    ("request_text", "rewrite"),
    [
        ("who invented the telephone", "Who invented the telephone? Give the answer first, then a little context."),
        ("python sort dict by value", "Show how to sort a dict by value in Python."),
        (
            "email to boss asking day off friday",
            "Write an email to my boss asking for a day off on Friday. Use [placeholders] for details.",
        ),
        ("dont use numpy pls", "Don't use NumPy."),
    ],
)
def test_a_faithful_rewrite_has_no_fault(request_text: str, rewrite: str) -> None:
    assert faults(request_text, rewrite) == []


def test_only_a_misspelled_word_may_be_mended() -> None:
    def known(word: str) -> bool:
        return word in ("causal", "casual", "receive", "parcel")

    assert check("when will i recieve the parcel", "When will I receive the parcel?", known=known, own_words=True) == []
    assert check("a causal link", "A casual link.", known=known, own_words=True) != []


def test_own_words_may_not_add_content() -> None:
    assert faults("vegetable soup", "Explain how to make a vegetable soup.", own_words=True) == []
    assert "new word: beef" in faults("soup", "Explain how to make a beef soup.", own_words=True)
    assert "new negation: without" in faults("tea milk", "Tea without milk.", own_words=True)


def test_a_fault_says_where_it_is() -> None:
    (fault,) = check("Take 12 eggs.", "Take eggs.")
    assert "Take 12 eggs."[fault.start : fault.end] == "12"


@pytest.mark.parametrize(
    ("request_text", "own"),
    [
        ("how to unclog a sink", "How do I unclog a sink?"),
        ("sort a list python", "Show how to sort a list in Python."),
        ("email to boss asking for day off friday", "Write an email to my boss asking for a day off on Friday."),
        ("hey can u explain recursion pls", "Explain recursion."),
        ("whats a black swan event", "What's a black swan event?"),
    ],
)
def test_own_words_are_the_request_textmended_word_for_word(request_text: str, own: str) -> None:
    assert faults(request_text, own, own_words=True) == []


@pytest.mark.parametrize(
    ("request_text", "own"),
    [
        ("poem about my cat biscuit who sleeps in the sink", "Write a poem about my cat's biscuit. Who sleeps in the sink?"),
        ("ex wont sign the form, what now", "I won't sign the form. What now?"),
        ("too much? took it by mistake", "Too much? It took me by mistake."),
        ("team name for a quiz team of midwives", "Suggest a name for a quiz team of midwives in a team."),
        ("undo last commit but keep changes", "I undo the last commit but keep the changes."),
        ("what comes next 2, 6, 12", "What comes next is 2, 6, 12."),
        ("weekend in bucharest w toddler, nap at 1pm", "Make a weekend in Bucharest with a toddler, and a nap at 1pm."),
        ("dont send the same alert twice, script", "Write a script that sends the same alert twice."),
        ("learn c# from scratch", "How do I learn C from scratch?"),
        ("what is 17 + 23", "What is 17 * 23?"),
        ("why is 0.1 + 0.2 != 0.3", "Why is 0.1 + 0.2 == 0.3?"),
        ("how to say hello in korean", "How do I say in Korean?"),
        ("is it safe to eat raw eggs", "Why is it safe to eat raw eggs?"),
        ("how to get over my ex", "How do I get over my example?"),
    ],
)
def test_own_words_that_turn_the_request_textround_are_refused(request_text: str, own: str) -> None:
    assert faults(request_text, own, own_words=True) != []


@pytest.mark.parametrize(
    ("asks", "fault"),
    [
        ("Cats purr because of their larynx.", "no demand but a statement"),
        ("Explain it with the 1987 study.", "new number: 1987"),
        ("Show how Darwin saw it.", "new name: Darwin"),
        ("Explain how it works. What else?", "no whole sentences"),
        ("Explain " + "very " * 50 + "well.", "more than 45 words"),
        ("Include https://a.example in it.", "new link"),
    ],
)
def test_asks_that_a_model_wrote_may_only_demand(asks: str, fault: str) -> None:
    assert any(fault in found for found in check_asks(asks, "why do cats purr"))


def test_asks_may_speak_of_what_was_given() -> None:
    assert check_asks("Explain how Darwin saw it in 1859, with two examples.", "what did Darwin write in 1859") == []


def test_every_prompt_is_faithful_to_itself() -> None:
    for line in (Path(__file__).parents[2] / "trainer/promptimal_trainer/data/evaluation.jsonl").read_text().splitlines():
        prompt = json.loads(line)["prompt"]
        assert not check(prompt, prompt), prompt


@pytest.mark.parametrize(
    ("request_text", "ask", "word"),
    [
        ("Define osmosis, no examples.", "Explain how it works with a concrete example.", "examples"),
        ("which laptop? not a table, i read it on my phone", "Compare them point by point in a table.", "table"),
        ("A bedtime story for a child who hates happy endings", "Use musical words and a comforting ending.", "endings"),
        ("I think it's overreach. Tell me where I'm wrong.", "Give a reasoned view after weighing both sides.", "both sides"),
        ("Don't give me any advice on my marriage, just listen", "End with one piece of advice.", "advice"),
    ],
)
def test_an_ask_for_what_the_request_textrules_out_is_named(request_text, ask, word):
    assert ruled_out(ask, request_text) == [word]
    assert f"demands what the request rules out: {word}" in check_asks(ask, request_text)


@pytest.mark.parametrize(
    ("request_text", "ask"),
    [
        ("Explain osmosis with examples.", "Explain how it works with a concrete example."),
        ("There are no examples of this in English, or are there?", "Say where the word comes from."),
        ("Argue for and against eating meat.", "Set out each position in terms its supporters would accept."),
        ("My table has no legs. How do I mend it?", "Compare them point by point in a table."),
    ],
)
def test_an_ask_for_something_else_is_not(request_text, ask):
    assert not ruled_out(ask, request_text)
