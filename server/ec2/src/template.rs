//! Launch templates: what is the same for all instances of the fleet. One for each content, named by its hash.
//!
//! Called by the provider before each order. A template has no secrets: what agents are told goes with the order. Those of the
//! fleet that nobody has used for an hour are deleted.

use crate::api::Api;
use crate::api::error::{ApiError, Fault};
use crate::api::query::Params;
use crate::images::ImageFacts;
use crate::options::Ec2Options;
use crate::{FLEET_TAG, tags};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long a template may be unused.
const UNUSED: Duration = Duration::from_secs(3600);

struct Template {
    id: String,
    used: Instant,
}

/// Templates of the fleet, by name.
#[derive(Default)]
pub(crate) struct Templates(Mutex<BTreeMap<String, Template>>);

impl Templates {
    /// Takes over those that are there.
    pub(crate) async fn adopt(&self, api: &Api, options: &Ec2Options) -> Result<(), ApiError> {
        let params = Params::new().filter(1, &format!("tag:{FLEET_TAG}"), [&options.fleet]);
        for page in api.pages("DescribeLaunchTemplates", params).await? {
            for item in page.items("launchTemplates") {
                if let Some((name, id)) = item.text("launchTemplateName").zip(item.text("launchTemplateId")) {
                    let template = Template { id: id.to_owned(), used: Instant::now() };
                    self.0.lock().insert(name.to_owned(), template);
                }
            }
        }
        Ok(())
    }

    /// The id of the template for such instances; it is made, with these tags, if there is none.
    pub(crate) async fn find(
        &self,
        api: &Api,
        options: &Ec2Options,
        (image, efa): (&ImageFacts, bool),
        tags: &[(String, String)],
    ) -> Result<String, ApiError> {
        let content = content(options, image, efa);
        let name = name(&options.fleet, &content);
        if let Some(template) = self.0.lock().get_mut(&name) {
            template.used = Instant::now();
            return Ok(template.id.clone());
        }
        let params = tags::specification(content, 1, "launch-template", tags);
        let params = params.with("LaunchTemplateName", &name);
        // Without a client token: one of before would be answered with a template that was deleted since. Its name is there once.
        let id = match api.ec2("CreateLaunchTemplate", params).await {
            Ok(answer) => answer.child("launchTemplate").text("launchTemplateId").map(str::to_owned),
            Err(error) if error.code == "InvalidLaunchTemplateName.AlreadyExistsException" => {
                let answer = api
                    .ec2_of_new("DescribeLaunchTemplates", Params::new().list("LaunchTemplateName", [&name]))
                    .await?;
                answer.items("launchTemplates").find_map(|item| item.text("launchTemplateId")).map(str::to_owned)
            }
            Err(error) => return Err(error),
        };
        let missing = || ApiError::new("EC2 CreateLaunchTemplate", Fault::Wrong, "an answer without a template's id");
        let id = id.ok_or_else(missing)?;
        self.0.lock().insert(name, Template { id: id.clone(), used: Instant::now() });
        Ok(id)
    }

    /// They are not there any more: they are made anew.
    pub(crate) fn forget(&self) {
        self.0.lock().clear();
    }

    /// Deletes those that nobody has used for long.
    pub(crate) async fn sweep(&self, api: &Api) {
        let unused: Vec<(String, String)> = {
            let known = self.0.lock();
            let unused = known.iter().filter(|(_, template)| template.used.elapsed() > UNUSED);
            unused.map(|(name, template)| (name.clone(), template.id.clone())).collect()
        };
        for (name, id) in unused {
            match api.ec2("DeleteLaunchTemplate", Params::new().with("LaunchTemplateId", &id)).await {
                Err(error) if error.fault != Fault::NotFound => {
                    tracing::warn!(%error, template = name, "a launch template is left")
                }
                _ => drop(self.0.lock().remove(&name)),
            }
        }
    }
}

/// 16 digits of the content's hash: a template is never changed.
fn name(fleet: &str, content: &Params) -> String {
    let hash = Sha256::digest(content.encode());
    let digits: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("penstock-{fleet}-{digits}")
}

fn content(options: &Ec2Options, image: &ImageFacts, efa: bool) -> Params {
    const DATA: &str = "LaunchTemplateData";
    let profile = match options.instance_profile.starts_with("arn:") {
        true => "Arn",
        false => "Name",
    };
    let mut params = Params::new()
        .with(format!("{DATA}.IamInstanceProfile.{profile}"), &options.instance_profile)
        // What the agent ends with ends the instance.
        .with(format!("{DATA}.InstanceInitiatedShutdownBehavior"), "terminate")
        // Version 2 alone, and not beyond the machine itself.
        .with(format!("{DATA}.MetadataOptions.HttpTokens"), "required")
        .with(format!("{DATA}.MetadataOptions.HttpPutResponseHopLimit"), 1)
        .with(format!("{DATA}.MetadataOptions.HttpEndpoint"), "enabled");
    let volume = format!("{DATA}.BlockDeviceMapping.1");
    params.set(format!("{volume}.DeviceName"), &image.root_device);
    params.set(format!("{volume}.Ebs.VolumeSize"), options.volume_gib.max(image.volume_gib));
    params.set(format!("{volume}.Ebs.VolumeType"), "gp3");
    params.set(format!("{volume}.Ebs.Encrypted"), true);
    params.set(format!("{volume}.Ebs.DeleteOnTermination"), true);
    if !efa {
        return params.list(&format!("{DATA}.SecurityGroupId"), &options.security_groups);
    }
    let interface = format!("{DATA}.NetworkInterface.1");
    params.set(format!("{interface}.DeviceIndex"), 0);
    params.set(format!("{interface}.InterfaceType"), "efa");
    params.set(format!("{interface}.DeleteOnTermination"), true);
    params.list(&format!("{interface}.SecurityGroupId"), &options.security_groups)
}
