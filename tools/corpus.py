"""Packs and unpacks the corpora of `csrc/fuzz/corpus`, one file per fuzz target.

A packed corpus is its inputs one behind the other, each as a frame of the wire protocol: four bytes of length,
big-endian, then the input. They are in the order of their SHA-256, so that the same inputs always make the same file.
libFuzzer wants a directory with a file per input: `tools/nightly.py` unpacks before it starts a target.
`csrc/tests/fuzz_replay.rs` reads the packed file.

    python tools/corpus.py unpack csrc/fuzz/corpus/doc_sync.inputs DIRECTORY
    python tools/corpus.py pack DIRECTORY csrc/fuzz/corpus/doc_sync.inputs
"""

import argparse
import hashlib
import sys
from pathlib import Path


def digest(data):
    """The SHA-256 of an input in hex: its place in the packed file and its name in a directory."""
    return hashlib.sha256(data).hexdigest()


def read(packed):
    """The inputs of a packed corpus.

    Raises:
        ValueError: the file ends within an input.
    """
    data, inputs, start = Path(packed).read_bytes(), [], 0
    while start < len(data):
        begin = start + 4
        start = begin + int.from_bytes(data[start:begin], "big")
        if start > len(data):
            raise ValueError(f"{packed} ends within an input")
        inputs.append(data[begin:start])
    return inputs


def pack(directory, packed):
    """Writes the files of a directory into one; returns their number. Equal files count once."""
    inputs = {path.read_bytes() for path in Path(directory).iterdir()}
    frames = (len(data).to_bytes(4, "big") + data for data in sorted(inputs, key=digest))
    Path(packed).write_bytes(b"".join(frames))
    return len(inputs)


def unpack(packed, directory):
    """Writes each input of a packed corpus into a file of its own; returns their number."""
    directory, inputs = Path(directory), read(packed)
    directory.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (directory / digest(data)).write_bytes(data)
    return len(inputs)


def main():
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=["pack", "unpack"])
    parser.add_argument("source", type=Path, help="a directory to pack, or a packed corpus")
    parser.add_argument("target", type=Path, help="where to write")
    options = parser.parse_args()
    count = {"pack": pack, "unpack": unpack}[options.action](options.source, options.target)
    print(f"{count} inputs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
