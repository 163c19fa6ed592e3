//! What a configuration asks for and does not get, though it is served: told to whoever reads the log.
//!
//! Called by `settings`. Pure. (What would change answers is refused by `unsupported`.)

use super::VersionSettings;
use penstock_proto::inference::ModelConfig;

/// Each names a field and says what happens instead; in the order of the table.
pub(super) fn of(config: &ModelConfig, settings: &VersionSettings) -> Vec<String> {
    let groups = &config.instance_group;
    let queue = &settings.queue_policy;
    let none = "has no effect here";
    let table = [
        (
            "dynamic_batching.preserve_ordering",
            settings.preserve_ordering,
            "the answers of a stream leave as they are ready, told apart by their ids",
        ),
        (
            "dynamic_batching.priority_queue_policy",
            !settings.priority_queue_policies.is_empty(),
            "default_queue_policy holds for every request",
        ),
        (
            "dynamic_batching.default_queue_policy.allow_timeout_override",
            queue.default_timeout_us.is_some() && !queue.allow_timeout_override,
            "false is not followed: the timeout that a request brings is its deadline, beside the queue's",
        ),
        ("model_warmup", !settings.warmup.is_empty(), "not run: a model warms up with samples of its own"),
        ("instance_group.rate_limiter", groups.iter().any(|group| group.rate_limiter.is_some()), none),
        ("instance_group.secondary_devices", groups.iter().any(|group| !group.secondary_devices.is_empty()), none),
        ("instance_group.profile", groups.iter().any(|group| !group.profile.is_empty()), none),
        ("instance_group.host_policy", groups.iter().any(|group| !group.host_policy.is_empty()), none),
        ("optimization", config.optimization.is_some(), none),
        ("response_cache.enable", config.response_cache.is_some_and(|cache| cache.enable), "answers are not cached"),
        ("cc_model_filenames", !config.cc_model_filenames.is_empty(), none),
        ("metric_tags", !config.metric_tags.is_empty(), none),
        ("model_metrics", config.model_metrics.is_some(), none),
        ("runtime", !config.runtime.is_empty(), none),
        ("input.format", config.input.iter().any(|input| input.format != 0), none),
    ];
    let written = table.into_iter().filter(|(_, written, _)| *written);
    written.map(|(field, _, instead)| format!("{field}: {instead}")).collect()
}
