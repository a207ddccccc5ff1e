use stoa_layout::{Exit, Gate, Pass};
use crate::cli::Failure;
use crate::config::ServeConfig;
pub(crate) fn run(gate: &Gate<'_>, pass: Pass, config: &ServeConfig) -> Result<Exit, Failure> {
    let _ = (gate, pass, config);
    Ok(Exit::DONE)
}
