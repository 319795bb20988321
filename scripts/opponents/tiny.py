"""Build tiny tokenizer / processors / models in the Qwen2.5-VL, Qwen3-VL, Qwen2, Qwen3 families from config."""

import os, sys, random, torch
from tokenizers import Tokenizer, models, trainers, pre_tokenizers, decoders, normalizers

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PAT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
CHAT = """{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def corpus():
    rng = random.Random(0)
    w = "what how many red green blue yellow squares circles are there in the image video answer is the of left right top bottom think step by step system user assistant you are a helpful".split()
    for _ in range(3000):
        yield " ".join(
            rng.choices(w, k=12)
        ) + " %d + %d = %d <think> </think> \\boxed{%d} <answer> </answer>\n" % tuple(
            rng.randrange(200) for _ in range(4)
        )


def tokenizer(vocab=600):
    tk = Tokenizer(models.BPE())
    tk.normalizer = normalizers.NFC()
    from tokenizers import Regex

    tk.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PAT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tk.decoder = decoders.ByteLevel()
    tk.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    from transformers import Qwen2TokenizerFast, PreTrainedTokenizerFast
    import tempfile

    try:
        d = tempfile.mkdtemp()
        tk.save(d + "/tokenizer.json")
        t = PreTrainedTokenizerFast(
            tokenizer_file=d + "/tokenizer.json",
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            padding_side="left",
            additional_special_tokens=[s for s in SPECIALS if s not in ("<|im_end|>", "<|endoftext|>")],
            model_max_length=32768,
        )
    except Exception:
        raise
    t.chat_template = CHAT
    return t


def ids(t):
    g = t.convert_tokens_to_ids
    return dict(
        image_token_id=g("<|image_pad|>"),
        video_token_id=g("<|video_pad|>"),
        vision_start_token_id=g("<|vision_start|>"),
        vision_end_token_id=g("<|vision_end|>"),
    )


def text_kw(t, hidden, layers, heads=2, kv=1, inter=None, mrope=None):
    d = dict(
        vocab_size=len(t),
        hidden_size=hidden,
        intermediate_size=inter or hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=t.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=t.eos_token_id,
        pad_token_id=t.pad_token_id,
    )
    return d


def qwen25vl(t, hidden=64, layers=2, vhidden=64, vlayers=2):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tc = text_kw(t, hidden, layers)
    hd = hidden // 2
    s = hd // 2
    a = s // 4
    sec = [a, (s - a) // 2, s - a - (s - a) // 2]
    tc["rope_parameters"] = {"rope_type": "default", "mrope_section": sec, "rope_theta": 10000.0}
    c = Qwen2_5_VLConfig(
        text_config=tc,
        vision_config=dict(
            depth=vlayers,
            hidden_size=vhidden,
            intermediate_size=2 * vhidden,
            num_heads=4,
            out_hidden_size=hidden,
            patch_size=14,
            spatial_merge_size=2,
            temporal_patch_size=2,
            window_size=112,
            fullatt_block_indexes=[vlayers - 1],
            tokens_per_second=2,
        ),
        tie_word_embeddings=False,
        eos_token_id=t.eos_token_id,
        pad_token_id=t.pad_token_id,
        **ids(t),
    )
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(c)


def qwen3vl(t, hidden=64, layers=2, vhidden=64, vlayers=2):
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tc = text_kw(t, hidden, layers)
    hd = 32
    tc["head_dim"] = hd
    tc["rope_parameters"] = {
        "rope_type": "default",
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
        "rope_theta": 10000.0,
    }
    c = Qwen3VLConfig(
        text_config=tc,
        vision_config=dict(
            depth=vlayers,
            hidden_size=vhidden,
            intermediate_size=2 * vhidden,
            num_heads=4,
            out_hidden_size=hidden,
            patch_size=16,
            spatial_merge_size=2,
            temporal_patch_size=2,
            num_position_embeddings=256,
            deepstack_visual_indexes=[0],
        ),
        tie_word_embeddings=False,
        eos_token_id=t.eos_token_id,
        pad_token_id=t.pad_token_id,
        **ids(t),
    )
    torch.manual_seed(0)
    return Qwen3VLForConditionalGeneration(c)


def qwen2(t, hidden=64, layers=2):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**text_kw(t, hidden, layers)))


def qwen3(t, hidden=64, layers=2):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(head_dim=32, **text_kw(t, hidden, layers)))


def processor(t, fam, pil=False, video=True, size=None):
    given, size = size, dict(shortest_edge=56 * 56, longest_edge=28 * 28 * 64)
    if fam == "qwen2_5_vl":
        from transformers import Qwen2_5_VLProcessor as P

        patch = 14
        from transformers import Qwen2VLVideoProcessor as V
    else:
        from transformers import Qwen3VLProcessor as P

        patch = 16
        size = dict(shortest_edge=64 * 64, longest_edge=32 * 32 * 64)
        from transformers import Qwen3VLVideoProcessor as V
    size = given or size
    if pil:
        from transformers import Qwen2VLImageProcessorPil as I
    else:
        from transformers import Qwen2VLImageProcessor as I
    kw = dict(patch_size=patch, temporal_patch_size=2, merge_size=2, size=size)
    if fam != "qwen2_5_vl":
        kw.update(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    ip = I(**kw)
    vp = V(**kw) if video else None
    return P(image_processor=ip, tokenizer=t, video_processor=vp, chat_template=CHAT)


if __name__ == "__main__":
    out = sys.argv[1]
    t = tokenizer()
    print("vocab", len(t))
    for fam, f in [("qwen2_5_vl", qwen25vl), ("qwen3_vl", qwen3vl), ("qwen2", qwen2), ("qwen3", qwen3)]:
        m = f(t)
        d = f"{out}/{fam}"
        m.generation_config.eos_token_id = t.eos_token_id
        m.generation_config.pad_token_id = t.pad_token_id
        m.save_pretrained(d)
        print(fam, sum(p.numel() for p in m.parameters()))
        if "vl" in fam:
            processor(t, fam, pil=bool(os.environ.get("PIL"))).save_pretrained(d)
        else:
            t.save_pretrained(d)
        print(sorted(os.listdir(d)))
