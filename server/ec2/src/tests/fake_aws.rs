//! A small EC2, with STS and SSM: two zones, a few types, launches what it is asked for, and fails as it is told to.
//!
//! Its answers have the form of AWS's own, name spaces and all.

use super::server::{Answer, Asked, Server};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};

/// An instance that there is.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) order: String,
    pub(super) instance_type: String,
    pub(super) subnet: String,
    pub(super) is_spot: bool,
}

/// How a call fails.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// With an HTTP status and a code.
    Code(u16, &'static str),
    /// It is done, and no answer comes.
    Unanswered,
    /// It is not done, and no answer comes.
    Unheard,
}

/// What is wrong with a part of a fleet.
#[derive(Clone, Debug)]
pub(super) struct Shortage {
    pub(super) instance_type: &'static str,
    pub(super) subnet: &'static str,
    pub(super) lifecycle: &'static str,
    pub(super) code: &'static str,
}

#[derive(Default)]
struct State {
    machines: Vec<Machine>,
    /// The next calls of an action that fail.
    failures: Vec<(&'static str, u32, Failure)>,
    shortages: Vec<Shortage>,
    /// What was launched for a client token.
    tokens: BTreeMap<String, Vec<String>>,
    templates: BTreeMap<String, String>,
    lent: u32,
    next: u32,
}

pub(super) struct FakeAws {
    server: OnceLock<Server>,
    state: Mutex<State>,
}

impl FakeAws {
    pub(super) fn start() -> Arc<Self> {
        let aws = Arc::new(Self { server: OnceLock::new(), state: Mutex::default() });
        let answering = aws.clone();
        let _ = aws.server.set(Server::start(move |asked| answering.answer(asked)));
        aws
    }

    fn server(&self) -> &Server {
        self.server.get().unwrap()
    }

    pub(super) fn url(&self) -> String {
        self.server().url.clone()
    }

    /// Calls of an action so far.
    pub(super) fn asked(&self, action: &str) -> Vec<Asked> {
        self.server().asked().into_iter().filter(|asked| self::action(asked) == action).collect()
    }

    /// All actions so far.
    pub(super) fn actions(&self) -> Vec<String> {
        self.server().asked().iter().map(action).collect()
    }

    /// The next calls of an action fail.
    pub(super) fn fail(&self, action: &'static str, times: u32, failure: Failure) {
        self.state.lock().failures.push((action, times, failure));
    }

    pub(super) fn lack(&self, shortage: Shortage) {
        self.state.lock().shortages.push(shortage);
    }

    pub(super) fn alive(&self) -> Vec<Machine> {
        let state = self.state.lock();
        state.machines.iter().filter(|one| matches!(one.state, "pending" | "running" | "stopped")).cloned().collect()
    }

    pub(super) fn set_state(&self, name: &str, to: &'static str) {
        let mut state = self.state.lock();
        state.machines.iter_mut().filter(|one| one.name == name).for_each(|one| one.state = to);
    }

    /// One that nobody here has ordered.
    pub(super) fn put(&self, order: &str) -> String {
        let mut state = self.state.lock();
        state.next += 1;
        let name = format!("i-{:017x}", state.next);
        state.machines.push(Machine {
            name: name.clone(),
            state: "running",
            order: order.into(),
            instance_type: "g6.xlarge".into(),
            subnet: "subnet-a2".into(),
            is_spot: false,
        });
        name
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let action = action(asked);
        let failure = {
            let mut state = self.state.lock();
            let found = state.failures.iter_mut().find(|(name, times, _)| *name == action && *times > 0);
            found.map(|(_, times, failure)| {
                *times -= 1;
                failure.clone()
            })
        };
        match failure {
            Some(Failure::Code(status, code)) => error(&action, status, code),
            Some(Failure::Unheard) => Answer::Nothing,
            Some(Failure::Unanswered) => {
                self.done(&action, asked);
                Answer::Nothing
            }
            None => self.done(&action, asked),
        }
    }

