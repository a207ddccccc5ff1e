//! Versioned directory layouts: folders whose layout is the name of one marker file, and an engine that upgrades
//! and downgrades such a folder from layout to layout.
//!
//! The engine does not know what the folder contains. A tool passes a [`Layouts`] value: its current layout, the
//! [`Step`]s between layouts, how to [`Detect`] folders without a marker, and the [`Artefact`]s that are derived from
//! the rest. `examples/tool_home` does so for a tool manager.
//!
//! Two principles hold everywhere:
//!
//! 1. Other programs rely only on what one atomic operation made visible, and that operation is the last one.
//! 2. The tree itself shows what a step has done; there is no separate list. A step may therefore be interrupted at
//!    any instant, run again, or be reversed.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`marker`] | the file whose name is the state of the folder |
//! | [`lock`] | the lock that readers share and writers hold alone |
//! | [`state`] | the state of a folder |
//! | [`step`] | the values that describe a tool's layouts |
//! | [`plan`] | the steps to take, and what stands in their way |
//! | [`inventory`] | the content of a folder: whole items and leftovers |
//! | [`runner`] | takes the steps, one after the other |
//! | [`gate`] | the check that a tool makes at every start |
//! | [`durable`] | all writes to the disk |
//! | [`parallel`] | work on many items with several threads |

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests make folders of their own"))]

pub mod clock;
pub mod durable;
pub mod error;
pub mod events;
pub mod exit;
pub mod gate;
pub mod id;
pub mod inventory;
pub mod lock;
pub mod marker;
pub mod parallel;
pub mod plan;
pub mod runner;
pub mod signals;
pub mod state;
pub mod step;

pub use durable::Durable;
pub use error::PathError;
pub use events::{Event, Events, Leftover};
pub use exit::Exit;
pub use gate::{Gate, Held, Migrator, Pass};
pub use id::LayoutId;
pub use inventory::{Inventory, Source};
pub use lock::{ExclusiveLock, SharedLock};
pub use plan::{Direction, Survey};
pub use runner::{Options, Outcome, RunError, Runner};
pub use signals::Cancel;
pub use state::State;
pub use step::{Artefact, Context, Detect, Detection, Layouts, Moved, Step, StepError, Unmarked};
