//! `penstock deploy`, `invoke` and the like: what people do with a running server, without AWS's tools.
//!
//! Called by `main`. Speaks Lambda's API over HTTP, as any client does, and the two calls by which packages come file by file.
//! Results go to standard output, as a table or with `--json` as JSON; progress and mistakes go to standard error.

mod call;
mod deploy;
mod functions;
mod invoke;
mod package;
pub(crate) mod show;

use call::{Client, Where};
use clap::{Args, Subcommand};
use std::process::ExitCode;

pub(crate) use call::ClientError;

/// Exit code when the server, or what it runs, says no.
const EXIT_REFUSED: u8 = 1;
/// Exit code for a wrong command line.
const EXIT_USAGE: u8 = 64;
/// Exit code when no server answers (`EX_UNAVAILABLE` of sysexits.h).
const EXIT_UNAVAILABLE: u8 = 69;

/// What people do with a running server.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Send a model's folder, publish it as a version, wait until it serves, and let an alias lead to it.
    Deploy(deploy::Deploy),
    /// Call a function.
    Invoke(invoke::Invoke),
    /// List the functions.
    Functions(functions::List),
    /// List the versions of a function, with the aliases that lead to each.
    Versions(functions::Versions),
    /// List a function's aliases, set one, or delete one.
    Alias(functions::Alias),
    /// Delete a function, or one version of it.
    Delete(functions::Delete),
    /// Print what a function's environments said last, and what became of them.
    Logs(functions::Logs),
    /// The instances that environments run on.
    Instances(functions::Instances),
}

/// Where the server is, and how answers are printed.
#[derive(Args, Clone)]
pub(crate) struct Common {
    /// The server's HTTP address; also PENSTOCK_ENDPOINT. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY sign, if they are set.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Does it. `variable` reads the environment's variables, `now` the wall clock in seconds since the epoch.
pub(crate) fn run(command: Command, variable: &dyn Fn(&str) -> Option<String>, now: fn() -> i64) -> ExitCode {
    let common = match &command {
        Command::Deploy(deploy::Deploy { common, .. })
        | Command::Invoke(invoke::Invoke { common, .. })
        | Command::Functions(functions::List { common })
        | Command::Versions(functions::Versions { common, .. })
        | Command::Alias(functions::Alias { common, .. })
        | Command::Delete(functions::Delete { common, .. })
        | Command::Logs(functions::Logs { common, .. })
        | Command::Instances(functions::Instances { common, .. }) => common.clone(),
    };
    let done = (|| {
        let place = Where {
            endpoint: common.endpoint.clone().or_else(|| variable("PENSTOCK_ENDPOINT")),
            access_key_id: variable("AWS_ACCESS_KEY_ID"),
            secret_access_key: variable("AWS_SECRET_ACCESS_KEY"),
            session_token: variable("AWS_SESSION_TOKEN"),
            region: variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")),
        };
        let client = Client::new(place, now)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ClientError::Local(format!("cannot start: {error}")))?;
        runtime.block_on(async {
            match command {
                Command::Deploy(deploy) => deploy.run(&client).await,
                Command::Invoke(invoke) => invoke.run(&client).await,
                Command::Functions(list) => list.run(&client).await,
                Command::Versions(versions) => versions.run(&client).await,
                Command::Alias(alias) => alias.run(&client).await,
                Command::Delete(delete) => delete.run(&client).await,
                Command::Logs(logs) => logs.run(&client).await,
                Command::Instances(instances) => instances.run(&client).await,
            }
        })
    })();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match common.json {
                true => show::tell(&error.json().to_string()),
                false => show::tell(&format!("penstock: {error}")),
            }
            ExitCode::from(match error {
                ClientError::Usage(_) => EXIT_USAGE,
                ClientError::Unreachable { .. } | ClientError::Silent { .. } => EXIT_UNAVAILABLE,
                ClientError::Refused { .. } | ClientError::Local(_) => EXIT_REFUSED,
            })
        }
    }
}
