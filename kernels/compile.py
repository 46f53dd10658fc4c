#!/usr/bin/env python3
"""Compiles kernels/*.cu to the PTX beside them, or checks that the PTX is up to date.

    pip install -r kernels/requirements.txt
    python3 kernels/compile.py            writes kernels/*.ptx
    python3 kernels/compile.py --check    compiles and compares; exits with 1 if they differ

Neither a GPU nor a CUDA toolkit is needed: NVRTC, the compiler as a library, comes as a Python wheel. The
version is pinned, as another one gives other PTX; it is an old one, so that old drivers (from R525 on)
can load what it makes. The first line of the PTX holds the hash of the sources, by which build.rs knows that
they belong together.
"""

import argparse
import ctypes
import hashlib
import pathlib
import sys

KERNELS = pathlib.Path(__file__).resolve().parent
# The oldest GPUs that are supported: compute capability 8.0 (A100).
OPTIONS = [b"--gpu-architecture=compute_80", b"--std=c++17"]


def sources_hash():
    """As build.rs computes it: over names and contents of all sources, in order."""
    digest = hashlib.sha256()
    for path in sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def load_nvrtc():
    try:
        import nvidia.cuda_nvrtc as package
    except ImportError:
        sys.exit("compile.py: NVRTC is missing; run: pip install -r kernels/requirements.txt")
    return ctypes.CDLL(str(pathlib.Path(package.__path__[0]) / "lib" / "libnvrtc.so.12"))


class Compiler:
    def __init__(self):
        self.nvrtc = load_nvrtc()

    def call(self, name, *arguments):
        status = getattr(self.nvrtc, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} returned {status}")

    def text(self, program, what):
        """A text that NVRTC gives out in two calls: its size, then itself."""
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.value.decode()

    def compile(self, path):
        headers = sorted(KERNELS.glob("*.cuh"))
        strings = ctypes.c_char_p * len(headers)
        program = ctypes.c_void_p()
        self.call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            path.read_bytes(),
            path.name.encode(),
            len(headers),
            strings(*[header.read_bytes() for header in headers]),
            strings(*[header.name.encode() for header in headers]),
        )
        options = (ctypes.c_char_p * len(OPTIONS))(*OPTIONS)
        status = self.nvrtc.nvrtcCompileProgram(program, len(OPTIONS), options)
        log = self.text(program, "ProgramLog").strip()
        if log:
            print(log, file=sys.stderr)
        if status != 0:
            sys.exit(f"compile.py: {path.name} does not compile")
        return self.text(program, "PTX")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    compiler = Compiler()
    stale = []
    for path in sorted(KERNELS.glob("*.cu")):
        ptx = f"// sources {sources_hash()}\n" + compiler.compile(path)
        target = path.with_suffix(".ptx")
        if not check:
            target.write_text(ptx)
            print(f"{target.name}: {len(ptx)} bytes")
        elif not target.exists() or target.read_text() != ptx:
            stale.append(target.name)
    if stale:
        sys.exit(f"compile.py: {', '.join(stale)}: not what the sources compile to; run: python3 kernels/compile.py")


if __name__ == "__main__":
    main()
