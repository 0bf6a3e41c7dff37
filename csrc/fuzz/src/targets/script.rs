//! How bytes become the steps of a script, and a stream the pieces it arrives in.

/// Between two steps. No length in front of a step: what the fuzzer inserts or removes inside one then leaves the
/// others as they were.
const SEPARATOR: [u8; 2] = [0xfe, 0xff];

/// More steps than this are not taken: a script gets slow before it gets interesting.
const MOST_STEPS: usize = 16;

/// The first byte and what follows it; zero and nothing if there is none.
pub fn first(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// The steps of a script: a byte that says what is done, and what it is done with.
pub fn steps(data: &[u8]) -> Vec<(u8, &[u8])> {
    let mut steps = Vec::new();
    let mut rest = data;
    while !rest.is_empty() && steps.len() < MOST_STEPS {
        let end = rest.windows(2).position(|pair| pair == SEPARATOR);
        let (step, behind) = end.map_or((rest, &[][..]), |end| (&rest[..end], &rest[end + 2..]));
        steps.push(first(step));
        rest = behind;
    }
    steps
}

/// The pieces of a stream that was cut every `size` bytes; whole for zero.
pub fn pieces(stream: &[u8], size: u8) -> impl Iterator<Item = &[u8]> {
    let size = if size == 0 { stream.len().max(1) } else { size.into() };
    stream.chunks(size)
}
