//! Storey 4: live, shared notebooks behind a C ABI.
//!
//! Storeys, lowest first; a module uses only its own storey and the ones below (docs/architecture.md): 0 `code` ·
//! 1 `wire`, `outputs`, `replica` (pure), `notebook` and `settings` on `replica` · 2 `connection` (sans-IO) ·
//! 3 `drive` (the I/O thread) · 4 `abi` (the exported C functions).
//! `code` has the result codes and event kinds that all of them share.
#![deny(unsafe_code)]

pub mod abi;
pub mod code;
pub mod connection;
pub mod drive;
pub mod notebook;
pub mod outputs;
pub mod replica;
pub mod settings;
pub mod wire;
