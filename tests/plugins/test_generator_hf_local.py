"""The generator `hf_local` on a tiny random Llama, loaded as any model is."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest

from recbole_llm import Failure, Request, UserError
from recbole_llm.cli.main import main
from recbole_llm.testing.generators import GeneratorContract
from recbole_llm.testing.network import no_network
from recbole_llm_plugins._draw import Draw
from recbole_llm_plugins.hf_local import MAX_TOKENS, HFLocal, Options

pytest.importorskip("transformers", reason="the extra 'encoders' is not installed")
CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' and strict is defined %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{{ m['content'] }} . {% endfor %}"
    "{% if add_generation_prompt %}body :{% endif %}{% if thinking is defined %} lovely{% endif %}"
)
PROMPTS = [
    "rose water toner",
    "a very long lotion for dry skin",
    "soap",
    "red nail polish and pure white serum , set of",
]


def save(folder, tokenizer, **config):
    """A random two-layer causal Llama, wide enough that its likeliest next tokens differ from prompt to prompt."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = {"max_position_embeddings": 600, "initializer_range": 0.4, **config}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=48, bos_token_id=1, eos_token_id=2, **config,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def plain(tokenizer, tmp_path_factory):
    """Without a chat template or a padding token."""
    return save(tmp_path_factory.mktemp("plain"), tokenizer)


