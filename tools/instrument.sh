#!/bin/sh
# Stands before rustc for `make fuzz FUZZ_ARGS=--edges`: the crates named in INSTRUMENTED report to the fuzzer which edges
# they run through, all others stay as fast as they are.
for argument; do
    if [ "$previous" = --crate-name ]; then crate=$argument; fi
    previous=$argument
done
case " $INSTRUMENTED " in
*" $crate "*)
    set -- "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    ;;
esac
exec "$@"
