//! The control loop: what the versions' load says goes to the scaler, and what it plans is done.
//!
//! Run by the composition root, on its own tick and when a request finds no environment. Never inside a request.

use crate::function::{Cause, ServedVersion, Unavailable, VersionState};
use crate::house::{DeviceBusy, House};
use penstock_domain::{FunctionName, Outcome, Refusal, ShedReason, VersionNumber};
use penstock_scaler::{Bounds, Policy, Scaler, Signals, Step, Version, decide};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Refusals that more environments would have answered.
const SHED_FOR_WANT: [ShedReason; 5] = [
    ShedReason::EnvironmentConcurrency,
    ShedReason::QueueRequests,
    ShedReason::QueueItems,
    ShedReason::DeadlineUnmeetable,
    ShedReason::NoCapacity,
];

/// Shares of the time that environments are to be busy, as a capacity provider's policies may say, by what they run on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Targets {
    /// On the CPU.
    pub cpu: Option<f64>,
    /// On a GPU.
    pub gpu: Option<f64>,
}

impl House {
    /// Has environments of functions of a capacity provider follow these targets from now on; `None`: those that name none.
    pub fn set_targets(&self, provider: Option<&str>, targets: Targets) {
        let mut all = self.targets.lock();
        match targets == Targets::default() {
            true => drop(all.remove(provider.unwrap_or_default())),
            false => drop(all.insert(provider.unwrap_or_default().to_owned(), targets)),
        }
        drop(all);
        self.demanded.notify_one();
    }

    /// Follows the load for as long as the house is not drained: looks at it so often, and when it is told to.
    pub async fn follow_load(self: Arc<Self>, policy: Policy, interval: Duration) {
        let mut scaler = Scaler::default();
        while !self.stop.is_cancelled() {
            self.scale_once(&mut scaler, &policy);
            // Which of the two it was is seen by looking.
            let _ = timeout(interval, self.demanded.notified()).await;
        }
    }

    fn scale_once(&self, scaler: &mut Scaler, policy: &Policy) {
        let functions = self.functions.load_full();
        let served = || functions.values().flat_map(|function| function.versions.values());
        let has_targets = self.targets.lock().values().any(|targets| targets.gpu.is_some());
        let devices = match has_targets {
            true => OwnDevices::look(served(), &self.options.device_busy),
            false => OwnDevices::default(),
        };
        let plan = {
            let targets = self.targets.lock();
            let versions: Vec<Version> = served().filter_map(|version| version.to_scale(&targets, &devices)).collect();
            decide(&versions, scaler, policy, Instant::now().into_std())
        };
        for step in plan.steps {
            self.carry_out(&step);
        }
    }

    fn carry_out(&self, step: &Step) {
        let Step { function, number, from, to, reason } = step;
        let (number, reason) = (*number, reason.name());
        match self.keep_environments(function, number, *to) {
            Ok(version) => {
                tracing::info!(%function, version = %number, from, to, reason, "environments");
                self.journals.add(function, number, format!("{from} environments become {to}: {reason}"));
                version.metrics.scaled(to > from, reason);
            }
            Err(error) => {
                tracing::warn!(%function, version = %number, from, to, reason, %error, "environments cannot be started");
            }
        }
    }

    /// How many environments a version may have from now on. Errors: there is no such version, or it cannot run here.
    pub async fn set_bounds(
        &self,
        function: &FunctionName,
        number: VersionNumber,
        bounds: Bounds,
    ) -> Result<(), Refusal> {
        let version = self.resolve(function.as_str(), &number.into())?;
        *version.bounds.lock() = bounds;
        let has = version.environments_kept();
        let wanted = has.clamp(bounds.min, bounds.max.max(bounds.min));
        if wanted != has {
            self.keep_environments(function, number, wanted)?;
        }
        Ok(())
    }

    fn keep_environments(
        &self,
        function: &FunctionName,
        number: VersionNumber,
        environments: u32,
    ) -> Result<Arc<ServedVersion>, Refusal> {
        let version = self.resolve(function.as_str(), &number.into())?;
        let functions = self.functions();
        let served = functions.get(function.as_str());
        let source = served.ok_or_else(|| Refusal::new(penstock_domain::ErrorCode::NotFound, "it was deleted"))?;
        let specification = (self.options.specify)(&source.source, &version.source)
            .map_err(|reason| Refusal::new(penstock_domain::ErrorCode::Unavailable, reason))?;
        self.scale(&version, &specification, environments);
        Ok(version)
    }
}

