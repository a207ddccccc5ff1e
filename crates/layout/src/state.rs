//! What a folder is found to be. Never a guess: what is not known for certain is refused.

use std::ffi::OsString;
use std::path::Path;

use crate::marker::{Marker, Top};
use crate::step::{Detection, Layouts, StepError};
use crate::{Exit, LayoutId};

/// What a folder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Missing, or nothing in it that counts.
    Empty,
    /// Complete at a layout that is known, and marked so.
    At(LayoutId),
    /// Of a layout from before there were markers, known by what it holds.
    Untagged(LayoutId),
    /// In a step that is known.
    Migrating {
        /// The layout that the step began at.
        from: LayoutId,
        /// The layout that it ends at.
        to: LayoutId,
    },
    /// Being made, at a layout that is known.
    Creating(LayoutId),
    /// A marker that this program does not know: a newer store, or a step of another release.
    Newer(Marker),
    /// More than one marker.
    TwoMarkers(Vec<Marker>),
    /// Something stands under a marker's name that is no file.
    Blocked(Vec<String>),
    /// Something else.
    Foreign(Foreign),
}

/// A folder that is not a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Some of the names in it.
    pub found: Vec<OsString>,
    /// How many names there are.
    pub count: u64,
    /// What it is instead and what to do, where that is known.
    pub hint: Option<String>,
}

impl State {
    /// Looks what `root` is. Changes nothing.
    pub fn look(root: &Path, layouts: &Layouts) -> Result<Self, StepError> {
        Self::look_assuming(root, layouts, None)
    }

    /// Looks, and takes a folder that is not empty and has no marker for what a person says that it is.
    pub fn look_assuming(
        root: &Path,
        layouts: &Layouts,
        assumed: Option<&LayoutId>,
    ) -> Result<Self, StepError> {
        let Some(top) = Top::read(root)? else { return Ok(Self::Empty) };
        if !top.blocked.is_empty() {
            return Ok(Self::Blocked(top.blocked));
        }
        match top.markers.as_slice() {
            [] => {}
            [Marker::At(layout)] if layouts.knows(layout) => return Ok(Self::At(layout.clone())),
            [Marker::Migrating { from, to }] if is_known_step(layouts, from, to) => {
                return Ok(Self::Migrating { from: from.clone(), to: to.clone() });
            }
            [Marker::Creating(layout)] if layouts.knows(layout) => return Ok(Self::Creating(layout.clone())),
            [unknown] => return Ok(Self::Newer(unknown.clone())),
            several => return Ok(Self::TwoMarkers(several.to_vec())),
        }
        if top.is_empty() {
            return Ok(Self::Empty);
        }
        if let Some(layout) = assumed.filter(|layout| !layouts.is_tagged(layout)) {
            return Ok(Self::Untagged(layout.clone()));
        }
        for detector in &layouts.detectors {
            match detector.detect(root)? {
                Detection::Yes => return Ok(Self::Untagged(detector.layout())),
                Detection::No => {}
                Detection::Refuse(hint) => return Ok(Self::Foreign(Foreign::of(top, Some(hint)))),
            }
        }
        Ok(Self::Foreign(Foreign::of(top, None)))
    }

    /// Is the marker of this state, where it has one.
    pub fn marker(&self) -> Option<Marker> {
        match self {
            Self::At(layout) => Some(Marker::At(layout.clone())),
            Self::Migrating { from, to } => Some(Marker::Migrating { from: from.clone(), to: to.clone() }),
            Self::Creating(layout) => Some(Marker::Creating(layout.clone())),
            Self::Newer(marker) => Some(marker.clone()),
            _ => None,
        }
    }

    /// Says why nothing may be done with a folder in this state, and the code that a program ends with.
    /// `None` if something may be done.
    pub fn refusal(&self, root: &Path, layouts: &Layouts) -> Option<(Exit, String)> {
        let (root, program) = (root.display(), &layouts.program);
        match self {
            Self::Empty | Self::At(_) | Self::Untagged(_) | Self::Migrating { .. } | Self::Creating(_) => {
                None
            }
            Self::Newer(marker) => Some((
                Exit::NEWER,
                format!(
                    "{root} is newer than this program: it holds {marker}, and {program} knows layouts up to {}; \
                     nothing was changed. Use the release that wrote it (the file {root}/{marker} names it) or a newer one",
                    layouts.current
                ),
            )),
            Self::TwoMarkers(markers) => {
                let names: Vec<String> = markers.iter().map(ToString::to_string).collect();
                Some((
                    Exit::NOT_A_STORE,
                    format!(
                        "{root} holds {} markers where there must be one: {}; nothing was changed. Find out which one \
                         tells the truth (a copy or a restored backup is the usual cause), and move the others out of \
                         {root}",
                        names.len(),
                        names.join(", ")
                    ),
                ))
            }
            Self::Blocked(names) => Some((
                Exit::NOT_A_STORE,
                format!(
                    "{root}: {} has the name of a marker and is not a file; nothing was changed. Move it away",
                    names.join(", ")
                ),
            )),
            Self::Foreign(foreign) => Some((Exit::NOT_A_STORE, foreign.message(&root.to_string()))),
        }
    }
}

impl Foreign {
    fn of(top: Top, hint: Option<String>) -> Self {
        Self { found: top.others, count: top.others_count, hint }
    }

    fn message(&self, root: &str) -> String {
        let names: Vec<String> = self.found.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let more = self.count.saturating_sub(names.len() as u64);
        let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let found = format!("it holds {}{and_more}", names.join(", "));
        match &self.hint {
            Some(hint) => format!("{root} is not a store: {found}. {hint}. Nothing was changed"),
            None => format!(
                "{root} is not a store: {found}, and no marker; nothing was changed. Name an empty or missing folder, \
                 or the store itself rather than a folder above or below it"
            ),
        }
    }
}

fn is_known_step(layouts: &Layouts, from: &LayoutId, to: &LayoutId) -> bool {
    if from == to { layouts.knows(from) } else { layouts.between(from, to).is_some() }
}
