"""`make fuzz`, `make sanitize`, `make miri`: checks that need nightly Rust. Each says what it skips, and why."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import corpus

ROOT = Path(__file__).resolve().parent.parent
CRATE = ROOT / "csrc"
FUZZ = CRATE / "fuzz"
EDGES = FUZZ / "target" / "edges"
TOOLCHAIN = os.environ.get("NIGHTLY", "nightly")

# Bytes of an input. Larger ones are slower and find no more: the messages of these parsers are small.
MAX_LEN = {"doc_load": 2048, "frame_decode": 512}

# The driven tier over real sockets, and the document with many replicas: where threads and memory are shared.
SANITIZED = ["drive", "host", "leaving", "syncing", "threads", "notebook_sync", "fuzz_replay"]
SANITIZERS = {"address": "__asan_", "thread": "__tsan_"}
"""Each with the prefix of its functions."""

# With their arguments. The thread sanitizer ends a process that starts threads in a forked child.
C_PROGRAMS = {
    "address": {
        "pure": ["{place}"],
        "smoke": ["{place}"],
        "lifetime": ["{library}", "{place}"],
        "fork": ["{place}"],
        "sigpipe": ["{place}"],
    },
    "thread": {"pure": ["{place}"], "smoke": ["{place}"], "lifetime": ["{library}", "{place}"], "sigpipe": ["{place}"]},
}

# What miri runs, as filters of unit tests. Without those that miri cannot run, or not in reasonable time:
# docs/fuzzing.md has the reason for each.
MIRI = ["wire::", "code::", "outputs::hash", "outputs::nbformat", "outputs::derive", "notebook::chunks", "notebook::op"]
MIRI_SKIPPED = [
    "big_frames_with_company",
    "a_writer_refuses",
    "every_cut_gives",
    "garbage_is_an_error",
    "reading_is_strict",
]


class Missing(Exception):
    """A tool that is not installed, with the command that installs it."""


def call(command, **environment):
    """Runs a command, shown first; returns its exit status."""
    shown = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    print("--", *shown, shlex.join(map(str, command)), flush=True)
    return subprocess.run([str(part) for part in command], cwd=CRATE, env={**os.environ, **environment}).returncode


def cargo(*arguments):
    """A command of the nightly toolchain's cargo."""
    return ["rustup", "run", TOOLCHAIN, "cargo", *arguments]


