//! An execution environment on a GPU: the plain one's loop, with runtimes that are built with CUDA.
//!
//! Started by `penstock serve` on descriptor 0, where a version is placed on a GPU. It sees one device, by
//! `CUDA_VISIBLE_DEVICES`. Never started by people.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    penstock_runtimes::environment()
}
