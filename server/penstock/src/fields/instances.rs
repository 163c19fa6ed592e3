//! Settings of instances: where environments run beside this process.

use super::{Field, Kind};

pub(super) const FIELDS: &[Field] = &[
    Field {
        key: "instances.provider",
        variable: "PENSTOCK_INSTANCES",
        kind: Kind::Choice(&["none", "local"]),
        default: "none",
        unit: "word",
        meaning: "Who has the instances that environments run on. none: this machine is the only one; local: processes of this machine, each with a declared shape, that come and go as environments need them.",
    },
    Field {
        key: "instances.vcpu",
        variable: "PENSTOCK_INSTANCE_VCPU",
        kind: Kind::Integer(0, 1 << 16),
        default: "0",
        unit: "vCPU",
        meaning: "Virtual cores of a local instance; one of them is its agent's. 0: those of this machine, and one more.",
    },
    Field {
        key: "instances.memory_bytes",
        variable: "PENSTOCK_INSTANCE_MEMORY_BYTES",
        kind: Kind::Integer(0, 1 << 50),
        default: "0",
        unit: "bytes",
        meaning: "Memory of a local instance; one gibibyte of it is its agent's. 0: that of this machine, and one more.",
    },
    Field {
        key: "instances.vcpu_max",
        variable: "PENSTOCK_INSTANCES_VCPU_MAX",
        kind: Kind::Integer(0, 1 << 20),
        default: "0",
        unit: "vCPU",
        meaning: "Most virtual cores of all local instances together, those that are launching included. 0: eight times those of this machine.",
    },
    Field {
        key: "instances.microusd_per_hour",
        variable: "PENSTOCK_INSTANCE_MICROUSD_PER_HOUR",
        kind: Kind::Integer(0, 1_000_000_000),
        default: "0",
        unit: "microUSD",
        meaning: "What an hour of a local instance costs: 804800 is $0.8048. What functions cost is told by it.",
    },
    Field {
        key: "instances.environment_memory_bytes",
        variable: "PENSTOCK_ENVIRONMENT_MEMORY_BYTES",
        kind: Kind::Integer(1 << 20, 1 << 50),
        default: "1073741824",
        unit: "bytes",
        meaning: "Memory of an instance that an environment takes, where its function says nothing.",
    },
    Field {
        key: "instances.start_timeout_s",
        variable: "PENSTOCK_INSTANCE_START_TIMEOUT_S",
        kind: Kind::Integer(1, 3600),
        default: "30",
        unit: "seconds",
        meaning: "How long an instance may take to be ready before it is given up.",
    },
    Field {
        key: "instances.empty_s",
        variable: "PENSTOCK_INSTANCE_EMPTY_S",
        kind: Kind::Integer(1, 86_400),
        default: "60",
        unit: "seconds",
        meaning: "How long an instance may be without environments before it is given back.",
    },
    Field {
        key: "instances.max_age_s",
        variable: "PENSTOCK_INSTANCE_MAX_AGE_S",
        kind: Kind::Integer(0, 31_536_000),
        default: "0",
        unit: "seconds",
        meaning: "Age at which an instance is replaced: a new one first, then it is drained. 0: never.",
    },
];
