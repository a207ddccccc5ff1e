//! Brings the home of `tool_home` to a layout. Run by the gate, or by hand.
//!
//! All there is to it: arguments into [`Options`], events onto the terminal, the outcome into an exit code.
//! What it knows is in `../tool_home/layouts`; what it does is the engine's.

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
    /// The layout to bring it to, the current one if none is named.
    #[arg(long, value_name = "LAYOUT")]
    to: Option<LayoutId>,
    /// Says by hand what a home without a marker is.
    #[arg(long, value_name = "LAYOUT")]
    from: Option<LayoutId>,
    /// Only go up, and leave what is a person's decision to a person.
    #[arg(long)]
    auto: bool,
    /// Make no home where there is none.
    #[arg(long)]
    no_create: bool,
    /// Build the shims again even if nothing else is to be done.
    #[arg(long)]
    regenerate: bool,
    /// Say what would be done; write nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for those who use the home at an older layout.
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
        lock_timeout: Duration::from_secs_f64(args.lock_timeout),
        threads: 1,
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

/// Tells people what happens.
struct Terminal;

impl Events for Terminal {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Plan { root, creates, steps, .. } => {
                if let Some(layout) = creates {
                    say(&format!("{}: to be made at layout {layout}", root.display()));
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
            Event::Leftover(leftover) => {
                say(&format!("{} stays: {}", leftover.path.display(), leftover.reason));
            }
            Event::Warning(text) => say(&format!("warning: {text}")),
            Event::StepEnd { from, to, items, leftovers, .. } => {
                say(&format!("{from} to {to}: done, {items} moved, {leftovers} left"));
            }
            Event::Created(layout) => say(&format!("made at layout {layout}")),
            Event::Restored(layout) => say(&format!("restored the marker of layout {layout}")),
        }
    }
}

/// That nobody reads on must not stop the work.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1e9).contains(&value) { Ok(value) } else { Err("it takes a number of seconds".to_owned()) }
}
