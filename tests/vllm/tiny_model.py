"""Makes a language model of under a megabyte on the spot: ``python -m tests.vllm.tiny_model DIRECTORY``.

Called by the fixtures of this suite and by ``make demo-vllm``. Real engines need a checkpoint, and nothing may be
downloaded for a test: so a two-layer Llama with seeded random weights, a byte-level BPE tokenizer trained on the text
below, and a chat template. It talks nonsense, but deterministic nonsense that depends on every token of its prompt,
which is what comparisons of disaggregated with undisturbed runs need. Equal seeds give equal files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

SEED: Final = 20_260_101
VOCABULARY: Final = 512
MAX_POSITIONS: Final = 8_192
SPECIALS: Final = ("<|bos|>", "<|eos|>", "<|start|>", "<|end|>")

# Enough distinct words for the trainer to find a merge for every id of the vocabulary.
_CORPUS: Final = """
Paceline serves one language model, or many, on a data centre's worth of accelerators. A prefill engine reads the prompt
and a decode engine writes the answer; between them travels a cache of keys and values, block by block. When the mix of
traffic shifts from long questions with short replies to short questions with long replies, engines change their role
within a second instead of starting afresh in minutes, and the planner explains why in plain words: what was seen, what
is forecast, which limit was binding, what had been rejected, and what would have happened otherwise. Requests queue
where their latency objective can still be met; nothing hangs, nothing gets lost, every drain waits until no stream
runs. Numbers such as 0123456789 and signs like (brackets), "quotes", [lists] {maps}: all of these belong to an ordinary
day of JSON, tables, shell commands and polite conversation.
"""

_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def make_tokenizer(directory: Path) -> None:
    """Write the tokenizer's files to ``directory``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=[AddedToken(token, special=True) for token in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS], trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the corpus gives {tokenizer.get_vocab_size()} tokens, the model has {VOCABULARY}")
    bos, eos, _, _ = SPECIALS
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=eos)
    fast.chat_template = _CHAT_TEMPLATE
    fast.save_pretrained(directory)


def make_weights(directory: Path) -> None:
    """Write configuration and weights to ``directory``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        # Wide enough that the answer follows the whole prompt and two logits are never near a tie.
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(directory)


def make(directory: Path) -> Path:
    """Write the whole checkpoint to ``directory`` (made if missing) and give it back."""
    directory.mkdir(parents=True, exist_ok=True)
    make_tokenizer(directory)
    make_weights(directory)
    return directory


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.vllm.tiny_model DIRECTORY")
    make(Path(sys.argv[1]))
