//! Where functions, versions and providers stand, and where they may go from there.
//!
//! Called by the control plane at each change. Pure.

use serde::{Deserialize, Serialize};

/// Where a function or a version stands, by Lambda's names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum State {
    /// Being made: environments of a version are starting.
    Pending,
    /// Serves.
    Active,
    /// It did not come up.
    Failed,
    /// Its environments are ending, because its scaling is 0 to 0.
    Deactivating,
    /// It has no environments, and wants none.
    Deactivated,
    /// `$LATEST` of every function: complete, and never run.
    ActiveNonInvocable,
    /// On its way out.
    Deleting,
}

impl State {
    /// All of them.
    pub const ALL: [State; 7] = [
        State::Pending,
        State::Active,
        State::Failed,
        State::Deactivating,
        State::Deactivated,
        State::ActiveNonInvocable,
        State::Deleting,
    ];

    /// Whether the one may follow the other. Whatever stands may be deleted; what is being deleted stays so.
    pub fn may_become(self, next: State) -> bool {
        use State::*;
        match (self, next) {
            (Deleting, _) => false,
            (_, Deleting) => true,
            (Pending, Active | Failed | ActiveNonInvocable | Deactivating) => true,
            (Active, Deactivating) => true,
            (Deactivating, Deactivated | Pending) => true,
            (Deactivated | Failed, Pending) => true,
            _ => false,
        }
    }

    /// Lambda's name.
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "Pending",
            State::Active => "Active",
            State::Failed => "Failed",
            State::Deactivating => "Deactivating",
            State::Deactivated => "Deactivated",
            State::ActiveNonInvocable => "ActiveNonInvocable",
            State::Deleting => "Deleting",
        }
    }
}

/// How the last update of a function or of a version ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum UpdateStatus {
    /// It holds.
    Successful,
    /// What was before goes on.
    Failed,
    /// What was before goes on until it is known.
    InProgress,
}

/// Why something is not as asked: one of Lambda's codes, and words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// One of Lambda's `StateReasonCode`s.
    pub code: String,
    /// In words.
    pub text: String,
}

impl Reason {
    /// A code with words.
    pub fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into() }
    }

    /// What everything begins with.
    pub fn creating() -> Self {
        Self::new("Creating", "The function is being created.")
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn what_may_follow_what() {
        use State::*;
        for state in State::ALL {
            assert_eq!(state.may_become(Deleting), state != Deleting, "{state:?}");
            assert!(!Deleting.may_become(state));
            assert!(!state.may_become(state));
        }
        // A version's whole life; no way leads from serving back to being made but through deactivation.
        let life = [Pending, Active, Deactivating, Deactivated, Pending, Failed, Pending, Active, Deleting];
        assert!(life.windows(2).all(|step| step[0].may_become(step[1])));
        assert!(!Active.may_become(Pending) && !Active.may_become(Failed) && !Failed.may_become(Active));
        assert!(!ActiveNonInvocable.may_become(Active), "$LATEST never serves");
    }
}
