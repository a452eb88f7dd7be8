"""Training pairs are read with care and gated before they are learnt from."""

import json
from pathlib import Path

import pytest

from promptimal_trainer import pairs
from promptimal_trainer.check import check

DATA = Path(pairs.__file__).parent / "data"

GOOD = {"category": "fact", "prompt": "who painted the night watch", "improved": "Who painted the Night Watch? Give the answer first."}


def written(path: Path, *records: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def faults(path: Path, *records: object) -> list[str]:
    """Faults of single pairs; the shares of kinds are of no account in a file of two lines."""
    return [f.split(": ", 1)[1] for f in check(written(path / "p.jsonl", *records)) if " of kind " not in f and " same ask" not in f]


@pytest.mark.parametrize(
    ("line", "message"),
    [("nonsense", "not JSON"), ("[1]", "not a JSON object"), ('{"category": "fact"}', '"prompt"'), ("", "no pairs")],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = written(tmp_path / "p.jsonl", line)
    with pytest.raises(pairs.BadPairs, match=message):
        pairs.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(pairs.BadPairs, match=r"none\.jsonl"):
        pairs.read(tmp_path / "none.jsonl")


def test_a_good_pair_passes(tmp_path):
    assert faults(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": "gossip"}, "unknown kind"),
        ({"prompt": "who painted 7 watches"}, "missing number: 7"),
        ({"improved": GOOD["improved"][:-1] + " in one sentence."}, "caps the length"),
        ({"improved": GOOD["improved"] + " It was made in 1642, so say more."}, "brings in a number"),
        ({"improved": GOOD["improved"] + " Say more and more." * 12}, "asks of"),
        ({"asks": ["Flowers are nice."]}, "no demand but a statement"),
        ({"asks": ["Give three reasons in one sentence."]}, "it caps the length"),
        ({"asks": ["Say why."], "misfits": ["Say why."]}, "both fits and does not"),
        ({"prompt": "Fix this:\n\n```\nx = 1\n```", "improved": "Fix this: x = 1. Explain."}, "material is not kept"),
    ],
)
def test_a_fault_is_found(tmp_path, change, message):
    assert any(message in fault for fault in faults(tmp_path, {**GOOD, **change}))


def test_near_duplicates_are_found_within_and_against(tmp_path):
    near = {**GOOD, "prompt": "Who painted The Night Watch?"}
    assert any("same prompt as in line 1" in f for f in faults(tmp_path, GOOD, near))
    other = written(tmp_path / "e.jsonl", {"prompt": "is this another prompt"}, {"prompt": "Who painted the Night Watch?"})
    assert any("e.jsonl:2" in f for f in check(written(tmp_path / "p.jsonl", GOOD), [other]))


def test_a_prompt_that_is_near_another_pair_and_an_evaluation_prompt_is_found_to_be_near_the_latter(tmp_path):
    """The second pair is near the first as well, whichever of the two is looked at before the other."""
    near = "Who painted the Night Watch?"
    path = written(tmp_path / "p.jsonl", {**GOOD, "prompt": near}, GOOD)
    for before in range(16):
        others = [{"prompt": f"quite another prompt, number {n}{n}"} for n in range(before)]
        found = check(path, [written(tmp_path / "e.jsonl", *others, {"prompt": near})])
        assert sum(f"e.jsonl:{before + 1}" in fault for fault in found) == 2
        assert sum("same prompt as in line 1" in fault for fault in found) == 1


def test_the_projects_own_pairs_pass_the_gate():
    assert check(DATA / "pairs.jsonl", [DATA / "development.jsonl", DATA / "evaluation.jsonl"]) == []


def test_a_prompt_is_held_out_by_its_own_hash():
    share = sum(pairs.is_held_out(f"prompt {i}", 0.05) for i in range(4000)) / 4000
    assert 0.04 < share < 0.06
    assert pairs.is_held_out("Prompt  1", 0.5) == pairs.is_held_out("prompt 1", 0.5)