    fn done(&self, action: &str, asked: &Asked) -> Answer {
        let mut state = self.state.lock();
        match action {
            "GetParameter" => {
                let name = asked.body.split('"').nth(3).unwrap().rsplit('/').next().unwrap().replace('-', "");
                Answer::Send(200, format!("{{\"Parameter\":{{\"Name\":\"x\",\"Value\":\"ami-{name}\"}}}}"))
            }
            "AssumeRole" => {
                state.lent += 1;
                let (number, ends) = (state.lent, "2027-01-15T09:00:00Z");
                Answer::Send(
                    200,
                    format!(
                        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
                         <AccessKeyId>ASIALENT{number}</AccessKeyId><SecretAccessKey>lent+secret</SecretAccessKey>\
                         <SessionToken>lent-token-{number}</SessionToken><Expiration>{ends}</Expiration></Credentials>\
                         </AssumeRoleResult></AssumeRoleResponse>"
                    ),
                )
            }
            "DescribeSubnets" => {
                let subnet = |(id, zone, free): (&str, &str, u32)| {
                    format!(
                        "<item><subnetId>{id}</subnetId><availabilityZone>{zone}</availabilityZone>\
                         <availableIpAddressCount>{free}</availableIpAddressCount></item>"
                    )
                };
                let all = [("subnet-a1", "a", 2), ("subnet-a2", "a", 200), ("subnet-b1", "b", 9)];
                sent(action, &format!("<subnetSet>{}</subnetSet>", all.map(subnet).concat()))
            }
            "DescribeInstanceTypes" => types(asked.param("NextToken")),
            "DescribeInstanceTypeOfferings" => {
                let item = |(name, zone): &(&str, &str)| {
                    format!(
                        "<item><instanceType>{name}</instanceType><locationType>availability-zone</locationType><location>{zone}</location></item>"
                    )
                };
                let all =
                    ["g6.xlarge", "g5.xlarge", "p5.48xlarge", "c7g.large", "trn1.2xlarge", "a1.large", "unknown.large"];
                let all: Vec<(&str, &str)> = all.iter().flat_map(|name| [(*name, "a"), (*name, "b")]).collect();
                let items: String = all.iter().map(item).collect();
                sent(action, &format!("<instanceTypeOfferingSet>{items}</instanceTypeOfferingSet>"))
            }
            "DescribeImages" => {
                let (id, gib) =
                    (asked.param("ImageId.1"), if asked.param("ImageId.1").contains("gpu") { 75 } else { 8 });
                sent(
                    action,
                    &format!(
                        "<imagesSet><item><imageId>{id}</imageId><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping>\
                         <item><deviceName>/dev/xvda</deviceName><ebs><volumeSize>{gib}</volumeSize></ebs></item>\
                         </blockDeviceMapping></item></imagesSet>"
                    ),
                )
            }
            "DescribeLaunchTemplates" => {
                let item = |(name, id): (&String, &String)| {
                    format!(
                        "<item><launchTemplateId>{id}</launchTemplateId><launchTemplateName>{name}</launchTemplateName></item>"
                    )
                };
                let items: String = state.templates.iter().map(item).collect();
                sent(action, &format!("<launchTemplates>{items}</launchTemplates>"))
            }
            "CreateLaunchTemplate" => {
                let name = asked.param("LaunchTemplateName").to_owned();
                if state.templates.contains_key(&name) {
                    return error(action, 400, "InvalidLaunchTemplateName.AlreadyExistsException");
                }
                let id = format!("lt-{}", state.templates.len() + 1);
                state.templates.insert(name, id.clone());
                sent(action, &format!("<launchTemplate><launchTemplateId>{id}</launchTemplateId></launchTemplate>"))
            }
            "DeleteLaunchTemplate" => {
                let id = asked.param("LaunchTemplateId");
                state.templates.retain(|_, known| known != id);
                sent(action, "")
            }
            "DescribeSpotPriceHistory" => {
                let (name, zone) = (asked.param("InstanceType.1"), asked.param("AvailabilityZone"));
                let item = |(usd, at): (&str, &str)| {
                    format!(
                        "<item><instanceType>{name}</instanceType><availabilityZone>{zone}</availabilityZone>\
                         <spotPrice>{usd}</spotPrice><timestamp>{at}</timestamp></item>"
                    )
                };
                let all = [("0.310000", "2027-01-15T07:00:00.000Z"), ("0.290000", "2027-01-15T06:00:00.000Z")];
                sent(action, &format!("<spotPriceHistorySet>{}</spotPriceHistorySet>", all.map(item).concat()))
            }
            "CreateFleet" => state.create_fleet(asked),
            "DescribeInstances" => state.describe(asked),
            "TerminateInstances" => state.terminate(asked),
            other => error(other, 400, "InvalidAction"),
        }
    }
}

impl State {
    fn create_fleet(&mut self, asked: &Asked) -> Answer {
        let token = asked.param("ClientToken").to_owned();
        let first = "LaunchTemplateConfigs.1.Overrides.";
        let overrides: Vec<(String, String)> = (1..)
            .map(|number| {
                let of = |name: &str| asked.param(&format!("{first}{number}.{name}")).to_owned();
                (of("InstanceType"), of("SubnetId"))
            })
            .take_while(|(name, _)| !name.is_empty())
            .collect();
        let (mut instances, mut errors) = (String::new(), String::new());
        if !self.tokens.contains_key(&token) {
            let mut launched = Vec::new();
            for (market, lifecycle) in [("OnDemand", "on-demand"), ("Spot", "spot")] {
                let wanted: u32 =
                    asked.param(&format!("TargetCapacitySpecification.{market}TargetCapacity")).parse().unwrap();
                let mut had = false;
                for (name, subnet) in overrides.iter().filter(|_| wanted > 0) {
                    let lack = self
                        .shortages
                        .iter()
                        .find(|lack| (lack.instance_type, lack.subnet, lack.lifecycle) == (name, subnet, lifecycle));
                    if let Some(lack) = lack {
                        let _ = write!(
                            errors,
                            "<item><launchTemplateAndOverrides><overrides><instanceType>{name}</instanceType>\
                             <subnetId>{subnet}</subnetId></overrides></launchTemplateAndOverrides>\
                             <lifecycle>{lifecycle}</lifecycle><errorCode>{}</errorCode>\
                             <errorMessage>We currently do not have it.</errorMessage></item>",
                            lack.code
                        );
                    } else if !std::mem::replace(&mut had, true) {
                        for _ in 0..wanted {
                            self.next += 1;
                            let id = format!("i-{:017x}", self.next);
                            launched.push(id.clone());
                            self.machines.push(Machine {
                                name: id,
                                state: "pending",
                                order: asked.param("TagSpecification.1.Tag.4.Value").into(),
                                instance_type: name.clone(),
                                subnet: subnet.clone(),
                                is_spot: lifecycle == "spot",
                            });
                        }
                    }
                }
            }
            self.tokens.insert(token.clone(), launched);
        }
        for id in &self.tokens[&token] {
            let Some(one) = self.machines.iter().find(|one| one.name == *id) else { continue };
            let lifecycle = if one.is_spot { "spot" } else { "on-demand" };
            let _ = write!(
                instances,
                "<item><launchTemplateAndOverrides><overrides><subnetId>{}</subnetId></overrides></launchTemplateAndOverrides>\
                 <lifecycle>{lifecycle}</lifecycle><instanceIds><item>{id}</item></instanceIds>\
                 <instanceType>{}</instanceType></item>",
                one.subnet, one.instance_type
            );
        }
        let body = format!(
            "<fleetId>fleet-1</fleetId><errorSet>{errors}</errorSet><fleetInstanceSet>{instances}</fleetInstanceSet>"
        );
        sent("CreateFleet", &body)
    }

