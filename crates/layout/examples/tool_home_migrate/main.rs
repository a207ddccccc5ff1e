//! Brings the home of `tool_home` to a layout. Started by the gate or by hand.
//!
//! It turns arguments into [`Options`], events into lines, and the outcome into an exit code. The layouts are in
//! `../tool_home/layouts`, the work is done by the engine.

#[path = "../tool_home/layouts/mod.rs"]
mod layouts;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use stoa_layout::{Cancel, Event, Events, Exit, LayoutId, Options, Outcome, RunError, Runner};

#[derive(Parser)]
struct Args {
    /// The home.
    #[arg(long, env = "TOOL_HOME")]
    store: PathBuf,
    /// Target layout [default: the current layout]
    #[arg(long, value_name = "LAYOUT")]
    to: Option<LayoutId>,
    /// Layout of a home without a marker
    #[arg(long, value_name = "LAYOUT")]
    from: Option<LayoutId>,
    /// Upgrade only, and leave decisions to a person
    #[arg(long)]
    auto: bool,
    /// Do not create a home
    #[arg(long)]
    no_create: bool,
    /// Rebuild the shims, even if there is nothing else to do
    #[arg(long)]
    regenerate: bool,
    /// Show what would be done and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Maximum wait for programs that use the home at an older layout
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    lock_timeout: f64,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::USAGE } else { Exit::DONE };
            let _ = error.print();
            return exit.into();
        }
    };
    match run(args) {
        Ok(()) => Exit::DONE.into(),
        Err(error) => {
            say(&format!("tool_home_migrate: {error}"));
            error.exit().into()
        }
    }
}

fn run(args: Args) -> Result<(), RunError> {
    let cancel = Cancel::on_signals().unwrap_or_default();
    let options = Options {
        target: args.to,
        assumed: args.from,
        auto: args.auto,
        no_create: args.no_create,
        regenerate: args.regenerate,
        clean: false,
        lock_timeout: Duration::from_secs_f64(args.lock_timeout),
        ..Options::default()
    };
    let layouts = layouts::layouts();
    let runner = Runner {
        root: &args.store,
        layouts: &layouts,
        options: &options,
        events: &Terminal,
        cancel: &cancel,
    };
    if args.dry_run {
        return runner.plan().map(|pending| say(if pending { "pending" } else { "nothing to do" }));
    }
    match runner.run()? {
        Outcome::Nothing(layout) | Outcome::Done(layout) => {
            say(&format!("{} is at layout {layout}", args.store.display()));
        }
        Outcome::NoStore => say(&format!("{} holds no home", args.store.display())),
    }
    Ok(())
}

/// Prints the events.
struct Terminal;

impl Events for Terminal {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Plan { root, creates, steps, .. } => {
                if let Some(layout) = creates {
                    say(&format!("{}: to be created at layout {layout}", root.display()));
                }
                for step in steps {
                    let what = step.survey.as_ref().map(|survey| format!(": {} items", survey.items));
                    let (from, to, what) = (&step.from, &step.to, what.unwrap_or_default());
                    say(&format!("planned, {from} to {to}: {}{what}", step.description));
                }
            }
            Event::Waiting { holders } => {
                for holder in holders {
                    say(&format!("waiting for {holder}"));
                }
            }
            Event::StepBegin(step) => say(&format!("{} to {}: {}", step.from, step.to, step.description)),
            Event::Progress { .. } => {}
            Event::Check { .. } => {}
            Event::Leftover(leftover) => {
                say(&format!("{} stays: {}", leftover.path.display(), leftover.reason));
            }
            Event::Warning(text) => say(&format!("warning: {text}")),
            Event::StepEnd { from, to, items, leftovers, .. } => {
                say(&format!("{from} to {to}: done, {items} moved, {leftovers} left"));
            }
            Event::Remains { paths, .. } => {
                for path in paths {
                    say(&format!("{} stays", path.display()));
                }
            }
            Event::Created(layout) => say(&format!("created at layout {layout}")),
            Event::Restored(layout) => say(&format!("restored the marker of layout {layout}")),
        }
    }
}

/// Prints a line. A closed pipe must not stop the work.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1e9).contains(&value) { Ok(value) } else { Err("it takes a number of seconds".to_owned()) }
}
