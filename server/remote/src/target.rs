//! Where ends of asynchronous invocations are told, outside this machine: URLs that are allowed, and queues of SQS.
//!
//! Called by the control plane, when a destination is set and when an end is told.

use crate::endpoint::{plain, without_user};
use crate::s3::innermost;
use crate::sqs::Queue;
use crate::{Remote, RemoteError};
use reqwest::{Client, StatusCode, Url, header};
use std::time::Duration;
use tokio::time::timeout;

/// How long a destination may take to answer.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Url(Url),
    Queue(Queue),
}

/// Why a destination was not told.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub struct TellError {
    words: String,
    is_final: bool,
}

impl TellError {
    pub(crate) fn told(words: impl ToString) -> Self {
        Self { words: words.to_string(), is_final: false }
    }

    pub(crate) fn failed(error: reqwest::Error) -> Self {
        Self::told(format!("it cannot be reached: {}", innermost(&error)))
    }

    /// The same, of a record that will never be taken.
    pub(crate) fn finally(self, is_final: bool) -> Self {
        Self { is_final, ..self }
    }

    /// The destination is there and will never take this record: it is too large, or not what it takes.
    pub fn is_final(&self) -> bool {
        self.is_final
    }
}

/// Statuses that are about what was sent: it will not be another the next time.
const REFUSED_FOR_GOOD: [StatusCode; 5] = [
    StatusCode::BAD_REQUEST,
    StatusCode::GONE,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::UNPROCESSABLE_ENTITY,
];

impl Target {
    /// Where it is: the host and port of a URL, or the queue.
    pub fn host(&self) -> String {
        match &self.0 {
            Kind::Url(url) => {
                format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
            }
            Kind::Queue(queue) => queue.arn(),
        }
    }
}

impl Remote {
    /// Reads `https://…`, `http://…` or `arn:aws:sqs:REGION:ACCOUNT:NAME`. Errors: it is none of these, is not allowed, or there
    /// are no keys for it; in words that follow "Member must".
    pub fn target(&self, text: &str) -> Result<Target, String> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return self.url(text).map(|url| Target(Kind::Url(url)));
        }
        let Some(queue) = Queue::parse(text) else {
            return Err("be arn:aws:sqs:REGION:ACCOUNT:NAME of a standard queue, or the URL of an HTTP endpoint".into());
        };
        match self.sqs {
            Some(_) => Ok(Target(Kind::Queue(queue))),
            None => Err(
                "not be a queue, since this server has no keys to sign with: its operator sets aws.credentials_file, \
                         and sqs.endpoint_url unless the queue is AWS's"
                    .into(),
            ),
        }
    }

    fn url(&self, text: &str) -> Result<Url, String> {
        let url = Url::parse(text).ok().filter(plain);
        let url = url.ok_or("be a URL with a host and without a name, a password or a fragment")?;
        if self.http_destinations.iter().any(|prefix| is_below(&url, prefix)) {
            return Ok(url);
        }
        Err(match self.http_destinations.is_empty() {
            true => "not be a URL, since none is allowed: the server's operator allows them by prefix in \
                     lambda.http_destinations"
                .to_owned(),
            // Not which: they are the operator's.
            false => "be a URL below one that lambda.http_destinations allows".to_owned(),
        })
    }

    /// Tells a record, which is JSON. Errors: nobody took it, within ten seconds.
    pub async fn tell(&self, target: &Target, record: &str) -> Result<(), TellError> {
        let tell = async {
            match (&target.0, &self.sqs, &self.client) {
                (Kind::Url(url), _, Some(client)) => post(client, url, record).await,
                (Kind::Queue(queue), Some(sqs), _) => sqs.send(queue, record).await,
                _ => Err(TellError::told("this server's settings do not allow it any more")),
            }
        };
        let late = |_| Err(TellError::told(format!("it did not answer within {} s", TELL_TIMEOUT.as_secs())));
        timeout(TELL_TIMEOUT, tell).await.unwrap_or_else(late)
    }
}

/// Reads the setting of what is allowed.
pub(crate) fn prefixes(texts: &[String]) -> Result<Vec<Url>, RemoteError> {
    let prefix = |text: &String| {
        let url = Url::parse(text).ok().filter(|url| plain(url) && url.query().is_none());
        url.ok_or_else(|| RemoteError::Setting {
            key: "lambda.http_destinations",
            found: without_user(text),
            expected: "http:// or https:// with a host, and perhaps a path",
        })
    };
    texts.iter().map(prefix).collect()
}

