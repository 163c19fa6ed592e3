//! Reads configuration files and prints, for each, one line: `ok HEX JSON` with the encoded message and the same
//! content as JSON, or `error MESSAGE`. Files whose name ends in `.json` are read as JSON, others as text format.
//!
//! Called by tests/repository, which compares with another reader of the same formats.

use penstock_repository::{config_json, json::parse_config_json, text_format};
use prost::Message;
use std::fmt::Write;

fn main() {
    for path in std::env::args().skip(1) {
        let read = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"));
        let config = read.and_then(|text| {
            if path.ends_with(".json") {
                parse_config_json(&text).map(|document| document.config).map_err(|error| error.to_string())
            } else {
                text_format::parse(&path, &text).map_err(|error| error.to_string())
            }
        });
        match config {
            Ok(config) => {
                let hex = config.encode_to_vec().iter().fold(String::new(), |mut hex, byte| {
                    let _infallible = write!(hex, "{byte:02x}");
                    hex
                });
                println!("ok {hex} {}", config_json(&config));
            }
            Err(error) => println!("error {error}"),
        }
    }
}
