"""Writes a language model of half a megabyte that nobody trained: llama's shape with two layers, random numbers, words of letters.

It says nothing sensible, always the same and very fast; what it is good for is everything about an answer but its sense.
`write(path)` writes it. Only the standard library is needed: a GGUF file is a header, a table and rows of numbers.
"""

import random
import struct

WIDTH, INNER, LAYERS, HEADS, CONTEXT = 64, 128, 2, 4, 8192
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
ALIGNMENT = 32
# No space stands before what it says: with the first word's own it would be made of other tokens when it is read again.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}:\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


def vocabulary():
    """Tokens with their kinds: three of control, every byte, and words."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
    # Every text can be made of them in one way only.
    words = [f"\u2581{syllable}" for syllable in syllables] + syllables
    named = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    return named + [(f"<0x{byte:02X}>", BYTE) for byte in range(256)] + [(word, NORMAL) for word in words]


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def packed(kind, value):
    formats = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}
    return text(value) if kind == STRING else struct.pack(formats[kind], value)


def field(name, kind, value):
    return text(name) + struct.pack("<I", kind) + packed(kind, value)


def fields(name, kind, values):
    head = text(name) + struct.pack("<IIQ", ARRAY, kind, len(values))
    return head + b"".join(packed(kind, value) for value in values)


def header(tokens):
    words, kinds = [token for token, _ in tokens], [kind for _, kind in tokens]
    # A longer word is taken before a shorter one.
    scores = [float(len(word)) if kind == NORMAL else 0.0 for word, kind in tokens]
    return [
        field("general.architecture", STRING, "llama"),
        field("general.name", STRING, "tiny"),
        field("llama.context_length", UINT32, CONTEXT),
        field("llama.embedding_length", UINT32, WIDTH),
        field("llama.block_count", UINT32, LAYERS),
        field("llama.feed_forward_length", UINT32, INNER),
        field("llama.attention.head_count", UINT32, HEADS),
        field("llama.attention.head_count_kv", UINT32, HEADS),
        field("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        field("llama.rope.dimension_count", UINT32, WIDTH // HEADS),
        field("llama.vocab_size", UINT32, len(tokens)),
        field("tokenizer.ggml.model", STRING, "llama"),
        fields("tokenizer.ggml.tokens", STRING, words),
        fields("tokenizer.ggml.scores", FLOAT32, scores),
        fields("tokenizer.ggml.token_type", INT32, kinds),
        field("tokenizer.ggml.bos_token_id", UINT32, 1),
        field("tokenizer.ggml.eos_token_id", UINT32, 2),
        field("tokenizer.ggml.unknown_token_id", UINT32, 0),
        field("tokenizer.ggml.add_bos_token", BOOL, True),
        field("tokenizer.chat_template", STRING, TEMPLATE),
    ]


def tensors(tokens):
    """Names, shapes (the fast side first) and numbers."""
    chance = random.Random(7)

    def rows(width, height, size):
        return [chance.gauss(0, size) for _ in range(width * height)]

    yield "token_embd.weight", (WIDTH, len(tokens)), rows(WIDTH, len(tokens), 1.0)
    yield "output_norm.weight", (WIDTH,), [1.0] * WIDTH
    # Bytes and marks are never the likeliest, so that it speaks in letters and does not end by itself.
    spoken = (rows(WIDTH, 1, 1.0) if kind == NORMAL else [0.0] * WIDTH for _, kind in tokens)
    yield "output.weight", (WIDTH, len(tokens)), [number for row in spoken for number in row]
    for layer in range(LAYERS):
        yield f"blk.{layer}.attn_norm.weight", (WIDTH,), [1.0] * WIDTH
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{layer}.{name}.weight", (WIDTH, WIDTH), rows(WIDTH, WIDTH, 0.3)
        yield f"blk.{layer}.ffn_norm.weight", (WIDTH,), [1.0] * WIDTH
        yield f"blk.{layer}.ffn_gate.weight", (WIDTH, INNER), rows(WIDTH, INNER, 0.3)
        yield f"blk.{layer}.ffn_up.weight", (WIDTH, INNER), rows(WIDTH, INNER, 0.3)
        yield f"blk.{layer}.ffn_down.weight", (INNER, WIDTH), rows(INNER, WIDTH, 0.3)


def write(path):
    tokens = vocabulary()
    said, parts = header(tokens), list(tensors(tokens))
    table, data = b"", b""
    for name, shape, numbers in parts:
        table += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        table += struct.pack("<IQ", 0, len(data))
        data += struct.pack(f"<{len(numbers)}f", *numbers)
        data += bytes(-len(data) % ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(parts), len(said)) + b"".join(said) + table
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT) + data)
