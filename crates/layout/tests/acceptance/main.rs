//! Acceptance tests of the engine, with the layouts of `examples/tool_home`.
//!
//! They run in the process if the test must stop the work at a certain place, and with the real programs if processes matter.
//! `../kill_sweep.rs` tests kills.
#![expect(clippy::disallowed_methods, reason = "tests make folders of their own")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod artefacts;
mod creating;
mod gate;
mod history;
mod locks;
mod random;
mod run;
mod states;
mod turning;

#[path = "../../examples/tool_home/layouts/mod.rs"]
mod layouts;
#[path = "../support/mod.rs"]
mod support;
