#!/usr/bin/env python3
"""Hashes of what ml_dtypes and numpy make of every float: tests/data/number_formats/hashes.json (read by tests/numeric/small_float_test.cpp).

    python tests/peers/record_number_formats.py [--sample] > tests/data/number_formats/hashes.json

A hash is the CRC-32 of the codes of all floats but NaN in ascending order of their bits, one byte each (two, little-endian, for f16 and bf16).
"sample" takes every 4093rd bit pattern only. NaN is left out because its payload is nobody's standard; the test says what we do with it.
Needs ml_dtypes 0.6.0 and numpy 2.4.6; five minutes of one CPU.
"""
import argparse, json, sys, zlib

import ml_dtypes, numpy as np

FORMATS = {
    "e2m1": (ml_dtypes.float4_e2m1fn, np.uint8),
    "e2m3": (ml_dtypes.float6_e2m3fn, np.uint8),
    "e3m2": (ml_dtypes.float6_e3m2fn, np.uint8),
    "e4m3fn": (ml_dtypes.float8_e4m3fn, np.uint8),
    "e5m2": (ml_dtypes.float8_e5m2, np.uint8),
    "e8m0": (ml_dtypes.float8_e8m0fnu, np.uint8),
    "f16": (np.float16, np.uint16),
    "bf16": (ml_dtypes.bfloat16, np.uint16),
}
CHUNK = 1 << 24


def floats(bits):
    x = bits.astype(np.uint32).view(np.float32)
    return x[~np.isnan(x)]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--sample", action="store_true", help="only the sample, in a second")
    only_sample = options.parse_args().sample
    result = {"ml_dtypes": ml_dtypes.__version__, "numpy": np.__version__, "sample": {}, "all": {}}
    np.seterr(over="ignore")
    sample = floats(np.arange(0, 1 << 32, 4093, dtype=np.uint64))
    for name, (kind, word) in FORMATS.items():
        result["sample"][name] = zlib.crc32(sample.astype(kind).view(word).tobytes())
    if not only_sample:
        crc = dict.fromkeys(FORMATS, 0)
        for first in range(0, 1 << 32, CHUNK):
            x = floats(np.arange(first, first + CHUNK, dtype=np.uint64))
            for name, (kind, word) in FORMATS.items():
                crc[name] = zlib.crc32(x.astype(kind).view(word).tobytes(), crc[name])
            print(f"{first >> 24}/256", file=sys.stderr)
        result["all"] = crc
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
