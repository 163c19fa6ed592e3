//! What an instance runs first: a script that fetches the agent, checks it, and runs it with what it is told.
//!
//! Called by the provider with each order. The script is `user-data.sh`, with words between `@` filled in.

use crate::options::{AgentFile, Ec2Options};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_scaler::Architecture;

/// The script.
pub(crate) const SCRIPT: &str = include_str!("../user-data.sh");
/// Most bytes of user data, by EC2's own limit.
const BYTES_MAX: usize = 16 * 1024;

/// The script for an order, in base64. Errors: it is too long.
pub(crate) fn user_data(options: &Ec2Options, told: &str) -> Result<String, String> {
    let file = |architecture| options.agents.get(&architecture);
    let uri = |architecture| file(architecture).map_or("", |file: &AgentFile| &file.uri);
    let sha256 = |architecture| file(architecture).map_or("", |file: &AgentFile| &file.sha256);
    let script = SCRIPT
        .replace("@REGION@", &options.region)
        .replace("@X86_URI@", uri(Architecture::X86))
        .replace("@X86_SHA256@", sha256(Architecture::X86))
        .replace("@ARM_URI@", uri(Architecture::Arm))
        .replace("@ARM_SHA256@", sha256(Architecture::Arm))
        .replace("@ARGUMENTS@", &options.agent_arguments.join(" "))
        // Last: nothing in it is filled in.
        .replace("@TOLD@", &STANDARD.encode(format!("{told}\n")));
    match script.len() {
        ..=BYTES_MAX => Ok(STANDARD.encode(script)),
        bytes => Err(format!("the user data of an instance has {bytes} bytes, and EC2 takes at most {BYTES_MAX}")),
    }
}
