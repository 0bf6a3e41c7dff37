//! Between libFuzzer and the bodies. A panic of the document engine that the library contains is no finding, so it
//! must not end the process; libFuzzer's own hook would do that.

use std::panic;
use std::process;
use std::sync::{Mutex, PoisonError};

/// The text of the last panic, printed if the library does not catch it.
static LAST: Mutex<String> = Mutex::new(String::new());

/// Keeps panics quiet until it is known that they are findings: printing a stack trace takes longer than most inputs.
pub fn quieten() {
    panic::set_hook(Box::new(|info| {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
}

/// Runs a body; a panic that leaves it is a finding and ends the process.
pub fn run(check: fn(&[u8]), data: &[u8]) {
    if panic::catch_unwind(|| check(data)).is_err() {
        eprintln!("{}", LAST.lock().unwrap_or_else(PoisonError::into_inner));
        process::abort();
    }
}
