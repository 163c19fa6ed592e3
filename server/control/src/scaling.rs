//! Operations on how much of a function there is: environments of a version, concurrency kept for a function, the account.
//!
//! Called by the front end. What follows the load between a minimum and a maximum is the house's business; a minimum of 0 below
//! a maximum is an extension to Lambda, and keeps none while nobody asks.

use crate::check::between;
use crate::error::ControlError;
use crate::names::{FunctionRef, Which};
use crate::plane::{ControlPlane, Writing};
use crate::sources::Reach;
use crate::versions::is_coming_up;
use penstock_domain::{FunctionName, Qualifier, VersionNumber};
use penstock_packages::PackageLimits;
use penstock_registry::store::Commit;
use penstock_registry::{FunctionRecord, Reason, Scaling, State, VersionRecord, keys};
use serde_json::{Value, json};

/// Most environments of a version: Lambda's own.
pub(crate) const ENVIRONMENTS_MAX: i64 = 15_000;
/// Most environments of a version on one machine.
pub(crate) const ENVIRONMENTS_HERE_MAX: u32 = 64;
/// Lambda's floor of what reservations leave to all others.
const UNRESERVED_LEAST: u32 = 1;

impl ControlPlane {
    /// GetFunctionScalingConfig.
    pub async fn get_scaling(&self, named: &FunctionRef) -> Result<Value, ControlError> {
        let (version, _) = self.scaled(named).await?;
        let number = VersionNumber(version.number).to_string();
        let mut told = json!({
            "FunctionArn": self.options.account.qualified_arn(&version.function, &number),
            "RequestedFunctionScalingConfig": version.requested_scaling,
        });
        if let Some(applied) = version.applied_scaling {
            told["AppliedFunctionScalingConfig"] = json!(applied);
        }
        Ok(told)
    }

    /// PutFunctionScalingConfig: more or fewer environments, none (0 to 0) or some again.
    pub async fn put_scaling(
        &self,
        named: &FunctionRef,
        least: Option<i64>,
        most: Option<i64>,
    ) -> Result<Value, ControlError> {
        let member = |name: &str| format!("functionScalingConfig.{name}");
        let least = least.map_or(Ok(1), |n| between(&member("minExecutionEnvironments"), n, 0, ENVIRONMENTS_MAX))?;
        let most = most.map(|n| between(&member("maxExecutionEnvironments"), n, 0, ENVIRONMENTS_MAX)).transpose()?;
        if most.is_some_and(|most| most < least) {
            let text = "MaxExecutionEnvironments must not be less than MinExecutionEnvironments.";
            return Err(ControlError::invalid(text));
        }
        if least == 0 && most.is_none() {
            let text = "MinExecutionEnvironments 0 needs MaxExecutionEnvironments: 0 deactivates the version.";
            return Err(ControlError::invalid(text));
        }
        let scaling = Scaling { min_execution_environments: least, max_execution_environments: most };
        let (name, number, state, changed) = {
            let turn = self.turn().await?;
            let (mut version, revision) = self.scaled(named).await?;
            let (_, here) = self.room_of(&version.content.configuration);
            if least > here {
                return Err(ControlError::invalid(format!(
                    "MinExecutionEnvironments is {least}, this machine keeps at most {here} of a version."
                )));
            }
            version.requested_scaling = scaling;
            let next = match (version.standing.state, scaling.is_off()) {
                (State::Active | State::Pending, true) => State::Deactivating,
                (State::Deactivated | State::Failed, false) => State::Pending,
                (State::Deleting, _) => return Err(not_now(State::Deleting)),
                (State::Deactivating, false) => return Err(not_now(State::Deactivating)),
                (state, _) => state,
            };
            let changed = next != version.standing.state;
            if changed {
                version.standing.state = next;
                version.standing.reason = (next == State::Pending).then(Reason::creating);
                version.standing.update = None;
            }
            if !is_coming_up(&version) && next != State::Deactivating {
                version.applied_scaling = Some(scaling);
            }
            let key = keys::version(&version.function, version.number);
            turn.commit(Commit::new().replace(key, &version, revision)?).await?;
            (version.function, version.number, next, changed)
        };
        match state {
            State::Pending if changed => self.spawn_bring_up(name, number),
            State::Deactivating => {
                // It takes nothing new when this is answered; what it has may take its time.
                drop(self.serve_function(&name, Reach::Disk).await?);
                self.spawn_deactivation(name, number);
            }
            State::Active => self.apply_scaling(&name, number).await?,
            // What comes up is scaled when it has.
            _ => {}
        }
        Ok(json!({ "FunctionState": state.name() }))
    }

