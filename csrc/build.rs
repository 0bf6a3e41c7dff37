//! Gives the shared library its name. Cargo sets none for a cdylib, and without one every program
//! linked against the library would remember the path it was linked from.

/// The number in the file name; equal to `RTD_ABI_MAJOR` (a packaging test compares them).
const ABI_MAJOR: u32 = 0;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let name = match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("macos") => format!("-Wl,-install_name,@rpath/libruntimed_ffi.{ABI_MAJOR}.dylib"),
        Ok("windows") => return,
        _ => format!("-Wl,-soname,libruntimed_ffi.so.{ABI_MAJOR}"),
    };
    println!("cargo:rustc-cdylib-link-arg={name}");
}
