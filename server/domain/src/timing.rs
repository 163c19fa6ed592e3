//! Where the time of a request and of a batch went, stage by stage.

/// Durations in nanoseconds; a stage that did not happen is 0. `total` is measured at the door, so what is left after
/// subtracting the stages is the way there and back (front end, link).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StageTimes {
    /// Turning input into work: tokenization.
    pub prepare_ns: u64,
    /// From the end of preparation until a batch was formed with it.
    pub queue_ns: u64,
    /// Gathering the batch's inputs.
    pub compute_input_ns: u64,
    /// The model itself.
    pub compute_ns: u64,
    /// Scattering the batch's outputs.
    pub compute_output_ns: u64,
    /// From the parsed request to the answer, at the front end.
    pub total_ns: u64,
    /// Items in the batch (or, for a request spread over several, in the largest one).
    pub batch_items: u32,
}

/// A batch that has run. Durations in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BatchReport {
    /// Items in it.
    pub items: u32,
    /// Tokens in it, padding not counted; 0 if the function counts none.
    pub tokens: u64,
    /// Tokens computed, padding counted; 0 if the function counts none.
    pub padded_tokens: u64,
    /// Gathering its inputs.
    pub compute_input_ns: u64,
    /// The model itself.
    pub compute_ns: u64,
    /// Scattering its outputs.
    pub compute_output_ns: u64,
}

impl BatchReport {
    /// From its first input to its last output.
    pub fn total_ns(&self) -> u64 {
        self.compute_input_ns.saturating_add(self.compute_ns).saturating_add(self.compute_output_ns)
    }
}