    fn spawn_deactivation(&self, name: String, number: u64) {
        // Of a state that is shared, whoever leads does it.
        let Some(plane) = self.this.upgrade().filter(|_| !self.is_shared()) else { return };
        tokio::spawn(async move {
            if let Err(error) = plane.finish_deactivation(&name, number).await {
                tracing::error!(function = name, version = %VersionNumber(number), %error, "a version was not deactivated");
            }
        });
    }

    /// Ends the environments of a version that is to have none.
    pub(crate) async fn finish_deactivation(&self, name: &str, number: u64) -> Result<(), ControlError> {
        drop(self.serve_function(name, Reach::Disk).await?);
        if let Ok(function) = FunctionName::new(name) {
            self.house.ended(&function, VersionNumber(number)).await;
        }
        let turn = self.turn().await?;
        let Some((mut version, revision)) = self.version(name, number).await? else { return Ok(()) };
        if version.standing.state != State::Deactivating {
            return Ok(());
        }
        version.standing.state = State::Deactivated;
        version.applied_scaling = Some(version.requested_scaling);
        turn.commit(Commit::new().replace(keys::version(name, number), &version, revision)?).await.map(drop)
    }

    /// The version whose environments are counted: a number or `$LATEST.PUBLISHED`, not an alias.
    async fn scaled(&self, named: &FunctionRef) -> Result<(VersionRecord, u64), ControlError> {
        let number = match named.which() {
            Some(Which::Published(Qualifier::Version(number))) => number,
            other => {
                let found = named.qualifier.as_deref().unwrap_or("null");
                let constraint = match other {
                    None => "Member must not be null",
                    Some(_) => "Member must satisfy regular expression pattern: (\\$LATEST\\.PUBLISHED|[0-9]+)",
                };
                return Err(ControlError::validation(found, "qualifier", constraint));
            }
        };
        self.own_function(&named.name).await?;
        let not_found = || self.function_not_found(&named.name, named.qualifier.as_deref());
        self.version(&named.name, number.0).await?.ok_or_else(not_found)
    }

    /// PutFunctionConcurrency; `None` takes it back.
    pub async fn put_concurrency(&self, name: &str, reserved: Option<i64>) -> Result<Value, ControlError> {
        let reserved =
            reserved.map(|n| between("reservedConcurrentExecutions", n, 0, i64::from(u32::MAX))).transpose()?;
        {
            let turn = self.turn().await?;
            let (mut function, revision) = self.own_function(name).await?;
            let all = self.read_all::<FunctionRecord>(keys::FUNCTIONS).await?;
            let others = all.iter().filter(|(other, _)| other.name != name).filter_map(|(f, _)| f.reserved_concurrency);
            let sum = others.chain(reserved).fold(0u32, u32::saturating_add);
            if reserved.is_some() && self.options.concurrency < sum.saturating_add(UNRESERVED_LEAST) {
                return Err(ControlError::invalid(format!(
                    "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution \
                     below its minimum value of [{UNRESERVED_LEAST}]."
                )));
            }
            function.reserved_concurrency = reserved;
            turn.commit(Commit::new().replace(keys::function(name), &function, revision)?).await?;
        }
        drop(self.serve_function(name, Reach::Disk).await?);
        Ok(reserved.map_or(json!({}), |reserved| json!({ "ReservedConcurrentExecutions": reserved })))
    }

    /// GetFunctionConcurrency.
    pub async fn get_concurrency(&self, name: &str) -> Result<Value, ControlError> {
        let function = self.readable_function(name).await?;
        Ok(function
            .and_then(|function| function.reserved_concurrency)
            .map_or(json!({}), |n| json!({ "ReservedConcurrentExecutions": n })))
    }

    /// GetAccountSettings.
    pub async fn account_settings(&self) -> Result<Value, ControlError> {
        let (mut functions, mut size, mut reserved) = (0u64, 0u64, 0u32);
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            functions += 1;
            size += function.latest.code.code_size;
            reserved = reserved.saturating_add(function.reserved_concurrency.unwrap_or(0));
        }
        for (version, _) in self.read_all::<VersionRecord>(keys::VERSIONS).await? {
            size += version.content.code.code_size;
        }
        let concurrency = self.options.concurrency;
        let limits = PackageLimits::lambda();
        Ok(json!({
            "AccountLimit": {
                "TotalCodeSize": u64::MAX >> 11,
                "CodeSizeUnzipped": limits.unpacked_bytes,
                "CodeSizeZipped": limits.zip_bytes,
                "ConcurrentExecutions": concurrency,
                "UnreservedConcurrentExecutions": concurrency.saturating_sub(reserved),
            },
            "AccountUsage": { "TotalCodeSize": size, "FunctionCount": functions },
        }))
    }
}

fn not_now(state: State) -> ControlError {
    ControlError::conflict(format!(
        "The operation cannot be performed at this time. The function is currently in the following state: {}",
        state.name()
    ))
}
