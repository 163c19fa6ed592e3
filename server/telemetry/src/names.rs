//! Every metric of the server: its name, type, unit, help text and, for a histogram, its buckets.
//!
//! Read by the recorder and by whoever records. A name that is not in [`ALL`] is not a metric of Penstock: a test keeps
//! it so. Names follow Prometheus (base units, `_total` for counters), but for the `nv_*` family, whose names,
//! labels and microseconds are Triton's, because `perf_analyzer` and existing dashboards read them.

use metrics::Unit;

/// How a metric is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Samples counted in cumulative buckets.
    Histogram(Buckets),
}

/// Upper bounds of a histogram's buckets; `+Inf` is implied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Buckets {
    /// Seconds: 50 µs to 60 s in steps of about 1.6, as a whole request takes.
    Request,
    /// Seconds: 10 µs to 50 s in steps of 1, 2, 5, as one stage of a request takes.
    Stage,
    /// Items: powers of two to 1,024, as `max_batch_size` is usually chosen.
    Items,
    /// Tokens: powers of two, 16 to 65,536.
    Tokens,
}

impl Buckets {
    /// The bounds, ascending.
    pub const fn bounds(self) -> &'static [f64] {
        match self {
            Buckets::Request => &[
                50e-6, 80e-6, 130e-6, 200e-6, 320e-6, 500e-6, 800e-6, 1.3e-3, 2e-3, 3.2e-3, 5e-3, 8e-3, 13e-3, 20e-3,
                32e-3, 50e-3, 80e-3, 0.13, 0.2, 0.32, 0.5, 0.8, 1.3, 2.0, 3.2, 5.0, 8.0, 13.0, 20.0, 32.0, 60.0,
            ],
            Buckets::Stage => &[
                10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0,
                2.0, 5.0, 10.0, 20.0, 50.0,
            ],
            Buckets::Items => &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0],
            Buckets::Tokens => {
                &[16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0]
            }
        }
    }
}

/// One metric, declared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// As it stands on `/metrics`.
    pub name: &'static str,
    /// How it is to be read.
    pub kind: Kind,
    /// What one of it is.
    pub unit: Unit,
    /// For a person.
    pub help: &'static str,
}

const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit, help }
}

const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, help }
}

const fn histogram(name: &'static str, buckets: Buckets, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram(buckets), unit, help }
}

