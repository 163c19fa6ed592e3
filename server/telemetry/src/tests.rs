//! Tests: every declared metric is recorded and every recorded one is declared; the text is what Prometheus reads; the
//! books balance.

mod exposition;
mod logs;

use crate::names::{self, Kind};
use crate::outcome::{code_index, codes, shed_index};
use crate::process::{cpu_seconds, resident_bytes};
use crate::recorder::recorder;
use crate::{
    LoadSample, Scrape, TelemetryError, UnroutedMetrics, VersionMetrics, device, device_fault, device_granted, install,
    unrouted,
};
use exposition::{Exposition, parse};
use penstock_domain::{BatchReport, DeviceReading, ErrorCode, Outcome, ShedReason, StageTimes};
use std::collections::BTreeSet;
use std::time::Duration;

const TIMING: StageTimes = StageTimes {
    prepare_ns: 100_000,
    queue_ns: 2_000_000,
    compute_input_ns: 1_500,
    compute_ns: 7_000_000,
    compute_output_ns: 1_500,
    total_ns: 10_000_000,
    batch_items: 4,
};

const BATCH: BatchReport = BatchReport {
    items: 4,
    tokens: 60,
    padded_tokens: 80,
    compute_input_ns: 1_500,
    compute_ns: 7_000_000,
    compute_output_ns: 1_500,
};

const LOAD: LoadSample = LoadSample {
    queued_requests: 3,
    queued_items: 7,
    queued_tokens: 90,
    busy_workers: 1,
    resident_bytes: 1 << 20,
    concurrency_limit: 64,
};

fn outcomes() -> Vec<Outcome> {
    let failed = codes().iter().map(|(code, _)| Outcome::Failed(*code));
    let shed = ShedReason::ALL.map(Outcome::Shed);
    [Outcome::Done, Outcome::Expired, Outcome::Cancelled].into_iter().chain(failed).chain(shed).collect()
}

/// What `record` leaves on `/metrics`, with a recorder of its own.
fn scrape(record: impl FnOnce()) -> Exposition {
    let (recorder, scrape) = recorder();
    metrics::with_local_recorder(&recorder, record);
    read(&scrape)
}

fn read(scrape: &Scrape) -> Exposition {
    scrape.upkeep();
    parse(&scrape.render()).expect("the text is in Prometheus' format")
}

fn record_everything() -> VersionMetrics {
    let version = VersionMetrics::new("minilm", 3);
    version.environments(1);
    version.environment_started(Duration::from_millis(300));
    version.wanted(2, 3, 1);
    version.cpu(1000);
    version.scaled(true, "demand");
    version.environment_restarted();
    version.load(&LOAD);
    version.batch(&BATCH);
    for outcome in outcomes() {
        version.received();
        version.ended(outcome, 4, &TIMING);
    }
    version
}

/// A device that tells everything, and one that is lost after it has told a little.
fn record_devices() {
    let sample = DeviceReading {
        memory_total_bytes: Some(100),
        memory_used_bytes: Some(40),
        memory_free_bytes: Some(60),
        busy: Some(0.25),
        temperature_celsius: Some(41),
        power_watts: Some(120.5),
        power_limit_watts: Some(700.0),
        energy_joules: Some(12.75),
        ecc_corrected: Some(2),
        ecc_uncorrected: Some(1),
    };
    device("GPU-1", Some(&sample));
    device("GPU-1", Some(&sample));
    device("GPU-2", Some(&DeviceReading { memory_total_bytes: Some(50), ..DeviceReading::default() }));
    device("GPU-2", None);
    device_fault("GPU-2", 79, "device");
    device_granted("GPU-1", 1 << 30);
}

/// One instance is ready.
fn record_instances() {
    crate::instances("local", &[("ready", 1)], 4);
    let (well, faulty, memory_total, memory_given, memory_used) = (1, 1, 4 << 30, 2 << 30, 1 << 30);
    crate::instance_gpus("local", crate::InstanceGpus { well, faulty, memory_total, memory_given, memory_used });
    crate::leads(true);
    crate::cost("local", "minilm", 0.8, 1_500_000);
    crate::instances_unreplaced("local", 1);
    crate::instance_event("ready");
    crate::instance_sent(1);
    crate::instance_started("local", Duration::from_millis(200));
}

