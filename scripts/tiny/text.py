"""The tokenizer of the tiny models, the text it is trained on, and the chat template."""

import random
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
# Whole tokens that are ordinary text: decoding with skip_special_tokens=True keeps them.
FORMAT_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")

# Qwen2's pre-tokenizer pattern; `\p{N}` without a repeat is what splits numbers into single digits.
PRE_TOKENIZER_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

# Qwen2.5-VL's template without its default system message: at this size the 20 tokens of
# "You are a helpful assistant." would be a third of every prompt and carry nothing.
CHAT_TEMPLATE = (
    "{%- set image_count = namespace(value=0) -%}{%- set video_count = namespace(value=0) -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for content in message['content'] -%}"
    "{%- if content['type'] == 'image' or 'image' in content or 'image_url' in content -%}"
    "{%- set image_count.value = image_count.value + 1 -%}"
    "{%- if add_vision_id -%}{{- 'Picture ' ~ image_count.value ~ ': ' -}}{%- endif -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif content['type'] == 'video' or 'video' in content -%}"
    "{%- set video_count.value = video_count.value + 1 -%}"
    "{%- if add_vision_id -%}{{- 'Video ' ~ video_count.value ~ ': ' -}}{%- endif -%}"
    "{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- elif 'text' in content -%}{{- content['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

COLORS = [
    "black",
    "gray",
    "red",
    "teal",
    "blue",
    "brown",
    "yellow",
    "green",
    "orange",
    "purple",
    "pink",
    "white",
    "cyan",
]
SHAPES = [
    "circle",
    "rectangle",
    "triangle",
    "square",
    "star",
    "diamond",
    "ring",
    "heart",
    "pentagon",
    "hexagon",
    "ellipse",
]
SIZES = ["small", "medium", "large", "tiny", "big"]
RELATIONS = ["left of", "right of", "above", "below", "between", "next to", "inside", "on top of"]
PLACES = ["top left", "top right", "bottom left", "bottom right", "center", "middle", "top", "bottom", "left", "right"]
LABELS = [
    "cat",
    "dog",
    "sun",
    "map",
    "key",
    "cup",
    "bus",
    "pen",
    "hat",
    "box",
    "red",
    "blue",
    "A",
    "B",
    "C",
    "D",
    "E",
    "F",
    "X",
    "Y",
    "Z",
]
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def scene_lines(count: int, seed: int = 0) -> Iterator[str]:
    """Yield `count` lines about scenes of several objects, text labels and bar charts, and arithmetic."""
    rng = random.Random(seed)
    number = rng.randrange

    def thing(plural: str = "") -> str:
        words = [rng.choice(SIZES), rng.choice(COLORS), rng.choice(SHAPES) + plural]
        return " ".join(words[rng.choice((0, 1, 2)) :])

    patterns = (
        lambda: f"how many {thing('s')} are there in the image? {rng.randrange(30)} {rng.choice(NUMBER_WORDS)}",
        lambda: f"What is the color of the {thing()} {rng.choice(RELATIONS)} the {thing()}? {rng.choice(COLORS)}",
        lambda: f"what shape is {rng.choice(RELATIONS)} the {thing()}? The {thing()} is in the {rng.choice(PLACES)}.",
        lambda: f"is the {thing()} {rng.choice(RELATIONS)} the {thing()}? yes no The {thing()} is not there.",
        lambda: f"what is the size of the {thing()}? are there more {thing('s')} than {thing('s')}? same fewer",
        lambda: f'what word is written on the {thing()}? the text label says "{rng.choice(LABELS)}"',
        lambda: f"which bar is the tallest in the bar chart? which is the shortest? bar {rng.choice(LABELS)}",
        lambda: f"what is the value of the {rng.choice(COLORS)} bar? {rng.randrange(100)} height total sum",
        lambda: f"<think>I see {rng.randrange(9)} {thing('s')}: a {thing()} at the {rng.choice(PLACES)}.</think>",
        lambda: f"<think>The image shows a {thing()} and a {thing()}.</think><answer>{rng.choice(COLORS)}</answer>",
        lambda: rng.choice(("user", "system", "assistant")),
        lambda: f"video image frame second step so then therefore count {thing()} object Calculate problem",
        lambda: f"{number(99)} + {number(99)} - {number(99)} * {number(9)} = -{number(99)}",
    )
    for _ in range(count):
        yield rng.choice(patterns)()


def build_tokenizer(lines: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with Qwen's pattern and special tokens on `lines`.

    The full byte alphabet is kept, so every text can be written; eos is `<|im_end|>`, pad `<|endoftext|>`.
    """
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=8,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The format tokens are cut out first: merges such as "><" or ">The" would never be met afterwards.
    bpe.train_from_iterator((piece for line in lines for piece in _without_format(line)), trainer)
    bpe.add_tokens(list(FORMAT_TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        bpe.save(str(path))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(path),
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
            padding_side="left",
            model_max_length=32768,
            clean_up_tokenization_spaces=False,
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _without_format(line: str) -> list[str]:
    for token in FORMAT_TOKENS:
        line = line.replace(token, "\x00")
    return [piece for piece in line.split("\x00") if piece]
