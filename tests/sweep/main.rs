//! The real programs, killed at every system call that changes the store, and with each of these calls failing.
//!
//! These tests are slow: run them with `cargo test --test sweep -- --include-ignored`.
#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking, and break stores by hand"
)]

mod answers;
mod carry;
mod check;
mod migrate;
mod peers;
mod removal;
mod store;

fn main() {
    let modules = vec![
        ("answers", testkit::slow(answers::cases())),
        ("carry", testkit::slow(carry::cases())),
        ("check", testkit::slow(check::cases())),
        ("migrate", testkit::slow(migrate::cases())),
        ("peers", testkit::slow(peers::cases())),
        ("removal", testkit::slow(removal::cases())),
        ("store", testkit::slow(store::cases())),
    ];
    testkit::run(testkit::built!(), modules);
}
