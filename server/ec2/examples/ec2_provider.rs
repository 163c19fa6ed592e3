//! Drives a provider from outside, line by line in JSON: what tests against emulators of EC2 call.
//!
//! The first line has the options, each other one a command: `launch`, `terminate`, `offered` or `close`. Each is answered with one
//! line; names of instances that have ended come between them, as `{"ended": NAME}`.
#![allow(clippy::disallowed_methods)] // it is its own composition root
#![allow(clippy::print_stdout)]

use penstock_ec2::{AgentFile, Ec2Options, Ec2Provider, Endpoints, Identity, Image, Images, OperatorRole, Timing};
use penstock_instances::{Offer, Provider};
use penstock_remote::{CredentialSource, Credentials};
use penstock_scaler::Architecture;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn options(given: &Value) -> Ec2Options {
    let endpoint = Some(text(given, "endpoint"));
    let milliseconds = |key: &str, other: u64| Duration::from_millis(given[key].as_u64().unwrap_or(other));
    let keys = Credentials {
        access_key_id: text(given, "access_key_id"),
        secret_access_key: text(given, "secret_access_key"),
        session_token: None,
    };
    let agent = AgentFile { uri: "s3://penstock-test/agent".into(), sha256: "0".repeat(64) };
    let image = |key: &str, other: Image| given["images"][key].as_str().map_or(other, |id| Image::Id(id.to_owned()));
    let Images { x86, arm, gpu_x86, gpu_arm } = Images::default();
    Ec2Options {
        region: text(given, "region"),
        endpoints: Endpoints { ec2: endpoint.clone(), sts: endpoint.clone(), ssm: endpoint, metadata: None },
        identity: Identity::Keys(CredentialSource::Fixed(keys)),
        operator_role: given["role"].as_str().map(|arn| OperatorRole { arn: arn.to_owned(), external_id: None }),
        fleet: text(given, "fleet"),
        subnets: texts(&given["subnets"]),
        security_groups: texts(&given["security_groups"]),
        tags: BTreeMap::from([("team".to_owned(), "tests".to_owned())]),
        instance_profile: "penstock-instance".to_owned(),
        images: Images {
            x86: image("x86", x86),
            arm: image("arm", arm),
            gpu_x86: image("gpu_x86", gpu_x86),
            gpu_arm: image("gpu_arm", gpu_arm),
        },
        agents: BTreeMap::from([(Architecture::X86, agent.clone()), (Architecture::Arm, agent)]),
        agent_arguments: vec!["instance".to_owned()],
        spot_percent: given["spot_percent"].as_u64().unwrap_or(0) as u8,
        volume_gib: 60,
        efa: given["efa"].as_bool().unwrap_or(false),
        types_file: given["types_file"].as_str().map(Into::into),
        timing: Timing {
            look_every: milliseconds("look_ms", 500),
            unseen: milliseconds("unseen_ms", 60_000),
            attempt: milliseconds("attempt_ms", 20_000),
            call: milliseconds("call_ms", 60_000),
            pause: (Duration::from_millis(50), Duration::from_secs(1)),
            ..Timing::default()
        },
        clock: SystemTime::now,
        seed: SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
    }
}

fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

async fn carry_out(provider: &Ec2Provider, command: &Value) -> Value {
    match command["do"].as_str() {
        Some("launch") => {
            let offers = command["offers"].as_array().into_iter().flatten().map(texts);
            let offers = offers.filter_map(|words| {
                let [instance_type, zone] = words.try_into().ok()?;
                Some(Offer { instance_type, zone })
            });
            let offers: Vec<Offer> = offers.collect();
            let told = command["told"].to_string();
            match provider.launch_told(&text(command, "token"), &texts(&command["ids"]), &offers, &told).await {
                Ok(outcome) => {
                    let launched = outcome.launched.iter().map(|one| {
                        json!({ "id": one.id, "name": one.name, "type": one.offer.instance_type, "zone": one.offer.zone,
                                "market": format!("{:?}", one.market), "usd_per_hour": one.usd_per_hour })
                    });
                    let missing = outcome.missing.iter().map(
                        |one| json!({ "type": one.offer.instance_type, "zone": one.offer.zone, "reason": one.reason }),
                    );
                    json!({ "launched": launched.collect::<Vec<_>>(), "missing": missing.collect::<Vec<_>>() })
                }
                Err(error) => json!({ "error": error.to_string() }),
            }
        }
        Some("terminate") => {
            provider.terminate(&text(command, "name")).await;
            json!({})
        }
        Some("offered") => {
            let prices = command["prices"].as_object().into_iter().flatten();
            let prices = prices.filter_map(|(name, usd)| Some((name.clone(), usd.as_f64()?))).collect();
            let allowed = texts(&command["allowed"]);
            let types = provider.types();
            let offered = provider.offered(&prices, |name| allowed.is_empty() || allowed.iter().any(|one| one == name));
            let of = |name: &str| types.get(name).map(|facts| (facts.shape, facts.device.clone(), facts.efa));
            let all = offered.types.iter().map(|one| {
                let (shape, device, efa) = of(&one.name).expect("it is offered");
                json!({ "name": one.name, "shape": shape, "device": device, "efa": efa, "zones": one.zones,
                        "usd_per_hour": one.usd_per_hour })
            });
            json!({ "types": all.collect::<Vec<_>>(), "without_price": offered.without_price.len(),
                    "is_guessed": offered.is_guessed, "zones": provider.zones(), "count": types.count() })
        }
        Some("close") => {
            let closed = provider.close().await;
            closed.map_or_else(|error| json!({ "error": error.to_string() }), |()| json!({}))
        }
        _ => json!({ "error": "expected launch, terminate, offered or close" }),
    }
}

#[tokio::main]
async fn main() {
    let mut lines = std::io::stdin().lock().lines().map_while(Result::ok);
    let given = lines.next().and_then(|line| serde_json::from_str(&line).ok()).unwrap_or(Value::Null);
    let provider = match Ec2Provider::open(options(&given)).await {
        Ok(provider) => Arc::new(provider),
        Err(error) => return say(&json!({ "error": error.to_string() })),
    };
    say(&json!({ "opened": provider.zones() }));
    let telling = provider.clone();
    tokio::spawn(async move {
        loop {
            say(&json!({ "ended": telling.ended().await }));
        }
    });
    for line in lines {
        let command: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
        // A command in the background answers whenever it is done.
        let (provider, number) = (provider.clone(), command["number"].clone());
        let answered = tokio::spawn(async move { carry_out(&provider, &command).await });
        let mut answer = answered.await.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        answer["number"] = number;
        say(&answer);
    }
}
