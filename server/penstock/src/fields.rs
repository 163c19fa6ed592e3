//! Every setting, described once: its key, variable, kind, default, meaning and unit.
//!
//! Read by `config` (which resolves values) and by `penstock config` (which prints them).

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// `host:port`.
    Address,
    /// A path.
    Path,
    /// A list of paths; in a variable separated by `:`.
    Paths,
    /// A list of names; in a variable separated by `,`.
    Names,
    /// A whole number between the two, both allowed.
    Integer(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The name of a header, in lower case, or nothing.
    Header,
    /// Anything.
    Text,
}

/// One setting.
pub(crate) struct Field {
    /// Dotted key in the TOML file.
    pub(crate) key: &'static str,
    /// Environment variable that overrides it.
    pub(crate) variable: &'static str,
    pub(crate) kind: Kind,
    /// Default, as it would be written in a variable. `~` stands for the home directory.
    pub(crate) default: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) meaning: &'static str,
}

const GIB: u64 = 1 << 30;

/// All settings, in the order they are printed.
pub(crate) const FIELDS: &[Field] = &[
    Field {
        key: "listen.http",
        variable: "PENSTOCK_HTTP",
        kind: Kind::Address,
        default: "127.0.0.1:8000",
        unit: "host:port",
        meaning: "HTTP: Open Inference Protocol REST, the OpenAI API and Lambda's API. Port 0 takes a free one.",
    },
    Field {
        key: "listen.grpc",
        variable: "PENSTOCK_GRPC",
        kind: Kind::Address,
        default: "127.0.0.1:8001",
        unit: "host:port",
        meaning: "gRPC: Open Inference Protocol, health and reflection.",
    },
    Field {
        key: "listen.metrics",
        variable: "PENSTOCK_METRICS",
        kind: Kind::Address,
        default: "127.0.0.1:8002",
        unit: "host:port",
        meaning: "Prometheus metrics at /metrics.",
    },
    Field {
        key: "data_dir",
        variable: "PENSTOCK_DATA_DIR",
        kind: Kind::Path,
        default: "~/.local/share/penstock",
        unit: "path",
        meaning: "What must survive a restart: functions deployed over Lambda's API, their versions and packages. One server has it.",
    },
    Field {
        key: "cache_dir",
        variable: "PENSTOCK_CACHE_DIR",
        kind: Kind::Path,
        default: "~/.cache/penstock",
        unit: "path",
        meaning: "Downloads and built artefacts, as models/catalog/fetch.py leaves them.",
    },
    Field {
        key: "models.repository",
        variable: "PENSTOCK_MODEL_REPOSITORY",
        kind: Kind::Paths,
        default: "",
        unit: "paths",
        meaning: "Triton model repositories. Empty: the demo models in the cache directory.",
    },
    Field {
        key: "models.control_mode",
        variable: "PENSTOCK_MODEL_CONTROL_MODE",
        kind: Kind::Choice(&["none", "explicit", "poll"]),
        default: "none",
        unit: "word",
        meaning: "none: load everything at start; explicit: load what is asked for; poll: follow the files.",
    },
    Field {
        key: "models.load",
        variable: "PENSTOCK_LOAD_MODEL",
        kind: Kind::Names,
        default: "",
        unit: "names",
        meaning: "In explicit mode: what is loaded at start; `*` for everything.",
    },
    Field {
        key: "models.poll_secs",
        variable: "PENSTOCK_REPOSITORY_POLL_SECS",
        kind: Kind::Integer(1, 86_400),
        default: "15",
        unit: "seconds",
        meaning: "In poll mode: how often the files are looked at. Lower follows faster and reads more.",
    },
    Field {
        key: "models.load_timeout_s",
        variable: "PENSTOCK_LOAD_TIMEOUT_S",
        kind: Kind::Integer(1, 3_600),
        default: "300",
        unit: "seconds",
        meaning: "How long an environment may take to load and warm up before it is ended.",
    },
    Field {
        key: "onnxruntime.library",
        variable: "PENSTOCK_ONNXRUNTIME_LIBRARY",
        kind: Kind::Path,
        default: "",
        unit: "path",
        meaning: "ONNX Runtime's shared library. Empty: lib/libonnxruntime.so in the cache directory.",
    },
    Field {
        key: "onnxruntime.cuda_library",
        variable: "PENSTOCK_ONNXRUNTIME_CUDA_LIBRARY",
        kind: Kind::Path,
        default: "",
        unit: "path",
        meaning: "The same for environments on a GPU; its CUDA provider is beside it. Empty: onnxruntime.library, else lib/cuda/libonnxruntime.so in the cache directory.",
    },
    Field {
        key: "devices.nvml",
        variable: "PENSTOCK_NVML",
        kind: Kind::Path,
        default: "",
        unit: "path",
        meaning: "NVIDIA's management library, by which GPUs are seen. Empty: the driver's own, if there is one.",
    },
    Field {
        key: "devices.interval_ms",
        variable: "PENSTOCK_DEVICES_INTERVAL_MS",
        kind: Kind::Integer(100, 60_000),
        default: "2000",
        unit: "milliseconds",
        meaning: "How often the devices are read for metrics. Each reading asks the driver some ten times.",
    },
    Field {
        key: "devices.use",
        variable: "PENSTOCK_DEVICES_USE",
        kind: Kind::Choice(&["auto", "none"]),
        default: "auto",
        unit: "word",
        meaning: "auto: what can run on a GPU does, unless its configuration says KIND_CPU; none: all on the CPU.",
    },
    Field {
        key: "devices.program",
        variable: "PENSTOCK_DEVICES_PROGRAM",
        kind: Kind::Path,
        default: "",
        unit: "path",
        meaning: "The executable for environments on a GPU. Empty: penstock-environment-cuda beside this program.",
    },
    Field {
        key: "devices.library_path",
        variable: "PENSTOCK_DEVICES_LIBRARY_PATH",
        kind: Kind::Paths,
        default: "",
        unit: "paths",
        meaning: "Folders of CUDA's libraries, for environments on a GPU. Empty: where the system's loader finds them.",
    },
    Field {
        key: "devices.kept_bytes",
        variable: "PENSTOCK_DEVICES_KEPT_BYTES",
        kind: Kind::Integer(0, 1 << 40),
        default: "536870912",
        unit: "bytes",
        meaning: "Memory of each GPU that is given to no environment: the driver's own, and what grows unseen.",
    },
    Field {
        key: "environments.per_version",
        variable: "PENSTOCK_ENVIRONMENTS_PER_VERSION",
        kind: Kind::Integer(1, 64),
        default: "1",
        unit: "processes",
        meaning: "Execution environments of each version. More survive a crash without a pause and take more memory.",
    },
    Field {
        key: "environments.threads",
        variable: "PENSTOCK_ENVIRONMENT_THREADS",
        kind: Kind::Integer(0, 1_024),
        default: "0",
        unit: "threads",
        meaning: "Host threads of each environment, shared by its runtime workers; half as many tokenize. 0: the cores, shared among \
                  the environments of a version.",
    },
    Field {
        key: "environments.concurrency",
        variable: "PENSTOCK_ENVIRONMENT_CONCURRENCY",
        kind: Kind::Integer(1, 65_536),
        default: "512",
        unit: "requests",
        meaning: "Requests in flight in one environment, waiting or running. More wait longer, fewer are refused sooner.",
    },
    Field {
        key: "environments.standing_wait_ms",
        variable: "PENSTOCK_STANDING_WAIT_MS",
        kind: Kind::Integer(0, 3_600_000),
        default: "1000",
        unit: "milliseconds",
        meaning: "A queue in which everybody waits longer than this adds to every answer and nothing to the work done: it \
                  lowers the concurrency of its environment, down to what keeps the workers busy. 0: never.",
    },
    Field {
        key: "environments.queue_items",
        variable: "PENSTOCK_QUEUE_ITEMS",
        kind: Kind::Integer(1, 1 << 24),
        default: "8192",
        unit: "items",
        meaning: "Items that may wait in one environment.",
    },
    Field {
        key: "environments.queue_tokens",
        variable: "PENSTOCK_QUEUE_TOKENS",
        kind: Kind::Integer(1, 1 << 32),
        default: "1048576",
        unit: "tokens",
        meaning: "Tokens that may wait in one environment.",
    },
    Field {
        key: "environments.batch_tokens",
        variable: "PENSTOCK_BATCH_TOKENS",
        kind: Kind::Integer(1, 1 << 24),
        default: "16384",
        unit: "tokens",
        meaning: "Most tokens in one batch. More fills a GPU, less answers sooner.",
    },
    Field {
        key: "environments.batch_timeout_s",
        variable: "PENSTOCK_BATCH_TIMEOUT_S",
        kind: Kind::Integer(0, 86_400),
        default: "120",
        unit: "seconds",
        meaning: "Longest that a batch may run before its model counts as hanging and its process is ended. 0: for ever.",
    },
    Field {
        key: "environments.nice",
        variable: "PENSTOCK_ENVIRONMENT_NICE",
        kind: Kind::Integer(0, 19),
        default: "5",
        unit: "niceness",
        meaning: "Niceness of environments, so that the front end outranks them. 0: equal rank.",
    },
    Field {
        key: "functions.concurrency",
        variable: "PENSTOCK_FUNCTION_CONCURRENCY",
        kind: Kind::Integer(1, 1 << 20),
        default: "4096",
        unit: "requests",
        meaning: "Requests in flight of one version over all its environments.",
    },
    Field {
        key: "functions.timeout_ms",
        variable: "PENSTOCK_FUNCTION_TIMEOUT_MS",
        kind: Kind::Integer(0, 86_400_000),
        default: "0",
        unit: "milliseconds",
        meaning: "Deadline of a request that brings none, from its arrival. 0: none, it waits as long as its caller does.",
    },
    Field {
        key: "auth.keys_file",
        variable: "PENSTOCK_KEYS_FILE",
        kind: Kind::Path,
        default: "",
        unit: "path",
        meaning: "A TOML file of [[keys]]: secret, scope (invoke or operate), and id for those that sign as AWS does. With keys,                   Lambda's routes need a signature and all others a bearer token; probes of health need none.",
    },
    Field {
        key: "auth.roles_file",
        variable: "PENSTOCK_ROLES_FILE",
        kind: Kind::Path,
        default: "",
        unit: "path",
        meaning: "A TOML file of [[roles]]: arn, access_key_id, secret_access_key and, if there is one, session_token. The environments \
                  of functions with this role get them as AWS's variables; nobody else does.",
    },
    Field {
        key: "auth.allow_unauthenticated",
        variable: "PENSTOCK_ALLOW_UNAUTHENTICATED",
        kind: Kind::Choice(&["false", "true"]),
        default: "false",
        unit: "word",
        meaning: "Whether a server without keys may listen beyond loopback.",
    },
    Field {
        key: "lambda.region",
        variable: "PENSTOCK_LAMBDA_REGION",
        kind: Kind::Text,
        default: "us-east-1",
        unit: "region",
        meaning: "The region in ARNs. Clients may be set to any.",
    },
    Field {
        key: "lambda.account",
        variable: "PENSTOCK_LAMBDA_ACCOUNT",
        kind: Kind::Text,
        default: "000000000000",
        unit: "digits",
        meaning: "The account in ARNs, which nobody is asked for.",
    },
    Field {
        key: "packages.max_package_bytes",
        variable: "PENSTOCK_MAX_PACKAGE_BYTES",
        kind: Kind::Integer(1 << 20, 1 << 44),
        default: "68719476736",
        unit: "bytes",
        meaning: "Largest package that is taken file by file, as penstock deploy sends it: all its files together.",
    },
    Field {
        key: "callers.header",
        variable: "PENSTOCK_CALLER_HEADER",
        kind: Kind::Header,
        default: "",
        unit: "header",
        meaning: "What tells callers apart: a header, in gRPC metadata, such as authorization or x-api-key. Each then has an \
                  even share of a version's slots, and an eighth is left to those who hold less than theirs. Empty: \
                  nobody is told apart.",
    },
    Field {
        key: "callers.concurrency",
        variable: "PENSTOCK_CALLER_CONCURRENCY",
        kind: Kind::Integer(0, 1 << 20),
        default: "0",
        unit: "requests",
        meaning: "Requests in flight of one caller in one version, where callers are told apart. 0: as many as its share, and more \
                  while more than an eighth of the slots is free.",
    },
    Field {
        key: "limits.concurrency",
        variable: "PENSTOCK_CONCURRENCY",
        kind: Kind::Integer(1, 1 << 24),
        default: "16384",
        unit: "requests",
        meaning: "Requests in flight of the whole server. What functions reserve (penstock.reserved_concurrency in a \
                  config.pbtxt) is kept for them, the others share the rest.",
    },
    Field {
        key: "limits.message_bytes",
        variable: "PENSTOCK_MESSAGE_BYTES",
        kind: Kind::Integer(4_096, 2 * GIB - 1),
        default: "68157440",
        unit: "bytes",
        meaning: "Largest request or answer. The default is 65 MiB: 64 MiB of tensors and their description.",
    },
    Field {
        key: "limits.memory_budget_bytes",
        variable: "PENSTOCK_MEMORY_BUDGET_BYTES",
        kind: Kind::Integer(1 << 20, 1 << 44),
        default: "1073741824",
        unit: "bytes",
        meaning: "Request and answer bytes in flight, taken before they are buffered. At least one message; two, for a request of \
                  that size to be answered with as much.",
    },
    Field {
        key: "limits.body_stall_s",
        variable: "PENSTOCK_BODY_STALL_S",
        kind: Kind::Integer(1, 3_600),
        default: "30",
        unit: "seconds",
        meaning: "How long a request that has begun may stand still before it is given up. Lower frees memory sooner.",
    },
    Field {
        key: "limits.answer_stall_s",
        variable: "PENSTOCK_ANSWER_STALL_S",
        kind: Kind::Integer(1, 3_600),
        default: "30",
        unit: "seconds",
        meaning: "How long a client may leave an answer unread before it is dropped. Lower frees memory sooner.",
    },
    Field {
        key: "overload_codes",
        variable: "PENSTOCK_OVERLOAD_CODES",
        kind: Kind::Choice(&["lambda", "triton"]),
        default: "lambda",
        unit: "word",
        meaning: "When full: lambda answers 429 / RESOURCE_EXHAUSTED, triton 503 / UNAVAILABLE.",
    },
    Field {
        key: "drain_timeout_s",
        variable: "PENSTOCK_DRAIN_TIMEOUT_S",
        kind: Kind::Integer(0, 3_600),
        default: "30",
        unit: "seconds",
        meaning: "How long requests in flight may take to finish at shut-down and unload.",
    },
    Field {
        key: "log.format",
        variable: "PENSTOCK_LOG_FORMAT",
        kind: Kind::Choice(&["auto", "human", "json"]),
        default: "auto",
        unit: "word",
        meaning: "auto: for people on a terminal, JSON otherwise.",
    },
    Field {
        key: "log.filter",
        variable: "PENSTOCK_LOG",
        kind: Kind::Text,
        default: "info",
        unit: "filter",
        meaning: "What is logged, such as `debug` or `info,penstock_dispatch=debug`.",
    },
];