    /// One instance a page.
    fn describe(&self, asked: &Asked) -> Answer {
        let order = asked.param("Filter.2.Value.1");
        let meant: Vec<&Machine> = self.machines.iter().filter(|one| order.is_empty() || one.order == order).collect();
        let at: usize = asked.param("NextToken").parse().unwrap_or(0);
        let item = |one: &&Machine| {
            let lifecycle = if one.is_spot { "<instanceLifecycle>spot</instanceLifecycle>" } else { "" };
            format!(
                "<item><instancesSet><item><instanceId>{}</instanceId><instanceState><code>0</code><name>{}</name></instanceState>\
                 <instanceType>{}</instanceType><placement><availabilityZone>{}</availabilityZone></placement>{lifecycle}\
                 <tagSet><item><key>penstock:fleet</key><value>f1</value></item><item><key>penstock:order</key>\
                 <value>{}</value></item></tagSet></item></instancesSet></item>",
                one.name,
                one.state,
                one.instance_type,
                &one.subnet[7..8],
                one.order
            )
        };
        let next = if at + 1 < meant.len() { format!("<nextToken>{}</nextToken>", at + 1) } else { String::new() };
        let items: String = meant.get(at).map(item).into_iter().collect();
        sent("DescribeInstances", &format!("<reservationSet>{items}</reservationSet>{next}"))
    }