macro_rules! declare {
    ($($constant:ident = $make:ident($name:literal, $($argument:expr),+ $(,)?);)*) => {
        $(
            #[doc = concat!("`", $name, "`")]
            pub const $constant: Metric = $make($name, $($argument),+);
        )*
        /// Every metric there is.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

declare! {
    // Labels: function, version.
    REQUESTS_RECEIVED = counter("penstock_requests_received_total", Unit::Count,
        "Requests taken in. Equals penstock_requests_total over all outcomes plus penstock_requests_in_flight.");
    // Labels: function, version, outcome, reason.
    REQUESTS = counter("penstock_requests_total", Unit::Count,
        "Requests ended, each once, by outcome (done, failed, shed, expired, cancelled) and reason (the error code of a \
         failure, the shed reason of a shed).");
    REQUESTS_IN_FLIGHT = gauge("penstock_requests_in_flight", Unit::Count, "Requests received and not yet ended.");
    REQUEST_DURATION = histogram("penstock_request_duration_seconds", Buckets::Request, Unit::Seconds,
        "From the parsed request to its answer, of requests that are done.");
    // Labels: function, version, stage.
    STAGE_DURATION = histogram("penstock_stage_duration_seconds", Buckets::Stage, Unit::Seconds,
        "Where the time of a request that is done went: prepare, queue, compute_input, compute, compute_output, and \
         overhead (the rest: link, routing, conversion).");

    BATCH_ITEMS = histogram("penstock_batch_items", Buckets::Items, Unit::Count, "Items of each batch that ran.");
    BATCH_TOKENS = histogram("penstock_batch_tokens", Buckets::Tokens, Unit::Count,
        "Tokens of each batch that ran, padding not counted; only for functions that count tokens.");
    // Labels: function, version, stage.
    BATCH_DURATION = histogram("penstock_batch_duration_seconds", Buckets::Stage, Unit::Seconds,
        "Time of a runtime worker spent on each batch that ran, by stage (compute_input, compute, compute_output). The \
         sum is how long workers were busy: a batch counts once, however many requests it held.");
    TOKENS = counter("penstock_tokens_total", Unit::Count, "Tokens computed, padding not counted.");
    PADDED_TOKENS = counter("penstock_padded_tokens_total", Unit::Count,
        "Tokens computed, padding counted. The padding waste is 1 - penstock_tokens_total / this.");

    QUEUE_REQUESTS = gauge("penstock_queue_requests", Unit::Count, "Requests that wait in an environment's queue.");
    QUEUE_ITEMS = gauge("penstock_queue_items", Unit::Count, "Items of the requests that wait.");
    QUEUE_TOKENS = gauge("penstock_queue_tokens", Unit::Count, "Tokens of the requests that wait.");
    BUSY_WORKERS = gauge("penstock_busy_workers", Unit::Count, "Runtime workers that run a batch.");
    CONCURRENCY_LIMIT = gauge("penstock_concurrency_limit", Unit::Count,
        "Requests that may be in flight in the version's environments now: as configured, or fewer where a standing queue \
         has shown that more only wait.");
    ENVIRONMENTS_READY = gauge("penstock_environments_ready", Unit::Count, "Execution environments that take requests.");
    WAITING_REQUESTS = gauge("penstock_waiting_requests", Unit::Count,
        "Requests that wait for an environment of a version that has none ready.");
    ENVIRONMENTS_WANTED = gauge("penstock_environments_wanted", Unit::Count,
        "Execution environments that a version is to have: its own number, or as many as its load wants.");
    ENVIRONMENTS_MAX = gauge("penstock_environments_max", Unit::Count,
        "Most execution environments that a version may have.");
    // Labels: function, version, direction, reason.
    SCALING_STEPS = counter("penstock_scaling_steps_total", Unit::Count,
        "Changes of the number of a version's execution environments by its load, up or down, and why.");
    ENVIRONMENT_START = gauge("penstock_environment_start_seconds", Unit::Seconds,
        "From asking for an execution environment to its being ready, the last time.");
    // Labels: provider, state.
    INSTANCES = gauge("penstock_instances", Unit::Count,
        "Instances of a capacity provider: launching, ready (they take environments), draining.");
    // Labels: provider.
    INSTANCES_VCPU = gauge("penstock_instances_vcpu", Unit::Count,
        "Virtual cores that count for MaxVCpuCount: of all its instances, those that are launching included, of those that are not \
         known to end yet, and of what else it may have launched.");
    // Labels: provider, state.
    INSTANCES_GPUS = gauge("penstock_instances_gpus", Unit::Count,
        "GPUs, or slices of them, of instances that have joined: well, or faulty (nobody else is to run there).");
    // Labels: provider, kind.
    INSTANCES_GPU_MEMORY = gauge("penstock_instances_gpu_memory_bytes", Unit::Bytes,
        "Memory of these GPUs: in all, given to environments, used by whomever.");
    // Labels: event.
    INSTANCE_EVENTS = counter("penstock_instance_events_total", Unit::Count,
        "What happened to instances: launched, ready, not_joined, and why those that are gone are (given_up, refused, lost, \
         empty, aged, unhealthy, taken_away).");
    // Labels: provider, function.
    COST = gauge("penstock_cost_usd_per_hour", Unit::Count,
        "US dollars an hour of instances, by the part of their cores that a function's environments have; without a name, of \
         what nobody has.");
    // Labels: provider, function.
    COST_TOTAL = counter("penstock_cost_microdollars_total", Unit::Count,
        "Millionths of a US dollar that the same has come to since the server's start: by invocation, US dollars a million.");
    // Labels: provider.
    INSTANCES_KEPT_OLD = gauge("penstock_instances_unreplaced", Unit::Count,
        "Instances that are to be replaced (old, or an operator wants it) and are not, because a new one beside them would pass \
         MaxVCpuCount.");
    // Labels: provider.
    INSTANCE_START = gauge("penstock_instance_start_seconds", Unit::Seconds,
        "From asking for an instance to its being ready, the last time.");
    INSTANCE_SENT = counter("penstock_instance_sent_bytes_total", Unit::Bytes,
        "What instances with disks of their own were sent of what environments read: each content once for each instance.");
    ENVIRONMENT_RESTARTS = counter("penstock_environment_restarts_total", Unit::Count,
        "Execution environments started again after one ended unasked.");
    ENVIRONMENT_RESIDENT = gauge("penstock_environment_resident_bytes", Unit::Bytes,
        "Resident memory of the version's execution environments.");

    // A gauge that only grows: counters are whole numbers here.
    CPU = gauge("penstock_environment_cpu_seconds", Unit::Seconds,
        "Time of cores that the version's execution environments have used since they were ready.");

    // Triton's, labels: model, version.
    NV_SUCCESS = counter("nv_inference_request_success", Unit::Count, "Number of successful inference requests.");
    // Labels: model, version, reason.
    NV_FAILURE = counter("nv_inference_request_failure", Unit::Count,
        "Number of failed inference requests: REJECTED (shed or expired), CANCELED, BACKEND (internal), OTHER.");
    NV_COUNT = counter("nv_inference_count", Unit::Count, "Number of inferences, a batch of n counted as n.");
    NV_EXEC_COUNT = counter("nv_inference_exec_count", Unit::Count, "Number of batches executed.");
    NV_PENDING = gauge("nv_inference_pending_request_count", Unit::Count, "Number of requests awaiting execution.");
    NV_REQUEST_US = counter("nv_inference_request_duration_us", Unit::Microseconds,
        "Cumulative duration of successful requests, from end to end, in microseconds.");
    NV_QUEUE_US = counter("nv_inference_queue_duration_us", Unit::Microseconds,
        "Cumulative time successful requests spent in the queue, in microseconds.");
    NV_COMPUTE_INPUT_US = counter("nv_inference_compute_input_duration_us", Unit::Microseconds,
        "Cumulative time successful requests spent on gathering inputs, in microseconds.");
    NV_COMPUTE_INFER_US = counter("nv_inference_compute_infer_duration_us", Unit::Microseconds,
        "Cumulative time successful requests spent in the model, in microseconds.");
    NV_COMPUTE_OUTPUT_US = counter("nv_inference_compute_output_duration_us", Unit::Microseconds,
        "Cumulative time successful requests spent on scattering outputs, in microseconds.");

    // Devices; labels: gpu_uuid. Those that Triton has keep its names.
    NV_GPU_UTILIZATION = gauge("nv_gpu_utilization", Unit::Count,
        "Share of the last sample period in which a kernel ran, 0 to 1.");
    NV_GPU_MEMORY_TOTAL = gauge("nv_gpu_memory_total_bytes", Unit::Bytes, "Device memory in all.");
    NV_GPU_MEMORY_USED = gauge("nv_gpu_memory_used_bytes", Unit::Bytes, "Device memory in use, by whomever.");
    NV_GPU_POWER = gauge("nv_gpu_power_usage", Unit::Count, "Power that the device draws, in watts.");
    NV_GPU_POWER_LIMIT = gauge("nv_gpu_power_limit", Unit::Count, "Power that the device may draw, in watts.");
    NV_ENERGY = counter("nv_energy_consumption", Unit::Count, "Energy used since the driver was loaded, in joules.");
    GPU_TEMPERATURE = gauge("penstock_gpu_temperature_celsius", Unit::Count, "Temperature of the device.");
    GPU_ANSWERS = gauge("penstock_gpu_answers", Unit::Count, "1 while the device answers the driver, else 0.");
    GPU_MEMORY_GRANTED = gauge("penstock_gpu_memory_granted_bytes", Unit::Bytes,
        "Memory of the device, or of a slice of it, that environments have been given.");
    // Labels: gpu_uuid, kind.
    GPU_ECC_ERRORS = counter("penstock_gpu_ecc_errors_total", Unit::Count,
        "Errors of the device's memory since the driver was loaded, corrected or uncorrected.");
    // Labels: gpu_uuid, xid, class.
    GPU_FAULTS = counter("penstock_gpu_faults_total", Unit::Count,
        "Faults that the driver reported, by NVIDIA's number and whose fault it is: a program's, the device's memory's, \
         the device's.");

    LEADS = gauge("penstock_controller_leads", Unit::Count,
        "1 while this server changes the state, which several may share, else 0.");

    // The process that answers; the names are those of Prometheus client libraries.
    BUILD_INFO = gauge("penstock_build_info", Unit::Count, "Always 1; the label says which version of Penstock runs.");
    PROCESS_RESIDENT = gauge("process_resident_memory_bytes", Unit::Bytes, "Resident memory of this process.");
    PROCESS_CPU = counter("process_cpu_seconds_total", Unit::Seconds,
        "User and system CPU time of this process; execution environments are processes of their own.");
    PROCESS_OPEN_FDS = gauge("process_open_fds", Unit::Count, "Open file descriptors of this process.");
}
