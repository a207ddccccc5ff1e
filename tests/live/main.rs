//! Real clients and other proxies, the real ones: go, nginx, Athens, goproxy.
//!
//! Needs a go toolchain and the upstream that it is set up with.
//!
//! These tests are slow: run them with `cargo test --test live -- --include-ignored`.
#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking, and break stores by hand"
)]

mod bucket;
mod carry_go;
mod go_client;
mod go_readers;
mod peers;

fn main() {
    let modules = vec![
        ("bucket", testkit::slow(bucket::cases())),
        ("carry_go", testkit::slow(carry_go::cases())),
        ("go_readers", testkit::slow(go_readers::cases())),
        ("go_client", testkit::slow(go_client::cases())),
        ("peers", testkit::slow(peers::cases())),
    ];
    testkit::run(testkit::built!(), modules);
}
