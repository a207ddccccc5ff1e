//! The real migrator on old stores.
fn main() {}
