//! Machine images: from parameters of SSM to ids, and what a volume of each has to be.
//!
//! Called by the provider before each order. What a parameter says is believed for an hour: new instances get the newer image.

use crate::api::Api;
use crate::api::error::{ApiError, Fault};
use crate::api::query::Params;
use crate::options::Image;
use crate::options::said;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long an image is believed to be the one that is meant.
const FRESH: Duration = Duration::from_secs(3600);

/// One machine image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    pub(crate) id: String,
    /// Such as `/dev/xvda`.
    pub(crate) root_device: String,
    /// The least that its root volume may be, in GiB.
    pub(crate) volume_gib: u32,
}

/// Images that are known.
#[derive(Default)]
pub(crate) struct KnownImages(Mutex<BTreeMap<Image, (Instant, ImageFacts)>>);

impl KnownImages {
    /// What is meant by it now. Errors: there is no such parameter or image.
    pub(crate) async fn find(&self, api: &Api, image: &Image) -> Result<ImageFacts, ApiError> {
        let known = self.0.lock().get(image).cloned();
        if let Some((_, facts)) = known.as_ref().filter(|(since, _)| since.elapsed() < FRESH) {
            return Ok(facts.clone());
        }
        match (ask(api, image).await, known) {
            (Ok(facts), _) => {
                self.0.lock().insert(image.clone(), (Instant::now(), facts.clone()));
                Ok(facts)
            }
            (Err(error), Some((_, facts))) if error.fault != Fault::NotFound => {
                tracing::warn!(%error, image = facts.id, "the machine image is the one of the last time");
                Ok(facts)
            }
            (Err(error), _) => Err(error),
        }
    }
}

async fn ask(api: &Api, image: &Image) -> Result<ImageFacts, ApiError> {
    let id = match image {
        Image::Id(id) => id.clone(),
        Image::Parameter(name) => api.parameter(name).await.map_err(|mut error| {
            error.message = format!("{}: {name}: {}", said("images"), error.message);
            error
        })?,
    };
    let answer = api.ec2("DescribeImages", Params::new().list("ImageId", [&id])).await?;
    let found = answer.items("imagesSet").next().ok_or_else(|| {
        let text = format!(
            "{}: {id} is not there; expected an image that this account may use in this region",
            said("images")
        );
        ApiError::new("EC2 DescribeImages", Fault::NotFound, text)
    })?;
    let root_device = found.text("rootDeviceName").unwrap_or("/dev/xvda").to_owned();
    let mut devices = found.items("blockDeviceMapping");
    let root = devices.find(|device| device.text("deviceName") == Some(&root_device));
    let volume_gib = root.and_then(|root| root.child("ebs").parsed("volumeSize")).unwrap_or(1);
    Ok(ImageFacts { id, root_device, volume_gib })
}
