"""Any causal model that transformers loads is measured, at any context, on any text; transformers' own loss is the authority."""

import pytest
import torch
import transformers
from torch.nn import functional

from families.units import BadInput
from train.data.tokenizer import train_tokenizer
from train.validate import validate

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "".join(
    f"line {number} says that loss falls as a power of {number % 7} things\n" for number in range(90)
)
SHAPE = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16}
SPECIAL = {"vocab_size": 300, "bos_token_id": 299, "eos_token_id": 299}
KINDS = {
    "bloom": lambda: transformers.BloomConfig(n_layer=1, n_head=2, hidden_size=16, **SPECIAL),
    "neox": lambda: transformers.GPTNeoXConfig(
        **SHAPE, intermediate_size=32, max_position_embeddings=64, **SPECIAL
    ),
    "llama": lambda: transformers.LlamaConfig(
        **SHAPE, intermediate_size=32, max_position_embeddings=131_072, **SPECIAL
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    coder = train_tokenizer([TEXT], 300)
    ids = coder.encode(TEXT).ids
    coder.enable_truncation(max_length=20)  # as many folders on the hub have it
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=coder, eos_token="<|endoftext|>")
    for kind, config in KINDS.items():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config()).save_pretrained(place / kind)
        tokenizer.save_pretrained(place / kind)
    (place / "text.txt").write_text(TEXT)
    return place, torch.tensor(ids)


def loss_in_windows(folder, ids, context):
    """Mean loss of the tokens in windows that overlap by one, the last one shorter."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    total = 0.0
    with torch.no_grad():
        for begin in range(0, len(ids) - 1, context):
            window = ids[begin : begin + context + 1]
            total += float(
                functional.cross_entropy(model(window[None, :-1]).logits[0], window[1:], reduction="sum")
            )
    return total / (len(ids) - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_transformers_own_at_the_context_asked_for_and_in_one_window(kind, models):
    place, ids = models
    for context in (200, None) if kind != "neox" else (64,):
        if context and len(ids) // context >= 16:
            ids = ids[: len(ids) // context * context + 1]
        result = validate(place / kind, data=str(place / "text.txt"), context=context, device="cpu")
        own = loss_in_windows(place / kind, ids, result.context)
        assert result.loss == pytest.approx(own, abs=1e-5)
        assert result.eval_tokens == len(ids) - 1


def test_a_text_shorter_than_the_context_has_a_loss_too(models, tmp_path):
    place, _ = models
    (tmp_path / "short.txt").write_text(TEXT[:90])
    result = validate(place / "neox", data=str(tmp_path / "short.txt"), device="cpu")
    ids = torch.tensor(train_tokenizer([TEXT], 300).encode(TEXT[:90]).ids)
    assert result.eval_tokens == len(ids) - 1 < 64
    assert result.loss_se is None  # of one window
    assert result.loss == pytest.approx(loss_in_windows(place / "neox", ids, 64), abs=1e-5)


def test_a_context_that_the_model_has_no_positions_for_is_refused(models):
    place, _ = models
    with pytest.raises(BadInput, match=r"context is 65; .*neox has 1 to 64 positions"):
        validate(place / "neox", data=str(place / "text.txt"), context=65, device="cpu")


def test_a_model_that_sees_the_tokens_it_predicts_is_refused(models, tmp_path):
    place, _ = models
    config = transformers.XLNetConfig(
        d_model=16, n_layer=1, n_head=2, d_inner=32, vocab_size=300, initializer_range=0.5
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((place / "neox" / "tokenizer.json").read_bytes())
    with pytest.raises(BadInput, match="no causal language model"):
        validate(tmp_path, data=str(place / "text.txt"), context=32, device="cpu")
