"""Training files of chat models: what is written is read again, and a line that is none is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.text.chat_examples import ChatExample, read_examples, write_examples

said = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
example = st.builds(
    lambda system, user, answer: ChatExample(
        ({"role": "system", "content": system}, {"role": "user", "content": user}), answer
    ),
    said, said, said.filter(lambda t: bool(t.strip())),
)  # fmt: skip


@given(st.lists(example, min_size=1, max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("examples") / "train.jsonl"
    assert write_examples(path, examples) == len(examples)
    assert read_examples(path) == examples
    first = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert [m["role"] for m in first["messages"]] == ["system", "user", "assistant"]


GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "no object"),
        (json.dumps({"mesages": []}), "unknown key 'mesages'"),
        (json.dumps({**GOOD, "answer": "b"}), "unknown key 'answer'"),
        (json.dumps({}), "no 'messages'"),
        (json.dumps({"messages": GOOD["messages"][:1]}), "a question and its answer"),
        (json.dumps({"messages": GOOD["messages"][::-1]}), "does not end with"),
        (json.dumps({"messages": [{"role": "bot", "content": "a"}, GOOD["messages"][1]]}), "the role is 'bot'"),
        (json.dumps({"messages": [{"role": "user", "content": 1}, GOOD["messages"][1]]}), "'content' is no text"),
        (json.dumps({"messages": [{"role": "user", "text": "a"}, GOOD["messages"][1]]}), "unknown key 'text'"),
        (json.dumps({"messages": [GOOD["messages"][0], {"role": "assistant", "content": " "}]}), "does not end with"),
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path, line, says):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(UserError, match=says) as e:
        read_examples(path)
    assert "line 2" in e.value.message


def test_a_file_without_examples_is_told(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="no examples"):
        read_examples(tmp_path / "empty.jsonl")
    with pytest.raises(UserError, match="Cannot read"):
        read_examples(tmp_path / "none.jsonl")
