//! Types of instances: what each has, and in which zones of the region it is offered. From EC2, kept in a file for a day.
//!
//! Made when the provider opens. What can be bought is told with prices that the caller has: EC2 says none.

use crate::api::Api;
use crate::api::error::ApiError;
use crate::api::query::Params;
use crate::api::xml::Element;
use crate::options::Ec2Options;
use penstock_scaler::{Architecture, InstanceType, Shape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// How long facts are taken from the file, in seconds.
pub(crate) const FRESH_S: i64 = 24 * 3600;
/// Types of a page, as many as EC2 gives.
const PAGE: u32 = 100;
/// Zones of types of a page, as many as EC2 gives.
const OFFERINGS_PAGE: u32 = 1000;
/// Most bytes of the file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What EC2 says about one type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TypeFacts {
    /// What it has. Devices are NVIDIA's GPUs: other accelerators are none that environments run on.
    pub shape: Shape,
    /// What its devices are called, such as `L4`.
    pub device: Option<String>,
    /// It can have an interface of the Elastic Fabric Adapter.
    pub efa: bool,
    /// Where it is offered.
    pub zones: Vec<String>,
}

/// All types of a region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Types {
    region: String,
    asked_unix_s: i64,
    types: BTreeMap<String, TypeFacts>,
}

/// What can be bought, with prices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offered {
    /// Types that have a price, and zones of ours where they are offered.
    pub types: Vec<InstanceType>,
    /// Names of those that may be bought and have no price: they are left out, unless there are none that have one.
    pub without_price: Vec<String>,
    /// None has a price, and those without are taken, with prices that only put them in order: by cores, memory and GPUs.
    pub is_guessed: bool,
}