/// Whether a URL is a prefix, or continues its path after a slash: `https://a/b` allows `https://a/b/c`, not `https://a/bc`.
fn is_below(url: &Url, prefix: &Url) -> bool {
    let same = url.scheme() == prefix.scheme()
        && url.host() == prefix.host()
        && url.port_or_known_default() == prefix.port_or_known_default();
    let whole = prefix.path().trim_end_matches('/');
    let rest = url.path().strip_prefix(whole);
    // Whoever decodes before it looks where the path leads would leave the prefix.
    let hidden = rest.is_some_and(|rest| {
        let rest = rest.to_ascii_lowercase();
        ["%2f", "%5c", "%25", "%2e"].iter().any(|code| rest.contains(code))
    });
    same && !hidden && (url.path() == prefix.path() || rest.is_some_and(|rest| rest.starts_with('/')))
}

async fn post(client: &Client, url: &Url, record: &str) -> Result<(), TellError> {
    let request = client.post(url.clone()).header(header::CONTENT_TYPE, "application/json").body(record.to_owned());
    let status = request.send().await.map_err(|error| TellError::failed(error.without_url()))?.status();
    match status {
        status if status.is_success() => Ok(()),
        status if status.is_redirection() => {
            Err(TellError::told(format!("it answered {status}: redirects are not followed, name the place itself")))
        }
        status => Err(TellError::told(format!("it answered {status}")).finally(REFUSED_FOR_GOOD.contains(&status))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RemoteOptions;
    use crate::test_server::{Answer, serve};

    fn remote(allowed: &[&str]) -> Remote {
        let http_destinations = allowed.iter().map(|text| text.to_string()).collect();
        Remote::new(RemoteOptions { http_destinations, ..RemoteOptions::default() }).unwrap()
    }

    #[test]
    fn only_what_is_allowed_is_a_target() {
        let some = remote(&["https://good.example/ends", "http://127.0.0.1:9000"]);
        for good in ["https://good.example/ends", "https://GOOD.example:443/ends/a?b=c", "http://127.0.0.1:9000/any"] {
            assert!(some.target(good).is_ok(), "{good}");
        }
        for bad in [
            "https://good.example/endsandmore",
            "https://good.example/other",
            "https://good.example/ends/../other",
            "https://good.example/ends/%2e%2e/other",
            "https://good.example/ends/..%2f..%2fadmin",
            "https://good.example/ends/..%5Cadmin",
            "https://good.example/ends/%252e%252e/admin",
            "https://good.example.evil.example/ends",
            "https://good.example@evil.example/ends",
            "https://me:word@good.example/ends",
            "http://good.example/ends",
            "https://good.example:444/ends",
            "http://127.0.0.1:90001/any",
            "https://good.example/ends#a",
            "https://",
        ] {
            assert!(some.target(bad).is_err(), "{bad}");
        }
        let none = remote(&[]);
        let error = none.target("https://good.example/ends").unwrap_err();
        assert!(error.contains("lambda.http_destinations"), "{error}");
        let error = none.target("arn:aws:sqs:us-east-1:123456789012:q").unwrap_err();
        assert!(error.contains("aws.credentials_file"), "{error}");
        assert!(none.target("s3://a").unwrap_err().contains("arn:aws:sqs"));
        let options = RemoteOptions { http_destinations: vec!["good.example".into()], ..RemoteOptions::default() };
        let error = Remote::new(options).err().unwrap().to_string();
        assert!(error.starts_with("lambda.http_destinations: found 'good.example', expected http"), "{error}");
    }

    #[tokio::test]
    async fn a_record_is_posted_and_redirects_are_not_followed() {
        let elsewhere = serve(vec![Answer::new(200, "", "")]);
        let moved = format!("Location: {}\r\n", elsewhere.url);
        let answers = [Answer::new(204, "", ""), Answer::new(307, &moved, ""), Answer::new(500, "", "no")];
        let server = serve([answers.to_vec(), vec![Answer::new(413, "", ""), Answer::new(404, "", "")]].concat());
        let remote = remote(&[&server.url]);
        let target = remote.target(&format!("{}ends?a=1", server.url)).unwrap();
        remote.tell(&target, "{\"a\":1}").await.unwrap();
        let asked = server.asked().remove(0);
        assert!(asked.starts_with("POST /ends?a=1 HTTP/1.1\r\n") && asked.ends_with("\r\n\r\n{\"a\":1}"), "{asked}");
        assert!(asked.contains("content-type: application/json\r\n"), "{asked}");
        let error = remote.tell(&target, "{}").await.unwrap_err().to_string();
        assert!(error.contains("307") && error.contains("not followed"), "{error}");
        for (status, is_final) in [("500", false), ("413", true), ("404", false)] {
            let error = remote.tell(&target, "{}").await.unwrap_err();
            assert!(error.to_string().contains(status) && error.is_final() == is_final, "{error}");
        }
        assert_eq!(target.host(), server.url.trim_start_matches("http://").trim_end_matches('/'));
        assert!(remote.tell(&target, "{}").await.unwrap_err().to_string().starts_with("it cannot be reached"));
        assert!(elsewhere.asked().is_empty());
    }
}
