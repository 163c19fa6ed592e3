//! Reads configuration files and prints, for each, one line: `ok HEX` with the encoded message, or `error MESSAGE`.
//!
//! Called by tests/repository, which compares with another reader of the same format.

use prost::Message;
use std::fmt::Write;

fn main() {
    for path in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                println!("error {path}: {error}");
                continue;
            }
        };
        match penstock_registry::text_format::parse(&path, &text) {
            Ok(config) => {
                let hex = config.encode_to_vec().iter().fold(String::new(), |mut hex, byte| {
                    let _infallible = write!(hex, "{byte:02x}");
                    hex
                });
                println!("ok {hex}");
            }
            Err(error) => println!("error {error}"),
        }
    }
}