/// GPUs on which environments of one version alone are, by identifier: how busy they are is its doing.
#[derive(Default)]
struct OwnDevices(BTreeMap<String, (Whose, f64)>);

type Whose = (FunctionName, VersionNumber);

impl OwnDevices {
    fn look<'a>(served: impl Iterator<Item = &'a Arc<ServedVersion>>, busy: &DeviceBusy) -> Self {
        let mut on: BTreeMap<String, Option<Whose>> = BTreeMap::new();
        for version in served {
            let whose = (version.function.clone(), version.number);
            for device in version.environments.load().iter().filter_map(|environment| environment.device.as_ref()) {
                let only = on.entry(device.clone()).or_insert_with(|| Some(whose.clone()));
                *only = only.take().filter(|only| *only == whose);
            }
        }
        let own = on.into_iter().filter_map(|(device, only)| Some((only?, busy(&device)?, device)));
        Self(own.map(|(whose, busy, device)| (device, (whose, busy))).collect())
    }

    /// Of one version, all together.
    fn busy(&self, version: &ServedVersion) -> f64 {
        let is_own = |(function, number): &Whose| (function, *number) == (&version.function, version.number);
        self.0.values().filter(|(whose, _)| is_own(whose)).map(|(_, busy)| busy).sum()
    }
}

impl ServedVersion {
    /// The version as the scaler looks at it; `None` if it is on its way out, or cannot run here at all.
    fn to_scale(&self, targets: &BTreeMap<String, Targets>, devices: &OwnDevices) -> Option<Version> {
        let cannot = |state: &VersionState| {
            matches!(
                state,
                VersionState::Unavailable(Unavailable { cause: Cause::Configuration | Cause::Unloaded, .. })
            )
        };
        if self.stop.is_cancelled() || cannot(&self.state.borrow()) {
            return None;
        }
        let bounds = *self.bounds.lock();
        let signals = self.signals(devices);
        self.metrics.wanted(signals.environments, bounds.max, signals.waiting);
        let provider = self.source.settings.capacity_provider.as_deref().unwrap_or_default();
        let on_gpu = self.starts.lock().on_gpu;
        let target = targets.get(provider).and_then(|targets| if on_gpu { targets.gpu } else { targets.cpu });
        Some(Version { function: self.function.clone(), number: self.number, bounds, target, signals })
    }

    fn signals(&self, devices: &OwnDevices) -> Signals {
        let starts = *self.starts.lock();
        let mut signals = Signals {
            environments: self.environments_kept(),
            slots_each: starts.slots,
            workers_each: starts.workers,
            cores_each: starts.cores,
            devices_busy: if starts.on_gpu { devices.busy(self) } else { 0.0 },
            is_unbatched: self.signature().is_some_and(|signature| signature.max_batch_size <= 1),
            waiting: self.waiting.waiting(),
            start_time: starts.took,
            ..Signals::default()
        };
        let environments = self.environments.load();
        let (mut used_us, mut on_cpu_us) = (0, 0);
        for environment in environments.iter() {
            let us = environment.cpu_since().as_micros() as u64;
            used_us += us;
            // Targets are of what it runs on.
            on_cpu_us += if environment.device.is_none() { us } else { 0 };
        }
        self.metrics.cpu(used_us);
        signals.cpu = Duration::from_micros(self.cpu_us.fetch_add(on_cpu_us, Ordering::Relaxed) + on_cpu_us);
        let now = Instant::now().into_std();
        for environment in environments.iter().filter(|environment| environment.is_open()) {
            let age = environment.queue_age(now);
            signals.queue_age = if signals.ready == 0 { age } else { signals.queue_age.min(age) };
            signals.ready += 1;
            signals.slots += environment.slots().limit();
            signals.in_flight += environment.slots().taken();
        }
        let balance = self.balance();
        signals.received = balance.received;
        for (outcome, count) in balance.ended {
            match outcome {
                Outcome::Shed(reason) if SHED_FOR_WANT.contains(&reason) => signals.shed += count,
                Outcome::Done => signals.done = count,
                _ => {}
            }
        }
        let totals = self.statistics.totals();
        signals.queued = Duration::from_nanos(totals.queue_ns);
        signals.batches = totals.batches;
        signals.busy = Duration::from_nanos(totals.busy_ns);
        signals
    }
}
