#![no_main]

use runtimed_ffi_fuzz::{driver, targets};

libfuzzer_sys::fuzz_target!(init: driver::quieten(), |data: &[u8]| driver::run(targets::message::check, data));