#[test]
fn devices_tell_what_they_can() {
    let text = scrape(record_devices);
    for (name, value) in [
        ("nv_gpu_utilization", 0.25),
        ("nv_gpu_memory_total_bytes", 100.0),
        ("nv_gpu_memory_used_bytes", 40.0),
        ("nv_gpu_power_usage", 120.5),
        ("nv_gpu_power_limit", 700.0),
        ("nv_energy_consumption", 12.0),
        ("penstock_gpu_temperature_celsius", 41.0),
        ("penstock_gpu_answers", 1.0),
    ] {
        assert_eq!(text.samples[&format!("{name}{{gpu_uuid=\"GPU-1\"}}")], value, "{name}");
    }
    let of_lost: Vec<_> = text.samples.iter().filter(|(series, _)| series.contains("GPU-2")).collect();
    assert_eq!(of_lost.len(), 3, "a device that tells nothing sets nothing: {of_lost:?}");
    assert_eq!(text.samples["penstock_gpu_answers{gpu_uuid=\"GPU-2\"}"], 0.0);
    assert_eq!(text.samples["penstock_gpu_faults_total{gpu_uuid=\"GPU-2\",xid=\"79\",class=\"device\"}"], 1.0);
    assert_eq!(text.samples["penstock_gpu_ecc_errors_total{gpu_uuid=\"GPU-1\",kind=\"uncorrected\"}"], 1.0);
}

#[test]
fn costs_are_dollars_an_hour_and_millionths_of_dollars_in_all() {
    let text = scrape(record_instances);
    let of = |name: &str| text.samples[&format!("{name}{{provider=\"local\",function=\"minilm\"}}")];
    assert_eq!((of("penstock_cost_usd_per_hour"), of("penstock_cost_microdollars_total")), (0.8, 1.5e6));
}

#[test]
fn declared_is_recorded_and_recorded_is_declared() {
    let mut version = None;
    let text = scrape(|| {
        record_devices();
        record_instances();
        version = Some(record_everything());
    });
    let declared: BTreeSet<(&str, &str)> = names::ALL
        .iter()
        .map(|metric| match metric.kind {
            Kind::Counter => (metric.name, "counter"),
            Kind::Gauge => (metric.name, "gauge"),
            Kind::Histogram(_) => (metric.name, "histogram"),
        })
        .collect();
    assert_eq!(declared.len(), names::ALL.len(), "a name is declared twice");
    let recorded: BTreeSet<(&str, &str)> =
        text.families.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    assert_eq!(recorded, declared);
    for (name, _) in declared {
        let touched = text.samples.iter().any(|(series, value)| series.starts_with(name) && *value > 0.0);
        // Nothing is in flight any more, and the process may be too young for a tick of the clock.
        let may_be_zero = [names::REQUESTS_IN_FLIGHT.name, names::PROCESS_CPU.name].contains(&name);
        assert!(touched || may_be_zero, "{name} was never recorded");
    }
}

#[test]
fn declarations_follow_prometheus() {
    for metric in names::ALL {
        let name = metric.name;
        assert!(!metric.help.contains(['\n', '\\']), "{name}: help is one plain line");
        match metric.kind {
            Kind::Counter => assert!(name.ends_with("_total") || name.starts_with("nv_"), "{name}"),
            Kind::Gauge => assert!(!name.ends_with("_total"), "{name}"),
            Kind::Histogram(buckets) => assert!(buckets.bounds().is_sorted_by(|a, b| a < b), "{name}"),
        }
    }
}

#[test]
fn the_books_balance() {
    let text = scrape(|| {
        let version = record_everything();
        version.received();
        UnroutedMetrics::new().count(Outcome::Failed(ErrorCode::NotFound));
        std::mem::forget(version);
    });
    let ended = text.sum("penstock_requests_total{");
    assert_eq!(text.sum("penstock_requests_received_total{"), ended + text.sum("penstock_requests_in_flight{"));
    assert_eq!(ended, outcomes().len() as f64 + 1.0);
    for outcome in ["done", "failed", "shed", "expired", "cancelled"] {
        assert!(text.sum_where("penstock_requests_total{", &format!("outcome=\"{outcome}\"")) >= 1.0, "{outcome}");
    }
    for reason in ShedReason::ALL {
        let label = format!("outcome=\"shed\",reason=\"{}\"", reason.name());
        assert_eq!(text.sum_where("penstock_requests_total{", &label), 1.0, "{label}");
    }
    let unrouted = "penstock_requests_total{function=\"\",version=\"\",outcome=\"failed\",reason=\"not_found\"}";
    assert_eq!(text.samples[unrouted], 1.0);
}

