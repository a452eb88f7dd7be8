"""Is a prompt written in the one language the default model knows? Anything else comes back as it was typed.

Function words decide: they make up some 40% of any English text and are few. A detector library would load a model of a megabyte
or more at each call, to answer a question that needs one bit.
"""

import re

_ENGLISH = frozenset(
    """the of and to a in is for it that with as on are be this was by or an at not from have can will how what why who which do does
    i my me you your we they he she if but about when where would should all more there their so than then some into no yes please
    write give explain make list find create tell show help need want best difference between example using good new one two does
    did has had its it's i'm don't im dont whats""".split()
)
_OTHER = frozenset(
    """el la los las una unos que por para con como cómo qué cuál es está del al se su más pero puedo dime hola escribe explica
    le les une est et dans pour avec sur qui quoi quel quelle comment pourquoi je tu il elle nous vous mon ma mes du au aux ce cette
    der das und ist ein eine einen nicht wie ich mir mit von zu den dem auf für auch bitte warum welche schreib erkläre kann wir sie
    il gli che di un uno è per con perché come cosa sono mi della nel scrivi spiega
    o os um uma não em por com como você meu minha dos das eu ao seu escreva explique
    het een van en wat hoe niet ik je voor op zijn met schrijf uit
    och att är som en ett för på hur jag inte av det til og er ikke hvordan jeg
    jak się nie na w z co jest to czy dla proszę mam
    bir ve bu için nasıl ne mi ben çok ile
    ja on ei että miten kuinka ovat minun
    apa yang dan di untuk bagaimana saya dengan ini tidak cara
    là của và cho không một những tôi như thế nào""".split()
) - frozenset(
    "a i me as is in on at to an all so or it he we was will can do has no one not you en er il o os e à y w z apa dan ja mi ma co au".split()
)


def is_english(text: str) -> bool:
    """Whether a text is English, or too short to say."""
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return True
    if sum(ord(c) > 0x24F for c in letters) > 0.2 * len(letters):
        return False
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())
    english = sum(w in _ENGLISH for w in words)
    other = sum(w in _OTHER for w in words)
    accented = sum(bool(re.search(r"[à-öø-ɏ]", w)) for w in words)
    return english >= other + accented * 0.5 or (other + accented <= 1 and english > 0) or (other == 0 and accented <= 1)
