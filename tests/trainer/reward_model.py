"""A small reward model of the true architecture, for tests and benches."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, trainers
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, DebertaV2Tokenizer

WORDS = "the a of is what capital France Paris Lyon answer I do not know sorry it because and so yes no".split()


def build(folder: Path) -> Path:
    """A DeBERTa-v2 classifier with one output and its tokenizer, saved as the hub keeps them; random weights, the same in each run."""
    trained = Tokenizer(models.Unigram())
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    trained.train_from_iterator(
        WORDS, trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="[UNK]", show_progress=False)
    )
    tokenizer = DebertaV2Tokenizer(vocab=[(trained.id_to_token(n), -float(n > 4)) for n in range(trained.get_vocab_size())])
    tokenizer.save_pretrained(folder)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        type_vocab_size=0,
        initializer_range=0.2,
        num_labels=1,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    torch.random.set_rng_state(state)
    return folder
