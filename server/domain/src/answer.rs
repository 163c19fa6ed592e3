//! What goes back for an [`Invocation`](crate::Invocation) that was done.

use crate::{Parameters, StageTimes, Tensor, VersionNumber};

/// The outputs of one invocation, with where its time went.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The version that ran.
    pub version: VersionNumber,
    /// Output tensors, in the order asked for (or of the signature).
    pub outputs: Vec<Tensor>,
    /// Parameters of the answer, such as token counts.
    pub parameters: Parameters,
    /// Where the time went.
    pub timing: StageTimes,
}
