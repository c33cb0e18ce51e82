//! The series of scans: who tried many ports or targets lately. There are as many as sources that were denied
//! something in the last ten minutes, which `events::scans` bounds.

use std::collections::BTreeMap;

use agent_common::identity::{HOST, UNMANAGED, WORLD};

use super::labels;
use crate::{events::scans::Scan, state::AgentState};

/// Project and service of a source, with the most that a source of that name tried. Those that are no service are
/// there from the start.
pub(super) fn by_source(scans: &BTreeMap<u32, Scan>, state: &AgentState) -> BTreeMap<[String; 2], Scan> {
    let mut series = BTreeMap::<[String; 2], Scan>::new();
    let always = [HOST, WORLD, UNMANAGED].map(|identity| (identity, Scan::default()));
    for (identity, scan) in always.into_iter().chain(scans.iter().map(|(&identity, &scan)| (identity, scan)))
    {
        let project = state.identity_names(identity).map_or(labels::NONE, |(instance, _)| instance);
        let source = labels::party(identity, project, state);
        let most = series.entry([project.to_owned(), source]).or_default();
        *most = most.max(scan);
    }
    series
}
