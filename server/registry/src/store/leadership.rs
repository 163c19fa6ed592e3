//! Which server makes the changes, where several share a store.
//!
//! Told by the stores, followed by the control plane. Plain values.

/// Whether this server leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// It does: it alone changes the state.
    Held {
        /// Names this stretch of it: no other server and no other stretch ever has the same. See [`super::Commit::in_term`].
        term: u64,
    },
    /// It follows what another changes.
    Elsewhere {
        /// Where that one can be reached; `None` while there is none, or none is known.
        leader: Option<String>,
    },
}

impl Leadership {
    /// The term in which this server leads, if it does.
    pub fn term(&self) -> Option<u64> {
        match self {
            Leadership::Held { term } => Some(*term),
            Leadership::Elsewhere { .. } => None,
        }
    }
}
