//! A hold of a running server, for a new configuration.

use std::sync::{Arc, OnceLock, Weak};

use crate::policy::Policy;
use crate::services::Services;

/// A hold of a server, from its start on.
#[derive(Debug, Clone, Default)]
pub struct Handle(Arc<OnceLock<Weak<Services>>>);

impl Handle {
    /// Notes the services of a server that has started.
    pub(super) fn started(&self, services: &Arc<Services>) {
        // A handle belongs to one server.
        let _ = self.0.set(Arc::downgrade(services));
    }

    /// Replaces the rules about modules. Requests under way keep the earlier ones.
    pub fn replace_policy(&self, policy: Policy) {
        if let Some(services) = self.0.get().and_then(Weak::upgrade) {
            services.replace_policy(policy);
        }
    }
}
