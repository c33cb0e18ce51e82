//! The second half of enforcing: seeing to it that what was put into the kernel is still there.

use super::{Reconciler, boot_time};
use crate::{backstop::Backstop, interference::Incident, status::unix_seconds};

impl Reconciler {
    /// Looks whether somebody interfered, repairs, and says so.
    pub(super) fn guard(&mut self) {
        let mut findings = self.datapath.watch();
        findings.extend(self.backstop.as_mut().map(Backstop::watch).unwrap_or_default());
        let now = boot_time() / 1_000_000_000;
        for incident in self.ledger.take(findings, now, unix_seconds()) {
            tell(&incident);
        }
        let report = self.ledger.report(now);
        if self.state.borrow().interference != report {
            self.state.send_modify(|state| std::sync::Arc::make_mut(state).interference = report);
        }
    }
}

/// One line for each incident; an error where it lasts.
fn tell(incident: &Incident) {
    let finding = &incident.finding;
    let (interface, hook) = (finding.interface.as_str(), finding.hook.as_str());
    let (fault, found, done) = (finding.fault.name(), finding.found.as_str(), finding.done.as_str());
    if finding.repaired {
        tracing::warn!(interface, hook, fault, found, done, "somebody interfered with enforcement");
    } else {
        tracing::error!(interface, hook, fault, found, done, "enforcement is interfered with");
    }
}
