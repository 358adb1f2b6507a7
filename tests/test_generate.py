"""Text from a model: transformers' own tokens when nothing is sampled, streamed as it comes, chat where there is a template."""

import pytest
import torch
import transformers

from families import ModelSpec
from families.units import BadInput
from train.checkpoint import save_model
from train.data.tokenizer import train_tokenizer
from train.generate import generate
from train.model.config import build

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "".join(
    f"line {number} says that loss falls as a power of {number % 7} things\n" for number in range(90)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    train_tokenizer([TEXT], 300).save(str(place / "tokenizer.json"))
    spec = ModelSpec(n_layer=1, n_head=2, n_embd=16, n_positions=32, vocab_size=300)
    built = build(spec, seed=3, eos_token_id=299, init_std=0.5)
    save_model(built, place / "tokenizer.json", place / "model")
    return place / "model"


def test_the_likeliest_continuation_is_transformers_own_and_comes_in_pieces(model):
    pieces = []
    result = generate(model, prompt="line 4", max_tokens=8, temperature=0, device="cpu", write=pieces.append)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    given = tokenizer("line 4", return_tensors="pt")
    with torch.no_grad():
        out = loaded.generate(**given, do_sample=False, max_new_tokens=8, pad_token_id=299)[0]
    assert result.text == tokenizer.decode(out[given["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "".join(pieces) == "line 4" + result.text
    assert result.tokens == 8
    assert result.stopped == "length"


def test_a_seed_repeats_a_sample_and_a_small_top_p_is_the_likeliest(model):
    one, again, other = (
        generate(
            model, prompt="line", max_tokens=12, temperature=1.0, top_p=1.0, seed=seed, device="cpu"
        ).text
        for seed in (1, 1, 2)
    )
    assert one == again != other
    greedy = generate(model, prompt="line", max_tokens=12, temperature=0, device="cpu").text
    assert generate(model, prompt="line", max_tokens=12, top_p=0.001, device="cpu").text == greedy


def test_the_context_ends_a_text_and_a_long_prompt_is_read_from_its_end(model):
    short = generate(model, prompt="line", max_tokens=500, temperature=0, device="cpu")
    assert short.stopped in ("context", "end of text")
    assert short.tokens < 32
    long = generate(model, prompt="a power of things " * 40, max_tokens=500, device="cpu")
    assert long.prompt_cut > 0
    assert 0 < long.tokens <= 8
    assert generate(model, max_tokens=3, device="cpu").tokens > 0


def test_a_chat_template_makes_a_message_of_the_prompt_unless_it_is_raw(model):
    template = model / "chat_template.jinja"
    template.write_text("{% for m in messages %}line {{ m.content }} says{% endfor %}")
    try:
        pieces = []
        chat = generate(model, prompt="4", max_tokens=6, temperature=0, device="cpu", write=pieces.append)
        plain = generate(model, prompt="line 4 says", max_tokens=6, temperature=0, raw=True, device="cpu")
        assert (chat.chat, plain.chat) == (True, False)
        assert chat.text == plain.text == "".join(pieces)
        template.write_text("{{ raise_exception('only two messages') }}")
        with pytest.raises(BadInput, match="chat template that fails: only two messages; --raw"):
            generate(model, prompt="4", device="cpu")
    finally:
        template.unlink()
