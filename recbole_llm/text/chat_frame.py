"""Chat messages as the tokens a language model reads: one frame for prompting and for tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_llm.errors import UserError

#: Frame of a model without a chat template: these lines, then ``Assistant:``.
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


def prompt_ids(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    template_args: Mapping[str, Any] | None = None,
    name: str = "the model",
) -> list[int]:
    """Token ids of the framed messages, up to where the answer begins; at least one.

    Args:
        tokenizer: of transformers.
        template_args: arguments of its chat template.
        name: the model, for messages.

    Raises:
        UserError: the chat template refuses the messages.
    """
    said = [dict(m) for m in messages]
    if tokenizer.chat_template:
        # The template writes <s> and the like itself.
        framed = _framed(tokenizer, said, dict(template_args or {}), name)
        ids = tokenizer(framed, add_special_tokens=False, verbose=False)["input_ids"]
    else:
        lines = [f"{ROLES.get(m['role'], m['role'])}: {m['content']}\n\n" for m in said]
        ids = tokenizer("".join(lines) + f"{ROLES['assistant']}:", verbose=False)["input_ids"]
        end = tokenizer.eos_token_id
        if len(ids) > 1 and ids[-1] == end:  # a tokenizer that ends every text; here the answer follows
            ids = ids[:-1]
    return list(ids) or [next(t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if t is not None)]


def answer_ids(tokenizer: Any, answer: str) -> list[int]:
    """Token ids of an answer as a model would give it after :func:`prompt_ids`, with the token that ends it.

    Raises:
        UserError: the tokenizer has no end token, so that a tuned model would never stop.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "The tokenizer has no end-of-text token, and a model tuned without one never stops.",
            "Use a model whose tokenizer has an eos_token.",
        )

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    if tokenizer.chat_template:
        return [*ids(answer), tokenizer.eos_token_id]
    # where it stands: some tokenizers (Llama-2's) put a blank of their own before whatever they are given
    before = ids(f"{ROLES['assistant']}:")
    whole = ids(f"{ROLES['assistant']}: {answer}")
    found = whole[len(before) :] if whole[: len(before)] == before else ids(f" {answer}")
    return [*found, tokenizer.eos_token_id]


def _framed(tokenizer: Any, messages: list[dict[str, str]], args: dict[str, Any], name: str) -> str:
    from jinja2.exceptions import TemplateError

    def frame(said: list[dict[str, str]]) -> str:
        return tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, **args)  # type: ignore[no-any-return]

    try:
        return frame(messages)
    except TemplateError as e:
        # Gemma's template, among others, knows no system role: it goes before the user's words.
        if len(messages) > 1 and messages[0]["role"] == "system" and messages[1]["role"] == "user":
            whole = f"{messages[0]['content']}\n\n{messages[1]['content']}"
            try:
                return frame([{"role": "user", "content": whole}, *messages[2:]])
            except TemplateError:
                pass
        raise UserError(f"The chat template of {name} refuses the prompt: {e}.") from e