impl Types {
    /// From the file, if it is of today, else from EC2. Errors: EC2 does not say, and there is no file, however old.
    pub(crate) async fn open(api: &Api, options: &Ec2Options) -> Result<Self, ApiError> {
        let kept = options.types_file.as_deref().and_then(|file| Self::read(file, &options.region));
        let age_s = |types: &Self| api.now_unix_s().saturating_sub(types.asked_unix_s);
        if let Some(types) = kept.as_ref().filter(|types| (0..FRESH_S).contains(&age_s(types))) {
            return Ok(types.clone());
        }
        match (Self::ask(api, options).await, kept) {
            (Ok(types), _) => {
                if let Some(Err(error)) = options.types_file.as_deref().map(|file| types.write(file)) {
                    tracing::warn!(%error, "facts of instance types cannot be kept (ec2.types_file)");
                }
                Ok(types)
            }
            (Err(error), Some(types)) => {
                tracing::warn!(%error, age_s = age_s(&types), "facts of instance types are those of the last time");
                Ok(types)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn ask(api: &Api, options: &Ec2Options) -> Result<Self, ApiError> {
        let params = Params::new()
            .with("MaxResults", PAGE)
            .filter(1, "processor-info.supported-architecture", ["x86_64", "arm64"])
            .filter(2, "supported-root-device-type", ["ebs"]);
        let pages = api.pages("DescribeInstanceTypes", params).await?;
        let mut types: BTreeMap<String, TypeFacts> =
            pages.iter().flat_map(|page| page.items("instanceTypeSet")).filter_map(facts).collect();
        let params = Params::new().with("MaxResults", OFFERINGS_PAGE).with("LocationType", "availability-zone");
        for page in api.pages("DescribeInstanceTypeOfferings", params).await? {
            for offering in page.items("instanceTypeOfferingSet") {
                let (name, zone) = (offering.text("instanceType"), offering.text("location"));
                if let Some((facts, zone)) = name.and_then(|name| types.get_mut(name)).zip(zone) {
                    facts.zones.push(zone.to_owned());
                }
            }
        }
        types.retain(|_, facts| !facts.zones.is_empty());
        types.values_mut().for_each(|facts| facts.zones.sort_unstable());
        Ok(Self { region: options.region.clone(), asked_unix_s: api.now_unix_s(), types })
    }

    fn read(file: &Path, region: &str) -> Option<Self> {
        use std::io::Read;
        let mut text = String::new();
        std::fs::File::open(file).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok().filter(|types: &Self| types.region == region)
    }

    fn write(&self, file: &Path) -> io::Result<()> {
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(new, file)
    }

    /// How old the facts are, in seconds.
    pub(crate) fn age_s(&self, now_unix_s: i64) -> i64 {
        now_unix_s.saturating_sub(self.asked_unix_s)
    }

    /// What is known of a type.
    pub fn get(&self, name: &str) -> Option<&TypeFacts> {
        self.types.get(name)
    }

    /// Cores of a type; 0 of one that is none of this region's.
    pub(crate) fn vcpu_of(&self, name: &str) -> u32 {
        self.get(name).map_or(0, |facts| facts.shape.vcpu)
    }

    /// How many types there are.
    pub fn count(&self) -> usize {
        self.types.len()
    }

    /// What can be bought in these zones, of types that may be.
    pub(crate) fn offered(
        &self,
        zones: &[String],
        prices: &BTreeMap<String, f64>,
        may_buy: impl Fn(&str, &TypeFacts) -> bool,
    ) -> Offered {
        let mut offered = Offered::default();
        let mut unpriced = Vec::new();
        for (name, facts) in &self.types {
            let here: Vec<String> = facts.zones.iter().filter(|zone| zones.contains(zone)).cloned().collect();
            if here.is_empty() || !may_buy(name, facts) {
                continue;
            }
            let of = |usd_per_hour| InstanceType { name: name.clone(), shape: facts.shape, usd_per_hour, zones: here };
            match prices.get(name) {
                Some(usd_per_hour) => offered.types.push(of(*usd_per_hour)),
                None => unpriced.push(of(in_order(&facts.shape))),
            }
        }
        offered.without_price = unpriced.iter().map(|one| one.name.clone()).collect();
        if offered.types.is_empty() && !unpriced.is_empty() {
            (offered.types, offered.is_guessed) = (unpriced, true);
        }
        offered
    }
}

/// No price: a number that grows with what a type has, so that the smallest that will do is taken.
fn in_order(shape: &Shape) -> f64 {
    let gib = |mib: u64| mib as f64 / 1024.0;
    let devices = f64::from(shape.devices) * gib(shape.device_memory_mib);
    0.03 * f64::from(shape.vcpu) + 0.003 * gib(shape.memory_mib) + 0.03 * devices
}

fn facts(item: &Element) -> Option<(String, TypeFacts)> {
    // The first Graviton lacks half-precision arithmetic, which the agent is built with.
    let name = item.text("instanceType").filter(|name| !name.starts_with("a1."))?.to_owned();
    let mut architectures = item.child("processorInfo").items("supportedArchitectures").map(Element::own_text);
    let architecture = architectures.find_map(Architecture::parse)?;
    let mut gpus = item.child("gpuInfo").items("gpus").filter(|gpu| gpu.text("manufacturer") == Some("NVIDIA"));
    let gpu = gpus.next();
    let memory = gpu.and_then(|gpu| gpu.child("memoryInfo").parsed::<u64>("sizeInMiB")).filter(|mib| *mib > 0);
    let shape = Shape {
        vcpu: item.child("vCpuInfo").parsed("defaultVCpus")?,
        memory_mib: item.child("memoryInfo").parsed("sizeInMiB")?,
        devices: memory.and(gpu).and_then(|gpu| gpu.parsed("count")).unwrap_or(0),
        device_memory_mib: memory.unwrap_or(0),
        architecture,
    };
    let device = gpu.filter(|_| shape.devices > 0).and_then(|gpu| gpu.text("name")).map(str::to_owned);
    let efa = item.child("networkInfo").text("efaSupported") == Some("true");
    Some((name, TypeFacts { shape, device, efa, zones: Vec::new() }))
}