#[test]
fn tritons_names_say_the_same() {
    let text = scrape(|| std::mem::forget(record_everything()));
    let value = |name: &str| text.samples[&format!("{name}{{model=\"minilm\",version=\"3\"}}")];
    assert_eq!(value("nv_inference_request_success"), 1.0);
    assert_eq!(value("nv_inference_count"), 4.0);
    assert_eq!(value("nv_inference_exec_count"), 1.0);
    assert_eq!(value("nv_inference_pending_request_count"), 3.0);
    assert_eq!(value("nv_inference_request_duration_us"), 10_000.0);
    assert_eq!(value("nv_inference_queue_duration_us"), 2_000.0);
    assert_eq!(value("nv_inference_compute_input_duration_us"), 1.0);
    assert_eq!(value("nv_inference_compute_infer_duration_us"), 7_000.0);
    assert_eq!(value("nv_inference_compute_output_duration_us"), 1.0);
    for (reason, count) in [("REJECTED", 11.0), ("CANCELED", 1.0), ("BACKEND", 1.0), ("OTHER", 11.0)] {
        assert_eq!(text.sum_where("nv_inference_request_failure{", &format!("reason=\"{reason}\"")), count, "{reason}");
    }
}

#[test]
fn stages_and_overhead_add_up_to_the_total() {
    let text = scrape(|| std::mem::forget(record_everything()));
    let stages = text.sum("penstock_stage_duration_seconds_sum{");
    assert!((stages - 0.010).abs() < 1e-9, "{stages}");
    assert!((text.sum("penstock_request_duration_seconds_sum{") - 0.010).abs() < 1e-9);
    assert_eq!(text.sum("penstock_stage_duration_seconds_count{"), 6.0);
    // 2 ms is a bound: it counts as at most 2 ms.
    let queue = |le: &str| {
        let labels = format!("function=\"minilm\",version=\"3\",stage=\"queue\",le=\"{le}\"");
        text.samples[&format!("penstock_stage_duration_seconds_bucket{{{labels}}}")]
    };
    assert_eq!((queue("0.001"), queue("0.002"), queue("+Inf")), (0.0, 1.0, 1.0));
}

#[test]
fn microseconds_are_not_lost_to_rounding() {
    let text = scrape(|| {
        let version = VersionMetrics::new("identity", 1);
        for _ in 0..1_000 {
            version.ended(Outcome::Done, 1, &StageTimes { compute_ns: 700, ..StageTimes::default() });
        }
    });
    assert_eq!(text.sum("nv_inference_compute_infer_duration_us{"), 700.0);
}

#[test]
fn revisions_of_a_version_share_its_gauges() {
    let (recorder, scrape) = recorder();
    metrics::with_local_recorder(&recorder, || {
        let old = VersionMetrics::new("minilm", 1);
        let new = VersionMetrics::new("minilm", 1);
        let waiting = || read(&scrape).sum("penstock_queue_requests{");
        old.load(&LOAD);
        old.environments(1);
        new.load(&LoadSample { queued_requests: 2, ..LOAD });
        new.environments(1);
        assert_eq!(waiting(), 5.0);
        old.received();
        old.retired();
        assert_eq!(waiting(), 2.0);
        assert_eq!(read(&scrape).sum("penstock_environments_ready{"), 1.0);
        old.ended(Outcome::Done, 1, &TIMING);
        drop(old);
        new.retired();
        let text = read(&scrape);
        let gauges = text.families.iter().filter(|(name, kind)| *kind == "gauge" && !name.starts_with("process_"));
        for (name, _) in gauges.filter(|(name, _)| *name != names::BUILD_INFO.name) {
            assert_eq!(text.sum(&format!("{name}{{")), 0.0, "{name}");
        }
    });
}

#[test]
fn an_undeclared_histogram_does_no_harm() {
    let text = scrape(|| metrics::histogram!("of_a_library", "quote" => "\"\\\n").record(1.0));
    assert_eq!(text.families["of_a_library"], "summary");
}

#[test]
fn counters_stand_where_their_index_says() {
    for (index, (code, _)) in codes().iter().enumerate() {
        assert_eq!(code_index(*code), index);
    }
    for (index, reason) in ShedReason::ALL.into_iter().enumerate() {
        assert_eq!(shed_index(reason), index);
    }
}

#[test]
fn the_kernels_files_are_read() {
    assert_eq!(resident_bytes("VmHWM:\t 1 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
    assert_eq!(resident_bytes("VmHWM:\t 1 kB\n"), None);
    let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
    assert_eq!(cpu_seconds(stat), Some(2.0));
    assert_eq!(cpu_seconds("7 (a"), None);
}

/// The only test that touches the process's recorder.
#[test]
fn a_process_has_one_recorder() {
    unrouted(Outcome::Cancelled);
    let scrape = install().expect("no other test installs one");
    assert!(matches!(install(), Err(TelemetryError::AlreadyInstalled)));
    unrouted(Outcome::Shed(ShedReason::Draining));
    let text = read(&scrape);
    assert_eq!(text.sum("penstock_requests_total{"), 1.0);
    assert_eq!(text.sum("penstock_requests_received_total{"), 1.0);
}
