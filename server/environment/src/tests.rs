//! The rooms of an environment, from pure to whole: frames over a pipe, the batcher's choices, and a whole room behind
//! an in-memory link with a model that runs when the test lets it.

mod batching;
mod deadlines;
mod framing;
mod rooms;
mod turns;
mod waiting;