@pytest.fixture(scope="module")
def chat(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(plain, folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def request(content, sample=0, system=None, **params):
    messages = [{"role": "system", "content": system}] if system else []
    params = {"temperature": 0, "max_tokens": 12, **params}
    return Request((*messages, {"role": "user", "content": content}), params, sample)


def generator(folder, **options) -> HFLocal:
    return HFLocal(Options(**{"model": str(folder), "dtype": "float32", "device": "cpu", **options}))


@pytest.fixture(scope="module")
def tiny(chat):
    return generator(chat)


def answers(made, *requests):
    found = dict(made.generate(requests))
    return [found[i] for i in range(len(requests))]


def by_hand(folder, text, longest):
    """Greedy decoding written out: one prompt, no padding, no cache, the whole prompt at each step."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer, model = AutoTokenizer.from_pretrained(folder), LlamaForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    said = []
    while len(said) < longest and (not said or said[-1] != tokenizer.eos_token_id):
        with torch.no_grad():
            said.append(int(model(torch.tensor([ids + said])).logits[0, -1].argmax()))
    return tokenizer.decode(said, skip_special_tokens=True).strip(), len(ids), len(said)


class TestHFLocal(GeneratorContract):
    generator_class = HFLocal

    @pytest.fixture(scope="class", autouse=True)
    def _checkpoint(self, chat, plain):
        type(self).options = {"model": str(chat), "dtype": "float32", "device": "cpu"}
        type(self).changes = {
            "model": str(plain),
            "dtype": "bf16",
            "max_input_tokens": 9,
            "template_args": {"thinking": True},
            "trust_remote_code": True,
        }


def test_greedy_is_the_likeliest_token_after_the_framed_prompt(tiny, chat):
    for prompt, answer in zip(PROMPTS, answers(tiny, *map(request, PROMPTS))):
        text, asked, said = by_hand(chat, f"<s>{prompt} . body :", 12)
        assert (answer.text, answer.tokens_in, answer.tokens_out) == (text, asked, said)
        assert answer.finish == ("length" if said == 12 else "stop") and answer.model is None


def test_a_batch_changes_no_answer(tiny):
    """Padding and company: greedy and drawn answers are those that each request gets alone."""
    for params in ({}, {"temperature": 0.9, "top_p": 0.8, "seed": 3}):
        requests = [request(p, **params) for p in PROMPTS]
        alone = [answers(tiny, r)[0] for r in requests]
        assert len({a.text for a in alone}) == len(alone), "the tiny model tells the prompts apart"
        for order in itertools.islice(itertools.permutations(range(4)), 0, 24, 7):
            assert answers(tiny, *[requests[i] for i in order]) == [alone[i] for i in order]


def test_requests_decoded_differently_share_a_call(tiny):
    mixed = [request("soap", max_tokens=3), request("soap", temperature=1.5, seed=1), request("soap", max_tokens=5)]
    together = answers(tiny, *mixed)
    assert together == [answers(tiny, r)[0] for r in mixed]
    assert together[0].tokens_out == 3 and together[2].text.startswith(together[0].text)


def test_more_requests_than_a_batch_holds(chat, tiny):
    small = generator(chat, batch_size=2)
    assert small.limits.texts == 2
    requests = [request(p) for p in PROMPTS]
    assert answers(small, *requests) == answers(tiny, *requests)


def test_an_answer_ends_at_its_end(chat, tiny, tmp_path):
    """Any token may end an answer; what a batch is padded with afterwards is neither said nor counted."""
    requests = [request(p) for p in PROMPTS]
    whole = answers(tiny, *requests)
    row = tiny._decode([tiny._ids(requests[0].messages)], (12, 0.0, 1.0, 0), requests[:1])[0]
    folder = tmp_path / "model"
    shutil.copytree(chat, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [2, row[4]]}))
    ended = answers(generator(folder), *requests)
    cut = row.index(row[4])
    assert (ended[0].finish, ended[0].tokens_out) == ("stop", cut + 1)
    assert ended[0].text == tiny._tokenizer.decode(row[:cut], skip_special_tokens=True).strip()
    assert {a.finish for a in whole} == {"length"} and max(a.tokens_out for a in ended) == 12
    assert [a.tokens_in for a in ended] == [a.tokens_in for a in whole]


class TestDrawing:
    def test_the_same_request_gets_the_same_answer_and_another_sample_another(self, tiny):
        drawn = [request("rose water", sample=s, temperature=1.2, seed=5) for s in range(4)]
        first = answers(tiny, *drawn)
        assert first == answers(tiny, *drawn) and len({a.text for a in first}) == 4
        assert answers(tiny, request("rose water", temperature=1.2, seed=6)) != first[:1]

    def test_a_further_sample_of_a_greedy_question_is_drawn(self, tiny):
        greedy = [answers(tiny, request("rose water", sample=s))[0].text for s in range(3)]
        assert len(set(greedy)) == 3

    def test_without_a_temperature_it_is_the_models_own_way(self, chat, tmp_path):
        """As published with the model (and as vLLM does), in generation_config.json."""
        asked = request("rose water", temperature=None)
        assert answers(generator(chat), asked)[0].text == answers(generator(chat), request("rose water"))[0].text
        folder = tmp_path / "model"
        shutil.copytree(chat, folder)
        config = json.loads((folder / "generation_config.json").read_text())
        own = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
        (folder / "generation_config.json").write_text(json.dumps({**config, **own}))
        assert generator(folder)._how(asked) == (12, 0.7, 0.8, 20)
        assert generator(folder)._how(request("x", temperature=0.5, top_p=0.9)) == (12, 0.5, 0.9, 0)
        assert generator(folder)._how(Request((), {})) == (MAX_TOKENS, 0.7, 0.8, 20)
        assert answers(generator(folder), asked) == answers(generator(folder), asked)

    def test_frequencies_are_the_softmax(self):
        """Over many throws, and for each row by its own dice."""
        import torch

        scores = torch.tensor([[2.0, 0.0, 1.0, -1.0, 0.5]])
        n = 4000
        dice = torch.tensor(np.random.default_rng(0).random((n, 1)))
        got = Draw(dice, 3, 0.8, 1.0, 0)(torch.zeros(n, 3, dtype=torch.long), scores.repeat(n, 1)).argmax(1)
        expected = torch.softmax(scores[0] / 0.8, 0).numpy()
        np.testing.assert_allclose(np.bincount(got, minlength=5) / n, expected, atol=4 * np.sqrt(0.25 / n))

    @pytest.mark.parametrize(
        ("top_p", "top_k", "allowed"),
        [
            (1.0, 0, {0, 1, 2, 3}),
            (0.75, 0, {1, 3}),
            (0.7, 0, {1, 3}),
            (0.4, 0, {3}),
            (0.0, 0, {3}),
            (1.0, 3, {0, 1, 3}),
        ],
    )
    def test_top_p_and_top_k_as_transformers_has_them(self, top_p, top_k, allowed):
        """Probabilities .15 .3 .1 .45: the smallest set that reaches top_p, the likeliest top_k."""
        import torch
        from transformers import TopKLogitsWarper, TopPLogitsWarper

        scores = torch.log(torch.tensor([[0.15, 0.3, 0.1, 0.45]]))
        dice = torch.arange(200, dtype=torch.float64).unsqueeze(1) / 200
        drawn = Draw(dice, 2, 1.0, top_p, top_k)(torch.zeros(200, 2, dtype=torch.long), scores.repeat(200, 1))
        assert set(drawn.argmax(1).tolist()) == allowed
        kept = TopKLogitsWarper(top_k)(None, scores) if top_k else TopPLogitsWarper(top_p)(None, scores)
        if top_p not in (0.75, 0.0):  # a sum that float32 rounds either way; and none at all, which theirs refuses
            assert set(torch.isfinite(kept[0]).nonzero().squeeze(1).tolist()) == allowed

    def test_the_largest_number_draws_the_last_allowed_token(self):
        import torch

        scores = torch.log(torch.tensor([[0.6, 0.1, 0.3]]))
        nearly = torch.tensor([[np.nextafter(1.0, 0.0)]])
        assert Draw(nearly, 1, 1.0, 1.0, 0)(torch.zeros(1, 1), scores).argmax() == 1
        assert Draw(nearly, 1, 1.0, 0.85, 0)(torch.zeros(1, 1), scores).argmax() == 2


class TestPrompts:
    def test_tokens_are_counted_with_the_frame_and_without_weights(self, chat):
        made = generator(chat)
        counts = made.count_tokens([request("rose water"), request("")])
        assert counts == [6, 4] and "_model" not in vars(made)
        assert [a.tokens_in for a in answers(made, request("rose water"), request(""))] == counts

    def test_a_model_without_a_template_reads_lines(self, plain):
        made = generator(plain)
        ids = made._ids(request("rose water", system="the brand").messages)
        assert ids == made._tokenizer("System: the brand\n\nUser: rose water\n\nAssistant:")["input_ids"]
        assert ids[0] == made._tokenizer.bos_token_id and answers(made, request("rose water"))[0].text

    def test_a_template_that_knows_no_system_role_gets_it_with_the_users_words(self, chat):
        strict = generator(chat, template_args={"strict": True})
        assert strict._ids([{"role": "system", "content": "pure"}, {"role": "user", "content": "soap"}]) == (
            strict._ids([{"role": "user", "content": "pure\n\nsoap"}])
        )
        with pytest.raises(UserError, match=r"chat template of .* refuses the prompt: System role not supported"):
            strict._ids([{"role": "system", "content": "pure"}])

    def test_arguments_of_the_template(self, chat):
        made = generator(chat, template_args={"thinking": True})
        assert made._tokenizer.decode(made._ids([{"role": "user", "content": "soap"}])).endswith("body : lovely")

    def test_a_prompt_that_is_too_long_fails_alone(self, chat):
        made = generator(chat, max_input_tokens=6)
        long, short = answers(made, request("a very long lotion for dry skin"), request("soap"))
        assert isinstance(long, Failure) and "11 tokens, more than the 6" in long.reason and short.text

    def test_the_models_own_length_is_kept(self, tokenizer, tmp_path):
        folder = save(tmp_path, tokenizer, max_position_embeddings=32)
        made = generator(folder)
        fits, not_both = answers(made, request("soap", max_tokens=25), request("soap", max_tokens=28))
        assert fits.text and isinstance(not_both, Failure) and "more than the 4" in not_both.reason


class TestModel:
    def test_bf16_stays_bf16(self, chat):
        import torch

        made = generator(chat, dtype="bf16")
        assert answers(made, request("soap"))[0].text
        assert {p.dtype for p in made._model[0].parameters()} == {torch.bfloat16}

    def test_auto_is_the_published_type(self, chat, tmp_path):
        import torch
        from transformers import AutoModelForCausalLM

        assert generator(chat, dtype="auto")._model[0].dtype == torch.float32
        AutoModelForCausalLM.from_pretrained(chat).to(torch.bfloat16).save_pretrained(tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(chat / name, tmp_path)
        assert generator(tmp_path, dtype="auto")._model[0].dtype == torch.bfloat16

    def test_a_checkpoint_without_a_language_models_head_is_refused(self, tiny_llama):
        with pytest.raises(UserError, match=r"no language model: it has no weights for lm_head\.weight"):
            answers(generator(tiny_llama), request("soap"))

    def test_that_is_not_named(self):
        with pytest.raises(UserError, match="gen_model"):
            HFLocal().fingerprint()

    def test_that_is_not_here_is_not_fetched_by_a_fingerprint(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        with no_network() as refused, pytest.raises(UserError, match="not in the local Hugging Face cache"):
            HFLocal(Options(model="own/chat")).fingerprint()
        assert not refused

    def test_that_is_damaged(self, chat, tmp_path):
        shutil.copytree(chat, tmp_path / "m")
        file = tmp_path / "m" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:50])
        with pytest.raises(UserError, match="cannot be loaded"):
            answers(generator(tmp_path / "m"), request("soap"))

    def test_no_such_device(self, chat):
        with pytest.raises(UserError) as e:
            answers(generator(chat, device="abacus"), request("soap"))
        assert "gen_device" in e.value.hint

    def test_memory_that_runs_out_halves_the_batch(self, chat, monkeypatch):
        import torch

        made, sizes = generator(chat), []
        decode = made._decode

        def small(prompts, *rest):
            sizes.append(len(prompts))
            if len(prompts) > 1:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return decode(prompts, *rest)

        monkeypatch.setattr(made, "_decode", small)
        requests = [request(p) for p in PROMPTS]
        assert answers(made, *requests) == answers(generator(chat), *requests)
        assert sizes == [4, 2, 1, 1, 2, 1, 1]
        monkeypatch.setattr(made, "_decode", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("none")))
        with pytest.raises(UserError, match="memory"):
            answers(made, requests[0])


def test_through_the_command(chat, toy_home, capsys):
    """Plumbing: the texts of a random model mean nothing."""
    words = [
        "generate",
        "toy",
        "--recipe",
        "lamar",
        "--gen_signal=Use",
        "--text_generator=hf_local",
        "--quiet",
        "--json",
    ]
    words += [f"--gen_model={chat}", "--gen_max_tokens=12", "--gen_device=cpu", "--gen_dtype=float32"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["answered"] == said["sent"] > 30 and said["failed"] == 0 and said["tokens_out"] > said["answered"]
    assert said["kept"] > 20 and "BASELINE" not in said["generator"]
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["sent"] == 0 and again["stored"] >= said["answered"] and again["kept"] == said["kept"]


@pytest.mark.gpu
def test_on_cuda_in_bf16(chat):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA here")
    made = generator(chat, device=None, dtype="bf16")
    said = answers(made, *[request(p) for p in PROMPTS], request("soap", temperature=1, seed=1))
    assert all(a.text for a in said) and made._model[1].type == "cuda"
