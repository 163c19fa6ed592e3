//! The instances that environments run on, and what they cost, as people see them. Not Lambda's own.
//!
//! Called by the front end.

use crate::error::ControlError;
use crate::plane::ControlPlane;
use penstock_domain::Outcome;
use penstock_instances::InstanceView;
use serde_json::{Value, json};

impl ControlPlane {
    /// Has all instances replaced that there are now, one after the other. Errors: there are none to replace.
    pub fn replace_instances(&self) -> Result<Value, ControlError> {
        let fleets = self.options.fleets.all();
        if fleets.is_empty() {
            return Err(ControlError::invalid("This machine is the only instance: instances.provider is none."));
        }
        fleets.iter().for_each(|fleet| fleet.replace_all());
        Ok(self.instances())
    }

    /// The instances as they stand, and what each function's part of them costs: none where this machine is the only one.
    pub fn instances(&self) -> Value {
        let fleets = self.options.fleets.all();
        let functions = self.house.functions();
        let done = |name: &str| {
            let versions = functions.get(name).into_iter().flat_map(|function| function.versions.values());
            let ended = versions.flat_map(|version| version.balance().ended);
            ended.filter(|(outcome, _)| *outcome == Outcome::Done).map(|(_, count)| count).sum::<u64>()
        };
        let costs = fleets.iter().flat_map(|fleet| fleet.costs()).map(|cost| {
            let done = done(&cost.function);
            let per_million = (done > 0).then(|| cost.usd / done as f64 * 1e6);
            json!({
                "FunctionName": cost.function,
                "UsdPerHour": cost.usd_per_hour,
                "Usd": cost.usd,
                "Invocations": done,
                "UsdPerMillionInvocations": per_million,
            })
        });
        let instances: Vec<InstanceView> = fleets.iter().flat_map(|fleet| fleet.instances()).collect();
        json!({ "Instances": instances, "Costs": costs.collect::<Vec<_>>() })
    }
}
