//! One self-contained HTML file from many summaries: no script, no font, nothing from the network.
//!
//! Called by `main`. Reads summaries of `run` and `compare` and those of ghz, and tells them apart by what is in them.

mod chart;
mod ghz;
mod page;
mod runs;

use crate::compare::Comparison;
use crate::summary::Summary;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A report that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// A file is no JSON, or not of the form its kind has.
    #[error("{0} is not a summary")]
    Form(PathBuf, #[source] serde_json::Error),
    /// A file of JSON that is none of the kinds known.
    #[error("{0} is neither a summary of penstock-loadtest nor one of ghz")]
    Kind(PathBuf),
}

/// What a file holds.
enum Document {
    Run(Box<Summary>),
    Compare(Box<Comparison>),
    Ghz(Box<ghz::GhzSummary>),
}

impl Document {
    fn parse(text: &str, path: &Path) -> Result<Self, ReportError> {
        let form = |error| ReportError::Form(path.to_owned(), error);
        let value: Value = serde_json::from_str(text).map_err(form)?;
        match value["kind"].as_str() {
            Some("penstock-loadtest run") => Ok(Self::Run(serde_json::from_value(value).map_err(form)?)),
            Some("penstock-loadtest compare") => Ok(Self::Compare(serde_json::from_value(value).map_err(form)?)),
            _ if value["options"]["call"].is_string() => {
                let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
                let mut summary: ghz::GhzSummary = serde_json::from_value(value).map_err(form)?;
                summary.name = summary.name.filter(|name| !name.is_empty()).or(Some(name));
                Ok(Self::Ghz(Box::new(summary)))
            }
            _ => Err(ReportError::Kind(path.to_owned())),
        }
    }
}

/// Reads the files and makes the page.
pub fn page(title: &str, files: &[PathBuf]) -> Result<String, ReportError> {
    let mut documents = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path).map_err(|error| ReportError::Read(path.clone(), error))?;
        documents.push(Document::parse(&text, path)?);
    }
    Ok(page::page(title, &documents))
}

#[cfg(test)]
mod tests;
