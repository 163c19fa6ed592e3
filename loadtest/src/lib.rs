//! Load for a Penstock server, or for any that speaks the Open Inference Protocol: an open-loop generator, a bare echo
//! to compare with, and reports.
//!
//! The binary `penstock-loadtest` is the composition root. Nothing of the server is used here but the wire types, so
//! that what is measured is what a client sees.

pub mod arrivals;
pub mod clock;
pub mod compare;
pub mod drive;
pub mod echo;
pub mod fleet;
pub mod options;
pub mod payload;
pub mod record;
pub mod report;
pub mod summary;
pub mod table;
pub mod target;
pub mod timing;
pub mod wire;
pub mod words;
