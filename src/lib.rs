//! Stoa: a Go module proxy whose store upgrades itself.
//!
//! The library holds what the two programs are made of; `src/main.rs` and `src/bin/stoa-migrate.rs` only
//! translate. Which layout is current and which steps there are is handed in as values, so a program with one
//! layout more runs the same code.

mod absences;
pub mod access;
pub mod answers;
mod background;
pub mod bucket;
mod byte_budget;
pub mod command;
pub mod config;
pub mod eviction;
pub mod fill;
mod go_env;
mod last_use;
mod lock;
mod logging;
pub mod meters;
pub mod migrate;
mod observe;
pub mod policy;
pub mod proxy;
#[expect(dead_code, reason = "the log of requests and the metrics will read it")]
mod request;
mod sending;
pub mod server;
pub mod services;
mod sources;
pub mod sumdb;
pub mod sync;
mod tasks;
pub mod unavailable;
mod upkeep;
pub mod upstream;
mod words;
