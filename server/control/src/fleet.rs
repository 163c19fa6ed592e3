//! The instances that environments run on, and what they cost, as people see them. Not Lambda's own.
//!
//! Called by the front end.

use crate::error::ControlError;
use crate::plane::ControlPlane;
use penstock_domain::Outcome;
use penstock_instances::InstanceView;
use serde_json::{Value, json};
use std::collections::BTreeMap;

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
    /// And the providers that cannot have any, with the reason.
    pub fn instances(&self) -> Value {
        let fleets = self.options.fleets.all();
        let functions = self.house.functions();
        let done = |name: &str| {
            let versions = functions.get(name).into_iter().flat_map(|function| function.versions.values());
            let ended = versions.flat_map(|version| version.balance().ended);
            ended.filter(|(outcome, _)| *outcome == Outcome::Done).map(|(_, count)| count).sum::<u64>()
        };
        let mut costs: BTreeMap<(String, Option<&str>), Cost> = BTreeMap::new();
        for (provider, cost) in
            fleets.iter().flat_map(|fleet| fleet.costs().into_iter().map(|cost| (fleet.name(), cost)))
        {
            // A function's versions may be of several providers; what is nobody's is of one.
            let whose = cost.function.is_empty().then_some(provider);
            let sum = costs.entry((cost.function, whose)).or_default();
            sum.providers.push(provider);
            sum.usd_per_hour += cost.usd_per_hour;
            sum.usd += cost.usd;
        }
        let costs = costs.into_iter().map(|((function, _), Cost { providers, usd_per_hour, usd })| {
            let done = done(&function);
            let per_million = (done > 0).then(|| usd / done as f64 * 1e6);
            json!({
                "FunctionName": function,
                "CapacityProviderNames": providers,
                "UsdPerHour": usd_per_hour,
                "Usd": usd,
                "Invocations": done,
                "UsdPerMillionInvocations": per_million,
            })
        });
        let costs: Vec<Value> = costs.collect();
        let instances: Vec<InstanceView> = fleets.iter().flat_map(|fleet| fleet.instances()).collect();
        let failed = self.options.fleets.failed().into_iter();
        let failed = failed.map(|(provider, why)| json!({ "CapacityProviderName": provider, "StateReason": why }));
        json!({ "Instances": instances, "Costs": costs, "Failed": failed.collect::<Vec<Value>>() })
    }
}

/// What something costs.
#[derive(Default)]
struct Cost<'a> {
    providers: Vec<&'a str>,
    usd_per_hour: f64,
    usd: f64,
}
