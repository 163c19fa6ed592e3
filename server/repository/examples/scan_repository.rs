//! Reads model repositories and prints what would be served, and why the rest would not.
//!
//! Called by hand: `cargo run -p penstock-repository --example scan_repository -- DIR…`

use std::path::PathBuf;

fn main() {
    let repositories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let scan = match penstock_repository::scan(&repositories) {
        Ok(scan) => scan,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    for function in &scan.functions {
        for version in &function.versions {
            println!("{} {} {} {:?}", function.name, version.number, version.revision, version.runtime);
            version.linked_paths.iter().for_each(|path| println!("  linked: {}", path.display()));
        }
        for version in &function.unavailable_versions {
            println!("{} {} unavailable: {}", function.name, version.number, version.reason);
        }
        if let Some(reason) = &function.unavailable {
            println!("{} unavailable: {reason}", function.name);
        }
    }
    for rejected in &scan.rejected {
        println!("{} rejected: {}", rejected.path.display(), rejected.reason);
    }
}
