//! The protocol over real sockets: `stoa::serve` in this process, and a loopback upstream that does what a
//! test tells it to.

#![expect(clippy::disallowed_methods, reason = "tests break stores by hand")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this is a test from end to end, helpers included"
)]

mod absences;
mod answers;
mod checksums;
mod compression;
mod continued;
mod endpoints;
mod fills;
mod hostile;
mod limits;
mod peers;
mod questions;
mod redirects;
mod resolving;
mod site;
mod slow;
mod stopping;
mod upstream_client;
mod via;
mod wrong_zips;
