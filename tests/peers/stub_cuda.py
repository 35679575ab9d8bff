#!/usr/bin/env python3
"""Lets PyPI's CUDA build of torch load on a machine without a GPU and without two gigabytes of CUDA libraries.

Usage: stub_cuda.py SITE_PACKAGES
torch's shared objects name cuBLAS, cuDNN, NCCL and others as needed, but on a CPU no function of theirs is ever called.
For each such library that is absent this writes one of the same name beside torch's own whose functions return an error.
libcudart and libcupti must be installed for real (PyPI: nvidia-cuda-runtime, nvidia-cuda-cupti; 10 MB). Needs cc, readelf.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

CUDA = re.compile(r"^lib(cu(dnn|file|sparse|sparseLt|fft|blas|blasLt|solver|rand)|nccl|nvrtc|nvshmem_host)\.so\.\d+$")

site = pathlib.Path(sys.argv[1])
lib = site / "torch" / "lib"
needed = {}    # library -> symbol versions that torch asks of it
functions = {}  # symbol version -> names that torch asks for under it; "" = without a version
for file in lib.glob("*.so"):
    text = subprocess.run(["readelf", "-dVW", file], capture_output=True, text=True, check=True).stdout
    current = None
    for line in text.splitlines():
        if m := re.search(r"\(NEEDED\).*\[(.+)\]", line):
            needed.setdefault(m[1], set())
        elif m := re.search(r"Version: 1  File: (\S+)", line):
            current = m[1]
        elif (m := re.search(r"Name: (\S+)  Flags", line)) and current:
            needed.setdefault(current, set()).add(m[1])
    for line in subprocess.run(["nm", "-D", "--undefined-only", file], capture_output=True, text=True, check=True).stdout.splitlines():
        name, _, version = line.split()[-1].partition("@")
        functions.setdefault(version.lstrip("@"), set()).add(name)

for name, versions in sorted(needed.items()):
    if not CUDA.match(name) or list(site.glob(f"nvidia/*/lib/{name}")):
        continue
    with tempfile.TemporaryDirectory() as tmp:
        source, script = pathlib.Path(tmp, "stub.c"), pathlib.Path(tmp, "stub.map")
        # Every function fails if it is ever called. A version that is not defined makes the loader stop.
        stem = name[3:].split(".")[0].lower()
        names = {n for n in functions[""] if n.lower().startswith(stem)}.union(*(functions.get(v, set()) for v in versions))
        source.write_text("".join(f"int {n}(void) {{ return 1; }}\n" for n in sorted(names)))
        script.write_text("\n".join(f"{v} {{ {'global: *;' if i == 0 else ''} }};" for i, v in enumerate(sorted(versions))))
        command = ["cc", "-shared", "-fPIC", "-fno-builtin", str(source), f"-Wl,-soname,{name}", "-o", str(lib / name)]
        if versions:
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)
    print("stub", name, " ".join(sorted(versions)))
