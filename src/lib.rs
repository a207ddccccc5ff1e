//! Stoa: a Go module proxy whose store upgrades itself.
//!
//! The library holds what the two programs are made of; `src/main.rs` and `src/bin/stoa-migrate.rs` only
//! translate. Which layout is current and which steps there are is handed in as values, so a program with one
//! layout more runs the same code.

mod beside;
#[expect(dead_code, reason = "export moves to the reporter of the commands")]
mod carry;
pub mod cli;
pub mod command;
pub mod config;
mod export;
mod fetch;
pub mod fill;
mod go_env;
mod last_use;
mod listen;
mod logging;
pub mod migrate;
mod output;
mod parallel;
pub mod proxy;
mod prune;
mod quarantine;
pub mod serve;
mod sources;
mod stall_timeout;
mod startup;
pub mod status;
mod upkeep;
pub mod upstream;
mod verify;
mod work_options;
