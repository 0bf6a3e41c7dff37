//! Live, shared notebooks behind a C ABI.
//!
//! Storeys, lowest first; a module uses only its own storey and the ones below:
//! 1 `wire`, `notebook`, `outputs` (pure) · 2 `connection` (sans-IO) ·
//! 3 `drive` (the I/O thread) · 4 `abi` (the exported C functions).

pub mod notebook;
pub mod outputs;
