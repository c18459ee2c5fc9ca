"""Chat frames, stop ids and identity, on small tokenizers with templates as the families' own."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from models.errors import UserError
from models.load.source import ModelSource
from models.load.tokenizer import encode, fingerprint, frame, load_tokenizer, stop_ids

LLAMA3 = (
    "{% if date_string is not defined %}{{ raise_exception('changes daily') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}"
    "[/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
SPECIALS = {
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
    ],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}
TEMPLATES = {"llama3": LLAMA3, "mistral": MISTRAL, "qwen": QWEN}
NO_BOS = LlamaConfig(bos_token_id=None, eos_token_id=None)


def make(family, template=True, adds_bos=None):
    """A byte-level tokenizer with the special tokens and post-processor of `family`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: i for i, char in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = SPECIALS[family]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    bos, eos = (None, "<|endoftext|>") if family == "qwen" else specials[:2]
    if adds_bos if adds_bos is not None else family != "qwen":
        pieces = [(specials[0], backend.token_to_id(specials[0]))]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{specials[0]} $A", special_tokens=pieces
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = TEMPLATES[family] if template else None
    return tokenizer


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_framed_message_is_the_librarys_rendering(family):
    tokenizer = make(family)
    chat = frame(tokenizer, NO_BOS, chat=True)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who wrote it?"}],
        add_generation_prompt=True,
        enable_thinking=False,
        date_string="26 Jul 2024",
        return_dict=False,
    )
    assert encode(tokenizer, chat.header_text + "Who wrote it?" + chat.footer_text) == rendered
    assert chat.header + encode(tokenizer, "Who wrote it?") + chat.footer == rendered


@pytest.mark.parametrize("family", ["llama3", "mistral"])
@pytest.mark.parametrize("chat", [True, False])
def test_bos_stands_first_and_once(family, chat):
    tokenizer = make(family)
    made = frame(tokenizer, NO_BOS, chat)
    ids = encode(tokenizer, made.header_text + "text" + made.footer_text)
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert made.sink == [tokenizer.bos_token_id]


def test_thinking_is_switched_off():
    assert frame(make("qwen"), NO_BOS, chat=True).footer_text.endswith("</think>\n\n")


def test_without_a_template_chat_is_plain():
    tokenizer = make("llama3", template=False)
    made = frame(tokenizer, NO_BOS, chat=True)
    assert made == frame(tokenizer, NO_BOS, chat=False)
    assert (made.header, made.footer) == ([tokenizer.bos_token_id], [])


def test_a_tokenizer_that_adds_nothing_has_an_empty_plain_header_and_still_a_sink():
    tokenizer = make("qwen")
    plain = frame(tokenizer, NO_BOS, chat=False)
    assert (plain.header_text, plain.header, plain.footer) == ("", [], [])
    assert plain.sink == [tokenizer.eos_token_id]
    with_config = frame(tokenizer, LlamaConfig(bos_token_id=7), chat=False)
    assert with_config.sink == [7]
    im_start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert frame(tokenizer, NO_BOS, chat=True).sink == [im_start]


@pytest.mark.parametrize(
    ("template", "needle"),
    [
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "2 times"),
        ("nothing of the message", "0 times"),
        ("{{ raise_exception('only tools here') }}", "only tools here"),
        ("{{ messages[0]['content'] ", "cannot render"),
    ],
)
def test_a_template_that_cannot_frame_a_message_is_refused(template, needle):
    tokenizer = make("llama3")
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=needle):
        frame(tokenizer, NO_BOS, chat=True)


@pytest.mark.parametrize(
    ("family", "end"), [("llama3", "<|eot_id|>"), ("mistral", "</s>"), ("qwen", "<|im_end|>")]
)
def test_the_end_of_turn_is_a_stop_and_bos_is_not(family, end):
    tokenizer = make(family)
    stops = stop_ids(tokenizer, GenerationConfig(eos_token_id=3))
    assert stops == {3, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(end)}
    assert tokenizer.bos_token_id not in stops


def test_declared_lists_nothing_declared_and_a_declared_bos():
    tokenizer = make("llama3", template=False)
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    assert stop_ids(tokenizer, None) == {eos}
    assert stop_ids(tokenizer, GenerationConfig(eos_token_id=[5, 6])) == {5, 6, eos}
    assert stop_ids(tokenizer, GenerationConfig(eos_token_id=bos)) == {bos, eos}


def test_a_template_that_ends_turns_with_bos_does_not_make_it_a_stop():
    tokenizer = make("mistral")
    tokenizer.chat_template = MISTRAL.replace("eos_token", "bos_token")
    assert stop_ids(tokenizer, None) == {tokenizer.eos_token_id}


def test_the_fingerprint_sees_what_changes_ids_and_nothing_else():
    base = fingerprint(make("llama3"))
    called = make("llama3")
    called(["a", "bb"], padding=False, truncation=True, max_length=4)
    assert fingerprint(called) == base == fingerprint(make("llama3"))
    assert len(base) == 16
    others = [make("llama3", template=False), make("llama3", adds_bos=False), make("mistral")]
    grown = make("llama3")
    grown.add_tokens(["extra"])
    assert len({base, *map(fingerprint, [*others, grown])}) == 5


def test_saving_and_loading_keeps_the_fingerprint(tmp_path):
    make("qwen").save_pretrained(tmp_path)
    loaded = load_tokenizer(ModelSource("m", str(tmp_path), is_local=True))
    assert loaded.is_fast
    assert fingerprint(loaded) == fingerprint(make("qwen"))


def test_a_folder_without_a_tokenizer_or_with_a_broken_one_is_one_line(tmp_path):
    source = ModelSource("m", str(tmp_path), is_local=True)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for _ in range(2):
        with pytest.raises(UserError, match="model 'm'") as raised:
            load_tokenizer(source)
        assert "\n" not in str(raised.value)
        (tmp_path / "tokenizer.json").write_text('{"model": "nonsense"}')
