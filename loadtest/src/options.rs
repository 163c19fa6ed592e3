//! What the command line says, and how it becomes a target, payloads and a fleet. Called by `main` only.

use crate::arrivals::Process;
use crate::clock::Clock;
use crate::drive::{Pace, Step};
use crate::fleet::{Fleet, FleetError};
use crate::payload::{Payloads, Shape, ShapeError};
use crate::target::{Target, TargetError};
use crate::words::{Lengths, LengthsError};
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Options that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The payload.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The lengths of texts.
    #[error(transparent)]
    Lengths(#[from] LengthsError),
    /// The connections.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A number out of its range.
    #[error("{name} is {found}: give {wanted}")]
    #[allow(missing_docs)]
    Range { name: &'static str, found: String, wanted: &'static str },
}

/// What each request carries.
#[derive(Args, Clone, Debug)]
pub struct RequestOptions {
    /// Model; `name:qualifier` names a version or an alias [default: identity, or minilm for texts]
    #[arg(long)]
    pub model: Option<String>,
    /// Bytes of the input tensor of one item
    #[arg(long, default_value_t = 16)]
    pub tensor_bytes: usize,
    /// Texts in place of a tensor: tokens each, or lognormal:MIN-MAX
    #[arg(long)]
    pub tokens: Option<String>,
    /// Items of a request
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Name of the input tensor [default: INPUT0; `text` for texts]
    #[arg(long)]
    pub input_name: Option<String>,
    /// Type of the input tensor
    #[arg(long, default_value = "FP32")]
    pub datatype: String,
    /// How long the server may take, in milliseconds: grpc-timeout, OIP's `timeout` on streams and HTTP, or
    /// x-penstock-timeout-ms
    #[arg(long)]
    pub deadline_ms: Option<u32>,
    /// Connections [default: 4 for gRPC; for HTTP, which carries one request at a time, --closed or 64]
    #[arg(long)]
    pub connections: Option<usize>,
    /// Seed of arrivals and texts
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl RequestOptions {
    fn shape(&self) -> Result<Shape, OptionsError> {
        let tokens = self.tokens.as_deref().map(str::parse::<Lengths>).transpose()?;
        let or = |given: &Option<String>, tensor: &str, text: &str| {
            given.clone().unwrap_or_else(|| if tokens.is_some() { text } else { tensor }.to_owned())
        };
        let wanted = "a number from 1";
        if self.batch == 0 {
            return Err(OptionsError::Range { name: "--batch", found: "0".into(), wanted });
        }
        Ok(Shape {
            model: or(&self.model, "identity", "minilm"),
            tensor_bytes: self.tensor_bytes,
            tokens,
            batch: self.batch,
            input: or(&self.input_name, "INPUT0", "text"),
            datatype: self.datatype.clone(),
            deadline_ms: self.deadline_ms,
            seed: self.seed,
        })
    }

    /// Connects to a target with requests prepared for it.
    pub fn open(&self, url: &str, closed: Option<usize>, clock: Clock) -> Result<(Fleet, Payloads), OptionsError> {
        let target = Target::parse(url)?;
        let payloads = Payloads::prepare(&target, &self.shape()?)?;
        let serial = if target.is_serial() { closed.unwrap_or(64) } else { closed.unwrap_or(4).min(4) };
        let connections = self.connections.unwrap_or(serial);
        if !(1..=4096).contains(&connections) {
            let wanted = "a number from 1 to 4096";
            return Err(OptionsError::Range { name: "--connections", found: connections.to_string(), wanted });
        }
        Ok((Fleet::open(&target, connections, self.deadline_ms, clock)?, payloads))
    }

    /// The settings in words, for the summary.
    pub fn describe(&self, payloads: &Payloads) -> Result<BTreeMap<String, String>, OptionsError> {
        let shape = self.shape()?;
        let mut words = BTreeMap::new();
        let mut put = |name: &str, value: String| words.insert(name.to_owned(), value);
        put("model", shape.model);
        put("batch", shape.batch.to_string());
        put("seed", shape.seed.to_string());
        put("request bytes, mean", format!("{:.0}", payloads.mean_bytes));
        match &self.tokens {
            Some(tokens) => put("tokens", format!("{tokens} (mean {:.1} a request)", payloads.mean_tokens)),
            None => put("tensor bytes", shape.tensor_bytes.to_string()),
        };
        if let Some(ms) = shape.deadline_ms {
            put("deadline ms", ms.to_string());
        }
        Ok(words)
    }
}

/// Options of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// grpc://HOST:PORT, grpc-stream://, http:// (tensors binary), http-json:// or embeddings://
    #[arg(long)]
    pub target: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub request: RequestOptions,
    /// Requests a second; several, comma-separated, make one step each
    #[arg(long, value_delimiter = ',', required_unless_present = "closed", conflicts_with = "closed")]
    pub rps: Vec<f64>,
    /// A closed loop with so many in flight in place of --rps; several, comma-separated, make one step each
    #[arg(long, value_delimiter = ',')]
    pub closed: Vec<usize>,
    /// How the gaps between requests are drawn
    #[arg(long, default_value = "poisson")]
    pub arrivals: Process,
    /// Length of each step
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Length of an unrecorded step before the first, at the first step's rate
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// The most requests in flight; beyond it a request is counted as not sent, and the run is marked
    #[arg(long, default_value_t = 4096)]
    pub max_in_flight: usize,
    /// How long to wait for the last answers of a step, in seconds
    #[arg(long, default_value_t = 5.0)]
    pub drain: f64,
    /// Goodput counts results within this many milliseconds [default: --deadline-ms]
    #[arg(long)]
    pub goodput_ms: Option<u32>,
    /// What to call the run in reports
    #[arg(long)]
    pub name: Option<String>,
    /// Write the summary here
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write every request here as CSV: intended, sent and done (microseconds), class, outcome, batch
    #[arg(long)]
    pub records: Option<PathBuf>,
}

