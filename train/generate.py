"""Text from a model: sampled token by token, by its chat template where it has one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from families.units import BadInput
from scaling.files import Record

from .data.prepare import model_folder
from .loop import pick_device
from .model.pretrained import first_message_line
from .validate import UNBOUNDED, Loaded, load, longest_context

PROMPT_SHARE = 0.75  # largest share of the context for a prompt; of a longer one the end is read


class Generated(Record):
    """A prompt and what a model makes of it.

    Args:
        folder: the model's folder.
        prompt: the prompt as given.
        text: the continuation, or the answer where a chat template is used.
        tokens: number of tokens generated.
        chat: True where a chat template is used.
        stopped: "end of text", "length" (as many tokens as asked for) or "context" (the model has no more positions).
        prompt_cut: tokens at the beginning of the prompt that were left out.
    """

    folder: str
    prompt: str
    text: str
    tokens: int
    chat: bool
    stopped: str
    prompt_cut: int = 0


def generate(
    folder: Path,
    *,
    prompt: str = "",
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    raw: bool = False,
    device: str = "auto",
    write: Callable[[str], None] = lambda text: None,
) -> Generated:
    """Sample from a model with transformers.

    Args:
        folder: the model's folder, a rung's or a run's.
        prompt: text to continue, or a message to answer; "" begins a document.
        max_tokens: largest number of tokens.
        temperature: of the softmax; 0 takes the likeliest token.
        top_p: smallest set of likeliest tokens with this probability is sampled from (Holtzman et al. 2020).
        seed: seed of the sampling.
        raw: True to continue the prompt although there is a chat template.
        device: "auto", "cpu" or "cuda".
        write: called with the prompt that is continued, and with each piece of text as soon as it is known.

    Raises:
        BadInput: no model, one that fills in masked tokens, or a chat template that fails.
    """
    device = pick_device(device)
    place = model_folder(folder)
    loaded = load(place, device)
    if not loaded.model.can_generate():
        raise BadInput(f"{place} fills in masked tokens and does not generate text")
    chat = bool(getattr(loaded.tokenizer, "chat_template", None)) and not raw
    ids = _prompt_ids(loaded, prompt, chat, place)
    context = longest_context(loaded.model.config) or UNBOUNDED
    most = max(1, int(PROMPT_SHARE * context))
    cut = max(0, len(ids) - most)
    ids = ids[cut:]
    room = min(max_tokens, context - len(ids))
    pieces: list[str] = []

    def add(text: str) -> None:
        pieces.append(text)
        write(text)

    if not chat and prompt:
        write(prompt)
    out = _sample(loaded, ids, room, temperature, top_p, seed, add)
    new = out[len(ids) :]
    ended = bool(new) and new[-1] in _ends(loaded)
    return Generated(
        folder=str(place),
        prompt=prompt,
        text="".join(pieces),
        tokens=len(new),
        chat=chat,
        stopped="end of text" if ended else "length" if len(new) >= max_tokens else "context",
        prompt_cut=cut,
    )


def _prompt_ids(loaded: Loaded, prompt: str, chat: bool, place: Path) -> list[int]:
    tokenizer = loaded.tokenizer
    if chat:
        try:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # templates are programs that others wrote
            raise BadInput(
                f"{place} has a chat template that fails: {first_message_line(error)}; --raw continues the prompt instead"
            ) from error
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(prompt, truncation=False)["input_ids"]) if prompt else []
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return ids or [start or 0]


def _ends(loaded: Loaded) -> set[int]:
    """Return the ids at which a text ends."""
    found = [loaded.tokenizer.eos_token_id, getattr(loaded.model.generation_config, "eos_token_id", None)]
    return {
        int(number)
        for value in found
        for number in (value if isinstance(value, list) else [value])
        if number is not None
    }


@torch.no_grad()
def _sample(
    loaded: Loaded,
    ids: list[int],
    room: int,
    temperature: float,
    top_p: float,
    seed: int,
    write: Callable[[str], None],
) -> list[int]:
    import transformers

    class Streamer(transformers.TextStreamer):
        """Hands on each word as soon as its end is known."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                write(text)

    torch.manual_seed(seed)
    given = torch.tensor([ids], device=loaded.device)
    sampling: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if temperature > 0
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    ends = sorted(_ends(loaded))
    out = loaded.model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=room,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        streamer=Streamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True),
        **sampling,
    )
    return [int(number) for number in out[0].tolist()]
