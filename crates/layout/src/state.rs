//! The state of a folder. It is never a guess: a folder that is not recognised for certain is refused.

use std::ffi::OsString;
use std::path::Path;

use crate::marker::{Marker, MarkersError, Top};
use crate::step::{Detection, Layouts, StepError};
use crate::{Exit, LayoutId};

/// The state of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The folder is missing or empty.
    Empty,
    /// A complete store at a known layout, with its marker.
    At(LayoutId),
    /// A store at a layout without markers, recognised by its content.
    Untagged(LayoutId),
    /// A store whose content is of this layout and whose marker is lost.
    MarkerLost {
        /// The layout.
        layout: LayoutId,
        /// Whether a person named the layout. Without that the store is refused.
        is_confirmed: bool,
    },
    /// A store in a known step.
    Migrating {
        /// The layout at which the step began.
        from: LayoutId,
        /// The layout at which it ends.
        to: LayoutId,
    },
    /// A store that is being created at a known layout.
    Creating(LayoutId),
    /// A store with an unknown marker: of a newer layout, or in a step of another release.
    Newer(Marker),
    /// A folder with more than one marker.
    TwoMarkers(Vec<Marker>),
    /// A folder in which the name of a marker is not a file.
    Blocked(Vec<String>),
    /// Any other folder.
    Foreign(Foreign),
}

/// A folder that is not a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Some of the names in it.
    pub found: Vec<OsString>,
    /// The number of names in it.
    pub count: u64,
    /// The kind of the folder and the next thing to do, if known.
    pub hint: Option<String>,
}

impl State {
    /// Returns the state of `root`. Changes nothing.
    pub fn look(root: &Path, layouts: &Layouts) -> Result<Self, StepError> {
        Self::look_assuming(root, layouts, None)
    }

    /// Returns the state of `root`. A folder that is not empty and has no marker counts as a store at the layout
    /// `assumed`, which a person has named.
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
        // Before the detectors: a leftover of an older layout must not make this store an older one.
        for known in &layouts.unmarked {
            let layout = known.layout();
            if known.recognises(root)? {
                let is_confirmed = assumed == Some(&layout);
                return Ok(Self::MarkerLost { layout, is_confirmed });
            }
            if assumed == Some(&layout) {
                let hint =
                    format!("its content is not of layout {layout}; run again without --from {layout}");
                return Ok(Self::Foreign(Foreign::of(top, Some(hint))));
            }
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

    /// Returns the marker of this state, if it has one.
    pub fn marker(&self) -> Option<Marker> {
        match self {
            Self::At(layout) => Some(Marker::At(layout.clone())),
            Self::Migrating { from, to } => Some(Marker::Migrating { from: from.clone(), to: to.clone() }),
            Self::Creating(layout) => Some(Marker::Creating(layout.clone())),
            Self::Newer(marker) => Some(marker.clone()),
            _ => None,
        }
    }

    /// Returns the exit code and the message for a folder that must not be used. `None` if it may be used.
    pub fn refusal(&self, folder: &Path, layouts: &Layouts) -> Option<(Exit, String)> {
        let (root, program) = (folder.display(), &layouts.program);
        match self {
            Self::Empty
            | Self::At(_)
            | Self::Untagged(_)
            | Self::MarkerLost { is_confirmed: true, .. }
            | Self::Migrating { .. }
            | Self::Creating(_) => None,
            Self::MarkerLost { layout, .. } => Some((
                Exit::NOT_A_STORE,
                format!(
                    "cannot use {root}: it is a store at layout {layout} without its marker {}; nothing was changed\n\
                     help: check its structure and restore the marker with `{} --store {root} --from {layout}`",
                    Marker::At(layout.clone()),
                    layouts.program_name(),
                ),
            )),
            Self::Newer(marker) => Some((
                Exit::NEWER,
                format!(
                    "cannot use {root}: it is newer than this program; nothing was changed. It has the marker {marker}, \
                     and {program} knows layouts up to {}\n\
                     help: use the release that wrote it (see the file {root}/{marker}) or a newer release",
                    layouts.current
                ),
            )),
            Self::TwoMarkers(markers) => {
                let error = MarkersError::Several { root: folder.to_owned(), markers: markers.clone() };
                Some((Exit::NOT_A_STORE, error.to_string()))
            }
            Self::Blocked(names) => {
                let error = MarkersError::Blocked { root: folder.to_owned(), names: names.clone() };
                Some((Exit::NOT_A_STORE, error.to_string()))
            }
            Self::Foreign(foreign) => {
                let marker = Marker::At(layouts.current.clone());
                Some((Exit::NOT_A_STORE, foreign.message(&root.to_string(), &marker)))
            }
        }
    }
}

impl Foreign {
    fn of(top: Top, hint: Option<String>) -> Self {
        Self { found: top.others, count: top.others_count, hint }
    }

    fn message(&self, root: &str, marker: &Marker) -> String {
        let names: Vec<String> = self.found.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let more = self.count.saturating_sub(names.len() as u64);
        let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let found = format!("it contains {}{and_more}", names.join(", "));
        match &self.hint {
            Some(hint) => format!("{root} is not a store: {found}; nothing was changed\nhelp: {hint}"),
            None => format!(
                "{root} is not a store: {found}, but no marker such as {marker}; nothing was changed\n\
                 help: use the folder of the store itself, not a folder above or below it; for a new store, use an empty or missing folder"
            ),
        }
    }
}

fn is_known_step(layouts: &Layouts, from: &LayoutId, to: &LayoutId) -> bool {
    if from == to { layouts.knows(from) } else { layouts.between(from, to).is_some() }
}
