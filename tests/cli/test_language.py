"""Only English goes to the model; everything else comes back as it was typed."""

import pytest

from promptimal.language import is_english


@pytest.mark.parametrize(
    "text",
    [
        "who invented the telephone",
        "black holes",
        "write a résumé for a café manager",
        "Translate 'guten Morgen' for me",
        "python sort dict",
        "thx",
        "42",
    ],
)
def test_english(text: str) -> None:
    assert is_english(text)


@pytest.mark.parametrize(
    "text",
    ["¿Cómo puedo leer un archivo Excel?", "Wie schreibe ich eine Bewerbung für eine Stelle?", "Explique la photosynthèse à un enfant de dix ans",
     "会社の同僚にメールを書いてください", "Напиши письмо бабушке", "como faço para plantar uma horta", "Jak napisać list do babci, która jest chora?"],
)  # fmt: skip
def test_other_languages(text: str) -> None:
    assert not is_english(text)