    /// All or none, as EC2 does it.
    fn terminate(&mut self, asked: &Asked) -> Answer {
        let ids = (1..).map(|number| asked.param(&format!("InstanceId.{number}"))).take_while(|id| !id.is_empty());
        let ids: Vec<&str> = ids.collect();
        if !ids.iter().all(|id| self.machines.iter().any(|one| one.name == *id)) {
            return error("TerminateInstances", 400, "InvalidInstanceID.NotFound");
        }
        let meant = self.machines.iter_mut().filter(|one| ids.contains(&one.name.as_str()));
        meant.for_each(|one| one.state = "shutting-down");
        sent("TerminateInstances", "<instancesSet/>")
    }
}

fn action(asked: &Asked) -> String {
    match asked.head.to_lowercase().split_once("x-amz-target: amazonssm.") {
        Some(_) => "GetParameter".into(),
        None => asked.param("Action").to_owned(),
    }
}

fn sent(action: &str, body: &str) -> Answer {
    let space = "http://ec2.amazonaws.com/doc/2016-11-15/";
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    Answer::Send(
        200,
        format!("{head}<{action}Response xmlns=\"{space}\"><requestId>1</requestId>{body}</{action}Response>"),
    )
}

fn error(action: &str, status: u16, code: &str) -> Answer {
    let body = match action {
        "GetParameter" => format!("{{\"__type\":\"com.amazonaws.ssm#{code}\",\"message\":\"No.\"}}"),
        "AssumeRole" => format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>No.</Message></Error></ErrorResponse>"
        ),
        _ => format!("<Response><Errors><Error><Code>{code}</Code><Message>No.</Message></Error></Errors></Response>"),
    };
    Answer::Send(status, body)
}

/// Two pages.
fn types(page: &str) -> Answer {
    let item = |name: &str, architecture: &str, vcpu: u32, mib: u64, efa: bool, more: &str| {
        format!(
            "<item><instanceType>{name}</instanceType><processorInfo><supportedArchitectures><item>{architecture}</item>\
             </supportedArchitectures></processorInfo><vCpuInfo><defaultVCpus>{vcpu}</defaultVCpus></vCpuInfo><memoryInfo>\
             <sizeInMiB>{mib}</sizeInMiB></memoryInfo><networkInfo><efaSupported>{efa}</efaSupported></networkInfo>{more}</item>"
        )
    };
    let gpu = |name: &str, maker: &str, count: u32, mib: u32| {
        format!(
            "<gpuInfo><gpus><item><name>{name}</name><manufacturer>{maker}</manufacturer><count>{count}</count><memoryInfo>\
             <sizeInMiB>{mib}</sizeInMiB></memoryInfo></item></gpus></gpuInfo>"
        )
    };
    let neuron =
        "<neuronInfo><neuronDevices><item><count>1</count><name>Trainium</name></item></neuronDevices></neuronInfo>";
    let (items, next) = match page {
        "" => (
            [
                item("g6.xlarge", "x86_64", 4, 16_384, false, &gpu("L4", "NVIDIA", 1, 22_888)),
                item("g5.xlarge", "x86_64", 4, 16_384, false, &gpu("A10G", "NVIDIA", 1, 22_888)),
                item("g4ad.xlarge", "x86_64", 4, 16_384, false, &gpu("Radeon Pro V520", "AMD", 1, 8_192)),
            ]
            .concat(),
            "<nextToken>2</nextToken>",
        ),
        _ => (
            [
                item("p5.48xlarge", "x86_64", 192, 2_097_152, true, &gpu("H100", "NVIDIA", 8, 81_920)),
                item("c7g.large", "arm64", 2, 4_096, false, ""),
                item("trn1.2xlarge", "x86_64", 8, 32_768, false, neuron),
                item("a1.large", "arm64", 2, 4_096, false, ""),
                item("mac2.metal", "arm64_mac", 8, 16_384, false, ""),
            ]
            .concat(),
            "",
        ),
    };
    sent("DescribeInstanceTypes", &format!("<instanceTypeSet>{items}</instanceTypeSet>{next}"))
}
