//! Versioned directory layouts: a folder on disk whose layout is known by the name of one marker file, and
//! the machinery that brings such a folder from one layout to the next, and back.
//!
//! Nothing in here knows what the folder holds. A tool hands in a [`Layouts`] value: its current layout, the
//! [`Step`]s between layouts, how to [`Detect`] folders from before there were markers, and the [`Artefact`]s
//! that are derived from the rest. `examples/tool_home` does so for a tool manager.
//!
//! Two principles hold everywhere:
//!
//! 1. What others rely on becomes visible by one atomic operation, and that operation is the last.
//! 2. What a step did is known from the tree itself, never from a list kept aside. So a step may be
//!    interrupted at any instant, run again, or be turned around.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`marker`] | the file whose name is the state of the folder |
//! | [`lock`] | who may read and who may write |
//! | [`state`] | what a folder is found to be |
//! | [`step`] | what a tool says about one step, and about what is derived |
//! | [`inventory`] | what lies in a folder: what is whole, and what is left over |
//! | [`runner`] | surveys, begins, applies, checks, ends; waits its turn |
//! | [`gate`] | the one check a tool makes at every start |
//! | [`durable`] | the one place that writes to the disk |

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests make folders of their own"))]

pub mod durable;
pub mod error;
pub mod events;
pub mod exit;
pub mod gate;
pub mod id;
pub mod inventory;
pub mod lock;
pub mod marker;
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
pub use runner::{Options, Outcome, RunError, Runner};
pub use signals::Cancel;
pub use state::State;
pub use step::{Artefact, Context, Detect, Detection, Direction, Layouts, Moved, Step, StepError, Survey};