def answer(*command):
    """The output of a command; none if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def host():
    """The target triple of the nightly toolchain."""
    version = answer("rustup", "run", TOOLCHAIN, "rustc", "-vV")
    if version is None:
        raise Missing(f"nightly Rust: rustup toolchain install {TOOLCHAIN}")
    return re.search(r"^host: (.*)$", version, re.M).group(1)


def require_source():
    """The source of the standard library, for building it anew."""
    root = answer("rustup", "run", TOOLCHAIN, "rustc", "--print", "sysroot")
    if root is None or not (Path(root) / "lib/rustlib/src/rust/library").is_dir():
        raise Missing(f"rust-src: rustup component add rust-src --toolchain {TOOLCHAIN}")


# --- fuzzing


def fuzz(options):
    """Runs the targets one after the other; what they find stays in csrc/fuzz/crashers."""
    targets = sorted(path.stem for path in (FUZZ / "fuzz_targets").glob("*.rs"))
    build = build_for_edges(targets) if options.edges else build_with_everything(options.sanitizer)
    if build:
        return build
    # With counts and comparisons the corpus grows without end, and most of the time goes into looking after it.
    guidance = ["-keep_seed=1", "-entropic=0", "-use_counters=0", "-reduce_inputs=0"] if options.edges else []
    rows = []
    for target in options.target or targets:
        found = FUZZ / "target" / "found" / target
        found.mkdir(parents=True, exist_ok=True)
        length = options.max_len or MAX_LEN.get(target, 1024)
        limits = [f"-max_len={length}", "-timeout=20", "-rss_limit_mb=4096", "-malloc_limit_mb=256"]
        crashers = f"-artifact_prefix={FUZZ / 'crashers' / target}/"
        (FUZZ / "crashers" / target).mkdir(parents=True, exist_ok=True)
        seeds = FUZZ / "target" / "corpus" / target
        shutil.rmtree(seeds, ignore_errors=True)
        corpus.unpack(FUZZ / "corpus" / f"{target}.inputs", seeds)
        command = [program(target, options.edges), found, seeds, *limits, crashers]
        start = time.monotonic()
        status = call([*command, *guidance, f"-runs={options.runs}", "-print_final_stats=1", "-verbosity=1"])
        rows.append((target, "FAILED" if status else "ok", time.monotonic() - start))
    for target, state, seconds in rows:
        print(f"   {target:14} {state:8} {seconds:8.1f} s")
    return int(any(state == "FAILED" for _, state, _ in rows))


def build_with_everything(sanitizer):
    """Builds all targets as cargo-fuzz does: all crates report coverage and comparisons; returns the exit status."""
    host()
    if answer(*cargo("fuzz", "--version")) is None:
        raise Missing("cargo-fuzz: cargo install cargo-fuzz --locked")
    return call(cargo("fuzz", "build", "-O", "--fuzz-dir", FUZZ, "--sanitizer", sanitizer))


def build_for_edges(targets):
    """Builds all targets with coverage of our own crates only; returns the exit status."""
    return call(
        cargo("build", "--release", "--locked", "--manifest-path", FUZZ / "Cargo.toml", "--target", host()),
        CARGO_TARGET_DIR=str(EDGES),
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS="1",
        INSTRUMENTED=" ".join(["runtimed_ffi", "runtimed_ffi_fuzz", *targets]),
        RUSTC_WRAPPER=str(ROOT / "tools" / "instrument.sh"),
        RUSTFLAGS="--cfg fuzzing",
    )


def program(target, edges):
    """The program of a target."""
    return (EDGES if edges else FUZZ / "target") / host() / "release" / target


# --- sanitizers


def sanitize(options):
    """Runs Rust tests, and C programs, against a library with the address and with the thread sanitizer in it."""
    triple = host()
    status = 0
    if unknown := set(options.sanitizer) - set(SANITIZERS):
        print(f"unknown sanitizer: {', '.join(sorted(unknown))}; there are {', '.join(SANITIZERS)}")
        return 2
    for name in options.sanitizer or SANITIZERS:
        environment = {"RUSTFLAGS": f"-Zsanitizer={name}", "CARGO_TARGET_DIR": str(CRATE / "target" / name)}
        common = ["--locked", "--target", triple]
        if name == "thread":
            # Locks and channels of a standard library that the sanitizer does not see look like races.
            require_source()
            common.append("-Zbuild-std")
        tests = [argument for test in SANITIZED for argument in ("--test", test)]
        status |= call(cargo("test", "--no-fail-fast", *common, "--lib", *tests), **environment)
        status |= call(cargo("build", *common, "--lib"), **environment)
        status |= c_programs(name, triple, CRATE / "target" / name / triple / "debug")
    return status


def c_programs(name, triple, directory):
    """Compiles and runs the C programs of tests/c with a sanitizer in program and library."""
    if not shutil.which("clang"):
        print("skipped: C programs with the sanitized library: clang is not installed")
        return 0
    prefix, library = SANITIZERS[name], directory / "libruntimed_ffi.so"
    # A library that the compiler left as it is would pass too.
    if prefix not in (answer("nm", "--dynamic", "--undefined-only", library) or ""):
        print(f"FAILED: {library} does not call the {name} sanitizer")
        return 1
    # The library leaves its calls into the sanitizer open, and the program brings it: the one of Rust, for both.
    root = Path(answer("rustup", "run", TOOLCHAIN, "rustc", "--print", "sysroot"))
    runtime = root / f"lib/rustlib/{triple}/lib/librustc-{TOOLCHAIN.split('-')[0]}_rt.{prefix.strip('_')}.a"
    libraries = ["-Wl,--whole-archive", runtime, "-Wl,--no-whole-archive", "-Wl,--export-dynamic", "-lstdc++"]
    libraries += ["-lpthread", "-ldl", "-lm", "-lrt"]
    status = 0
    with tempfile.TemporaryDirectory(prefix="rtd-") as place:
        # Cargo's file has not the name that programs look for.
        (Path(place) / "libruntimed_ffi.so.0").symlink_to(library)
        # As needed: a program that loads the library by itself is not bound to it.
        libraries += ["-Wl,--as-needed", f"-L{directory}", "-lruntimed_ffi", f"-Wl,-rpath,{place}"]
        for program, arguments in C_PROGRAMS[name].items():
            binary = Path(place) / program
            source = ROOT / "tests" / "c" / f"{program}.c"
            flags = ["-std=c99", "-g", f"-fsanitize={name}", f"-I{CRATE / 'include'}"]
            failed = call(["clang", *flags, "-c", source, "-o", f"{binary}.o"])
            failed = failed or call(["clang", f"{binary}.o", *libraries, "-o", binary])
            failed = failed or call([binary, *(each.format(library=library, place=place) for each in arguments)])
            status |= failed
    return status


# --- miri


def miri(_options):
    """Runs unit tests of the pure tier in the interpreter that finds undefined behaviour."""
    host()
    if answer(*cargo("miri", "--version")) is None:
        raise Missing(f"miri: rustup component add miri rust-src --toolchain {TOOLCHAIN}")
    skipped = [argument for name in MIRI_SKIPPED for argument in ("--skip", name)]
    return call(cargo("miri", "test", "--locked", "--lib", "--", *MIRI, *skipped), MIRIFLAGS="-Zmiri-disable-isolation")


def main():
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("fuzz", help=fuzz.__doc__)
    command.add_argument("--runs", type=int, default=10_000_000, help="executions of each target")
    command.add_argument("--sanitizer", choices=["none", "address"], default="none")
    command.add_argument("--edges", action="store_true", help="only our own crates are instrumented: faster")
    command.add_argument("--max-len", type=int, help="bytes of an input; default: by target, up to 2048")
    command.add_argument("target", nargs="*", help="default: all")
    command.set_defaults(call=fuzz)
    command = commands.add_parser("sanitize", help=sanitize.__doc__)
    command.add_argument("sanitizer", nargs="*", help=f"{' or '.join(SANITIZERS)}; default: both")
    command.set_defaults(call=sanitize)
    command = commands.add_parser("miri", help=miri.__doc__)
    command.set_defaults(call=miri)
    options = parser.parse_args()
    try:
        return options.call(options)
    except Missing as missing:
        print(f"skipped: needs {missing}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
