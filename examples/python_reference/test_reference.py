"""The module against numpy: codes, words and blocks computed a second time by their definitions."""

import ar_reference as ar
import numpy as np
import pytest

rng = np.random.default_rng(7)
w = (rng.standard_normal((32, 256)) * 0.05).astype(np.float32)


def int_sym(w, bits, group):
    """Full-range symmetric integers: the larger side of a group gets code -2^(bits-1)."""
    n = np.float32(2 ** (bits - 1))
    g = w.reshape(w.shape[0], -1, group)
    low, high = -np.minimum(g.min(-1), 0), np.maximum(g.max(-1), 0)
    scale = (np.where(high > low, -1, 1).astype(np.float32) * np.maximum(low, high) / n).astype(np.float16).astype(np.float32)
    code = np.clip(np.rint(g / scale[..., None]), -n, n - 1)
    return (code + n).astype(np.uint8).reshape(w.shape), scale


@pytest.mark.parametrize("bits, scheme, group", [(4, "W4A16G64", 64), (2, "w2a16g32", 32), (8, "W8A16", 128), (3, "int_sym:3", 16)])
def test_symmetric_integers(bits, scheme, group):
    code, scale, zero = ar.quantize(w, scheme, group_size=None if scheme != "int_sym:3" else group)
    want_code, want_scale = int_sym(w, bits, group)
    np.testing.assert_array_equal(scale, want_scale)
    np.testing.assert_array_equal(code, want_code)
    assert zero is None
    back = ar.dequantize(code, scale, None, f"int_sym:{bits}", group_size=group)
    np.testing.assert_array_equal(back, (code.astype(np.float32) - 2 ** (bits - 1)) * scale.repeat(group, 1))
    np.testing.assert_array_equal(back, ar.qdq(w, scheme, group_size=group))


def test_asymmetric_integers_use_their_zero_point():
    code, scale, zero = ar.quantize(w, "int_asym:4", group_size=-1)
    assert scale.shape == zero.shape == (32, 1)
    back = ar.dequantize(code, scale, zero, "int_asym:4", group_size=-1)
    np.testing.assert_array_equal(back, scale * (code.astype(np.float32) - zero))
    assert np.abs(back - w).max() <= scale.max() * 0.51


@pytest.mark.parametrize("scheme", [s for s in ar.schemes() if not s.startswith("GGUF") and s not in ("BF16", "W4A16_MIXED")])
def test_every_preset_has_a_data_type(scheme):
    assert np.abs(ar.qdq(w, scheme, maximum=1.0 if scheme.startswith("NVFP4") else None) - w).max() < 0.2


def test_other_layouts_of_memory_and_other_types_are_converted():
    np.testing.assert_array_equal(ar.qdq(w.T.copy().T.astype(np.float64), "W4A16"), ar.qdq(w, "W4A16"))


def test_gptq_words_are_a_bit_stream_along_the_inputs():
    code = rng.integers(0, 16, (32, 64), dtype=np.uint8)
    words = ar.pack("gptq_int32", 4, code)
    want = sum(code.T.reshape(8, 8, 32)[:, i].astype(np.uint32) << np.uint32(4 * i) for i in range(8))
    np.testing.assert_array_equal(words, want)
    np.testing.assert_array_equal(ar.unpack("gptq_int32", 4, words, 32, 64), code)
    zero = rng.integers(1, 16, (32, 2), dtype=np.int32)
    np.testing.assert_array_equal(ar.unpack_zeros("gptq_int32", 4, ar.pack_zeros("gptq_int32", 4, zero, "v1"), 32, 2, "v1"), zero)


@pytest.mark.parametrize("codec", ar.codecs())
def test_every_codec_returns_its_codes(codec):
    for bits in range(2, 9):
        code = rng.integers(0, 2**bits, (32, 128), dtype=np.uint8)
        try:
            packed = ar.pack(codec, bits, code)
        except ar.Error:
            continue
        np.testing.assert_array_equal(ar.unpack(codec, bits, packed, 32, 128), code)


def test_q4_0_blocks_are_a_half_and_sixteen_nibble_pairs():
    blocks = ar.gguf_quantize("q4_0", w)
    assert blocks.shape == (32, 256 // 32 * 18)
    b = blocks.reshape(32, 8, 18)
    d = b[..., :2].copy().view(np.float16).astype(np.float32)
    code = np.concatenate([b[..., 2:] & 15, b[..., 2:] >> 4], -1).astype(np.float32)
    np.testing.assert_array_equal(ar.gguf_dequantize("q4_0", blocks), (d * (code - 8)).reshape(32, 256))


@pytest.mark.parametrize("type", ar.gguf_types())
def test_every_gguf_type_comes_back(type):
    back = ar.gguf_dequantize(type, ar.gguf_quantize(type, w, importance=np.ones(256)))
    assert back.shape == w.shape and np.abs(back - w).max() < 0.2


def test_errors_are_exceptions_that_say_why():
    for call, words in [
        (lambda: ar.qdq(np.full((1, 32), np.nan), "W4A16"), "NaN"),
        (lambda: ar.qdq(w[0], "W4A16"), "matrix"),
        (lambda: ar.qdq(w, "W9A16"), "W9A16"),
        (lambda: ar.qdq(w, "int_sym:9"), "out of range"),
        (lambda: ar.dequantize(np.zeros((1, 32), np.uint8), np.zeros((1, 2)), None, "W4A16G32"), "shape"),
        (lambda: ar.dequantize(np.zeros((1, 32), np.uint8), np.zeros((1, 1)), None, "int_asym:4"), "zero point"),
        (lambda: ar.pack("gptq_int32", 4, np.zeros((32, 33), np.uint8)), "[32, 33]"),
        (lambda: ar.pack("gptq_int32", 4, np.full((32, 32), 16, np.uint8)), "pack"),
        (lambda: ar.pack("nothing", 4, np.zeros((32, 32), np.uint8)), "codec"),
        (lambda: ar.gguf_quantize("q4_k", w[:, :32]), "256"),
    ]:
        with pytest.raises(ar.Error, match=".*" + words.replace("[", r"\[").replace("]", r"\]")):
            call()
    assert issubclass(ar.Error, ValueError)
