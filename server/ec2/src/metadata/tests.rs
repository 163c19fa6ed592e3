//! Instance metadata as a machine sees it.

use super::*;
use crate::tests::options;
use crate::tests::server::{Answer, Asked, Server};
use crate::{Ec2Provider, Identity};
use tokio::time::timeout;

const DOCUMENT: &str = "{\"accountId\":\"123456789012\",\"architecture\":\"x86_64\",\"availabilityZone\":\"eu-west-1a\",\
                        \"instanceId\":\"i-0123456789abcdef0\",\"instanceType\":\"g6.xlarge\",\"privateIp\":\"10.0.1.7\",\
                        \"region\":\"eu-west-1\",\"version\":\"2017-09-30\"}";

fn sent(text: &str) -> Answer {
    Answer::Send(200, text.to_owned())
}

/// Version 2 alone: a token is asked for with PUT, and nothing is answered without the last one.
fn machine(mut answer: impl FnMut(&str) -> Answer + Send + 'static) -> Server {
    let mut tokens = 0;
    Server::start(move |asked: &Asked| {
        let head = asked.head.to_lowercase();
        let path = asked.head.split(' ').nth(1).unwrap().strip_prefix("/latest/").unwrap().to_owned();
        if path == "api/token" {
            assert!(head.starts_with("put ") && head.contains("x-aws-ec2-metadata-token-ttl-seconds: 21600"), "{head}");
            tokens += 1;
            return sent(&format!("token-{tokens}"));
        }
        match head.contains(&format!("x-aws-ec2-metadata-token: token-{tokens}")) {
            true => answer(&path),
            false => Answer::Send(401, String::new()),
        }
    })
}

fn metadata(server: &Server) -> Metadata {
    Metadata { every: Duration::from_millis(5), ..Metadata::new(Some(&server.url)).unwrap() }
}

#[tokio::test]
async fn a_machine_knows_what_it_is() {
    let mut refuse = 1;
    let server = machine(move |path| match (path, std::mem::take(&mut refuse)) {
        (_, 1) => Answer::Send(503, String::new()),
        ("dynamic/instance-identity/document", _) => sent(DOCUMENT),
        _ => Answer::Send(404, String::new()),
    });
    let metadata = metadata(&server);
    let identity = metadata.identity().await.unwrap();
    assert_eq!((identity.instance_id.as_str(), identity.private_ip.as_str()), ("i-0123456789abcdef0", "10.0.1.7"));
    assert_eq!((identity.instance_type.as_str(), identity.availability_zone.as_str()), ("g6.xlarge", "eu-west-1a"));
    *metadata.token.lock().await = Some(("old".into(), Instant::now()));
    metadata.identity().await.unwrap();
    let server = machine(|_| sent("{}"));
    let error = self::metadata(&server).identity().await.unwrap_err().to_string();
    assert!(error.contains("something else than the identity of an instance"), "{error}");
}

#[tokio::test]
async fn a_notice_of_spot_is_heard_when_it_comes() {
    let mut looks = 0;
    let server = machine(move |path| match path {
        "meta-data/spot/instance-action" => {
            looks += 1;
            match looks {
                3 => Answer::Send(500, String::new()),
                5.. => sent("{\"action\":\"terminate\",\"time\":\"2027-01-15T08:22:00Z\"}"),
                _ => Answer::Send(404, String::new()),
            }
        }
        _ => sent("[]"),
    });
    let words = timeout(Duration::from_secs(20), metadata(&server).interruption()).await.unwrap();
    assert_eq!(words, "Spot takes the instance back: terminate at 2027-01-15T08:22:00Z");
}

#[tokio::test]
async fn an_event_that_is_planned_is_heard() {
    let event = |state: &str| {
        format!(
            "{{\"NotBefore\":\"21 Jan 2027 09:00:43 GMT\",\"Code\":\"instance-retirement\",\
             \"Description\":\"The instance is running on degraded hardware\",\"State\":\"{state}\"}}"
        )
    };
    let events = format!("[{},{}]", event("completed"), event("active"));
    let server = machine(move |path| match path {
        "meta-data/events/maintenance/scheduled" => sent(&events),
        _ => Answer::Send(404, String::new()),
    });
    let words = timeout(Duration::from_secs(20), metadata(&server).interruption()).await.unwrap();
    assert!(words.starts_with("AWS has planned instance-retirement from 21 Jan 2027 09:00:43 GMT"), "{words}");
    let server = machine(|path| match path {
        "meta-data/events/maintenance/scheduled" => sent("[{\"State\":\"completed\"}]"),
        _ => Answer::Send(404, String::new()),
    });
    assert!(timeout(Duration::from_millis(300), metadata(&server).interruption()).await.is_err());
}

#[tokio::test]
async fn nobody_there_is_said() {
    let error = Metadata::new(Some("http://127.0.0.1:9")).unwrap().identity().await.unwrap_err().to_string();
    assert!(error.starts_with("instance metadata does not answer at http://127.0.0.1:9/: "), "{error}");
    let error = Metadata::new(Some("169.254.169.254")).err().unwrap().to_string();
    assert!(error.starts_with("ec2.metadata_endpoint_url: found"), "{error}");
}

#[tokio::test]
async fn a_server_on_ec2_has_the_keys_of_its_machine() {
    let server = machine(|path| match path {
        "meta-data/iam/security-credentials/" => sent("server-role\n"),
        "meta-data/iam/security-credentials/server-role" => sent(
            "{\"Code\":\"Success\",\"AccessKeyId\":\"ASIAMACHINE\",\"SecretAccessKey\":\"s\",\"Token\":\"machine-token\",\
             \"Expiration\":\"2027-01-15T09:00:00Z\"}",
        ),
        _ => Answer::Send(404, String::new()),
    });
    let service = Server::start(|_| Answer::Send(403, String::new()));
    let mut options = options(&service.url);
    options.identity = Identity::InstanceProfile;
    options.endpoints.metadata = Some(server.url.clone());
    assert!(Ec2Provider::open(options).await.is_err());
    let head = service.asked()[0].head.clone();
    assert!(head.contains("Credential=ASIAMACHINE/") && head.contains("x-amz-security-token: machine-token"), "{head}");
}