impl RunOptions {
    /// The steps, the warm-up not among them.
    pub fn steps(&self) -> Result<Vec<Step>, OptionsError> {
        let range = |name, found: String, wanted| OptionsError::Range { name, found, wanted };
        let paces: Vec<Pace> = if self.closed.is_empty() {
            let seed = self.request.seed;
            self.rps.iter().map(|rps| Pace::Open { process: self.arrivals, rps: *rps, seed }).collect()
        } else {
            self.closed.iter().map(|in_flight| Pace::Closed { in_flight: *in_flight }).collect()
        };
        for pace in &paces {
            match pace {
                Pace::Open { rps, .. } if !(0.001..=10e6).contains(rps) => {
                    return Err(range("--rps", rps.to_string(), "a rate from 0.001 to 10000000"));
                }
                Pace::Closed { in_flight: 0 } => return Err(range("--closed", "0".into(), "a number from 1")),
                Pace::Open { .. } | Pace::Closed { .. } => {}
            }
        }
        let total = (self.seconds + self.drain) * paces.len() as f64 + self.warmup + self.drain;
        // Records hold microseconds in 32 bits.
        if !(self.seconds > 0.0 && self.warmup >= 0.0 && self.drain >= 0.0 && total < 4000.0) {
            return Err(range("--seconds, --warmup, --drain", format!("{total} in all"), "4000 s in all at the most"));
        }
        let step =
            |pace| Step { pace, seconds: self.seconds, max_in_flight: self.max_in_flight, drain_seconds: self.drain };
        Ok(paces.into_iter().map(step).collect())
    }

    /// The name of the run.
    pub fn title(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let model = self.request.model.as_deref();
            format!(
                "{} {}",
                self.target,
                model.unwrap_or(if self.request.tokens.is_some() { "minilm" } else { "identity" })
            )
        })
    }
}
