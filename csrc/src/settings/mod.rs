//! Storey 1: the settings, a document that peers share (protocol 2, section 11.1).
//!
//! One noun a file: [`Settings`] (`document`), values of a document as JSON and back (`json`).

mod document;
mod json;

pub use document::Settings;
