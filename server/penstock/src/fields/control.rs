//! Settings of who may do what, what is deployed, and what other services are for.

use super::{Field, Kind};

pub(super) const FIELDS: &[Field] = &[
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
        key: "lambda.http_destinations",
        variable: "PENSTOCK_HTTP_DESTINATIONS",
        kind: Kind::Names,
        default: "",
        unit: "URLs",
        meaning: "Where clients may have ends of asynchronous invocations posted: these URLs and what is below them. Empty: nowhere.",
    },
    Field {
        key: "packages.max_package_bytes",
        variable: "PENSTOCK_MAX_PACKAGE_BYTES",
        kind: Kind::Integer(1 << 20, 1 << 44),
        default: "68719476736",
        unit: "bytes",
        meaning: "Largest package from S3, as a ZIP and unpacked (while it is read, the data directory needs room for both), and of all files \
                  together that penstock deploy sends.",
    },
    Field {
        key: "packages.s3_bucket",
        variable: "PENSTOCK_PACKAGES_S3_BUCKET",
        kind: Kind::Text,
        default: "",
        unit: "bucket",
        meaning: "Packages that come from now on are kept in this bucket too, and fetched from it where the data directory lacks them. Nothing is ever \
                  deleted there: servers may share it. Empty: in the data directory alone.",
    },
    Field {
        key: "packages.s3_prefix",
        variable: "PENSTOCK_PACKAGES_S3_PREFIX",
        kind: Kind::Text,
        default: "penstock",
        unit: "prefix",
        meaning: "What their keys begin with.",
    },
    Field {
        key: "aws.credentials_file",
        variable: "PENSTOCK_AWS_CREDENTIALS_FILE",
        kind: Kind::Path,
        default: "",
        unit: "path",
        meaning: "Keys for S3 and SQS, a file as AWS's tools have it; changes count at once. Whoever may deploy can use what they \
                  may read. Empty: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, if they are set.",
    },
    Field {
        key: "aws.profile",
        variable: "PENSTOCK_AWS_PROFILE",
        kind: Kind::Text,
        default: "default",
        unit: "name",
        meaning: "The profile of that file.",
    },
    Field {
        key: "s3.endpoint_url",
        variable: "PENSTOCK_S3_ENDPOINT_URL",
        kind: Kind::Text,
        default: "",
        unit: "URL",
        meaning: "S3-compatible storage, such as http://127.0.0.1:9000; buckets are the first part of the path. Empty: AWS's of s3.region.",
    },
    Field {
        key: "s3.region",
        variable: "PENSTOCK_S3_REGION",
        kind: Kind::Text,
        default: "",
        unit: "region",
        meaning: "Where the buckets are. Empty: lambda.region.",
    },
    Field {
        key: "sqs.endpoint_url",
        variable: "PENSTOCK_SQS_ENDPOINT_URL",
        kind: Kind::Text,
        default: "",
        unit: "URL",
        meaning: "Where queues are that asynchronous invocations end in. Empty: AWS's of each queue's region.",
    },
];
