"""The generator `replay`: recorded answers come back, and nothing else does."""

from __future__ import annotations

import json

import pytest

from recbole_llm import Answer, Failure, Request, UserError, request_digest
from recbole_llm.testing.generators import PROMPTS, GeneratorContract
from recbole_llm_plugins.replay import Options, Replay


def request(content="a", sample=0, **params):
    return Request(({"role": "user", "content": content},), params, sample)


def line(asked, text="said", **more):
    return json.dumps({"key": request_digest(asked), "text": text, **more})


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def replay(path):
    return Replay(Options(path=str(path)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


class TestReplay(GeneratorContract):
    generator_class = Replay

    @pytest.fixture(scope="class", autouse=True)
    def _files(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("recorded")
        asked = [Request(({"role": "user", "content": p},), {"max_tokens": 8}) for p in PROMPTS[:2]]
        one = write(folder / "one.jsonl", *[line(r, f"said {i}", tokens_in=3) for i, r in enumerate(asked)])
        other = write(folder / "other.jsonl", line(asked[0], "otherwise"))
        type(self).options, type(self).changes = {"path": str(one)}, {"path": str(other)}


def test_what_was_recorded_comes_back_and_nothing_else(path):
    recorded = [request("a"), request("a", sample=1), request("a", temperature=0.5)]
    more = {"model": "gpt-4o-mini-2024-07-18", "date": "2025-06-01", "tokens_in": 9, "tokens_out": 2, "finish": "stop"}
    write(path, *[line(r, f"answer {i}", **more) for i, r in enumerate(recorded)], "", line(request("z"), "zzz"))
    got = dict(replay(path).generate([*recorded, request("b"), request("a", temperature=0.7)]))
    assert [got[i].text for i in range(3)] == ["answer 0", "answer 1", "answer 2"]
    assert got[3] == got[4] == Failure("not recorded")
    first = got[0]
    assert (first.tokens_in, first.tokens_out, first.finish, first.model) == (9, 2, "stop", "gpt-4o-mini-2024-07-18")
    assert isinstance(first, Answer) and first.raw["date"] == "2025-06-01"


def test_the_key_knows_nothing_of_record_or_generator(path):
    write(path, line(request("a")))
    asked = Request(request("a").messages, record={"item_id": "7"})
    assert dict(replay(path).generate([asked]))[0].text == "said"


def test_the_fingerprint_is_the_files_content_not_its_place(path, tmp_path):
    write(path, line(request("a")))
    copy = write(tmp_path / "copy.jsonl", line(request("a")))
    assert replay(path).fingerprint() == replay(copy).fingerprint()
    before = replay(path).fingerprint()
    write(path, line(request("a"), "another"))
    assert replay(path).fingerprint() != before


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "has no 'text'"),
        ('{"key": "00"}', "has no 'text'"),
        ('{"key": "00", "text": 3}', "has no 'text'"),
        ('{"key": "00", "text": "x"}', "has no 'key'"),
        ('{"text": "x"}', "has no 'key'"),
        (line(request("b"), tokens_in="9"), "'tokens_in' is '9'"),
        (line(request("b"), tokens_out=-1), "'tokens_out' is -1"),
        (line(request("b"), model=3), "'model' is 3"),
    ],
)
def test_a_bad_line_is_named(path, bad, said):
    write(path, line(request("a")), "", bad)
    with pytest.raises(UserError) as e:
        list(replay(path).generate([request("a")]))
    assert "answers.jsonl, line 3" in e.value.message and said in e.value.message and "key" in e.value.hint


def test_two_answers_to_one_request_are_an_error_and_the_same_twice_is_none(path):
    write(path, line(request("a")), line(request("b")), line(request("a"), date="2026-01-01"))
    assert dict(replay(path).generate([request("a")]))[0].raw == json.loads(line(request("a")))
    write(path, line(request("a")), line(request("b")), line(request("a"), "other"))
    with pytest.raises(UserError, match="lines 1 and 3: two answers"):
        list(replay(path).generate([request("a")]))


def test_a_file_that_is_not_named_or_not_there(tmp_path):
    with pytest.raises(UserError, match="gen_path"):
        Replay().fingerprint()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        replay(tmp_path / "none.jsonl").fingerprint()
