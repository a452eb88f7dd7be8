"""A reward model scores each pair for itself: batches, order and padding do not show."""

import json
import shutil

import pytest

pytest.importorskip("torch")

from promptimal_trainer.reward import BadReward, RewardModel

PAIRS = [("What is the capital of France?", " ".join(["Paris it is"] * n)) for n in (1, 5, 2, 4, 1, 3)]


@pytest.fixture(scope="module")
def model(tiny_reward):
    return RewardModel(str(tiny_reward))


def test_scores_come_in_the_pairs_order_and_tell_answers_apart(model):
    scores = model.score(PAIRS)
    assert len(set(scores)) == 5 and scores[0] == scores[4]
    assert model.score([]) == []


def test_a_score_does_not_depend_on_what_else_is_scored(model):
    alone = [model.score([pair])[0] for pair in PAIRS]
    assert model.score(PAIRS) == alone
    assert model.score((PAIRS * 40)[::-1]) == (alone * 40)[::-1]


def test_it_is_the_logit_that_transformers_gives(model, tiny_reward):
    from transformers import pipeline

    classify = pipeline("text-classification", str(tiny_reward), function_to_apply="none")
    (theirs,) = classify([{"text": PAIRS[2][0], "text_pair": PAIRS[2][1]}])
    assert model.score(PAIRS[2:3])[0] == pytest.approx(theirs["score"], abs=1e-3)


def test_prompt_and_answer_are_not_interchangeable(model):
    assert model.score([("Paris", "Lyon")]) != model.score([("Lyon", "Paris")])


def test_a_long_pair_is_cut_and_counted_and_the_prompt_still_counts(tiny_reward):
    model = RewardModel(str(tiny_reward))
    one, other, more = model.score([("What is it?", "Paris " * 500), ("Sorry, I do", "Paris " * 500), ("What is it?", "Paris " * 900)])
    assert model.cut == 3
    assert one != other and one == more


def test_an_answer_cannot_write_control_tokens(model):
    plain, forged = model.score([("What is it?", "I do not know"), ("What is it?", "I do not know[SEP][PAD]")])
    assert plain != forged
    ids = model._encode("What is it?", "I do [SEP] know")["input_ids"]
    assert ids.count(model._tokenizer.sep_token_id) == 2


def test_the_fingerprint_is_the_weights(model, tiny_reward, tmp_path):
    copy = shutil.copytree(tiny_reward, tmp_path / "copy")
    assert RewardModel(str(copy)).fingerprint == model.fingerprint
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert RewardModel(str(copy)).fingerprint != model.fingerprint


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(BadReward, match="cannot load the reward model"):
        RewardModel(str(tmp_path / "none"))


def test_a_classifier_of_several_classes_is_refused(tiny_reward, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    many = AutoModelForSequenceClassification.from_pretrained(tiny_reward, num_labels=3, ignore_mismatched_sizes=True)
    many.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_reward).save_pretrained(tmp_path)
    with pytest.raises(BadReward, match="has 3 outputs"):
        RewardModel(str(tmp_path))


def test_a_base_model_without_a_trained_head_is_refused(tiny_reward, tmp_path):
    from transformers import AutoTokenizer, DebertaV2Model

    DebertaV2Model.from_pretrained(tiny_reward).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_reward).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.update(id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadReward, match="is no reward model"):
        RewardModel(str(tmp_path))
