//! The fuzz targets as a library: their bodies, which plain tests use as well, and what libFuzzer needs around them.

pub mod driver;
pub mod targets;
