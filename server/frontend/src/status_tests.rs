//! The table, row by row, and what a client reads beside a refusal.

use super::*;
use penstock_domain::ShedReason;
use tonic::Code;

#[test]
fn every_row_of_the_table() {
    use ErrorCode as E;
    let rows = [
        (E::InvalidArgument, Code::InvalidArgument, 400),
        (E::NotFound, Code::NotFound, 404),
        (E::Conflict, Code::FailedPrecondition, 409),
        (E::TooLarge, Code::ResourceExhausted, 413),
        (E::Unsupported, Code::Unimplemented, 501),
        (E::Exhausted, Code::ResourceExhausted, 429),
        (E::Unavailable, Code::Unavailable, 503),
        (E::DeadlineExceeded, Code::DeadlineExceeded, 504),
        (E::Cancelled, Code::Cancelled, 499),
        (E::Internal, Code::Internal, 500),
    ];
    for (code, grpc, http) in rows {
        assert_eq!(grpc_code(code, OverloadCodes::Lambda), grpc, "{code:?}");
        assert_eq!(http_status(code, OverloadCodes::Lambda).as_u16(), http, "{code:?}");
        let (grpc, http) = if code == E::Exhausted { (Code::Unavailable, 503) } else { (grpc, http) };
        assert_eq!(grpc_code(code, OverloadCodes::Triton), grpc, "{code:?}");
        assert_eq!(http_status(code, OverloadCodes::Triton).as_u16(), http, "{code:?}");
    }
}

#[test]
fn waits_are_rounded_up_and_never_zero() {
    let headers = |wait| {
        let headers = refusal_headers(&Refusal::shed(ShedReason::QueueRequests, "full", wait));
        let read = |name: &str| headers[name].to_str().unwrap().to_owned();
        (read("retry-after"), read("x-amz-retry-after"))
    };
    assert_eq!(headers(Some(Duration::ZERO)), ("1".into(), "1".into()));
    assert_eq!(headers(Some(Duration::from_micros(1500))), ("1".into(), "2".into()));
    assert_eq!(headers(Some(Duration::from_millis(1001))), ("2".into(), "1001".into()));
    assert_eq!(headers(None), ("1".into(), "1000".into()));
}

#[test]
fn the_reason_does_not_change_with_the_codes() {
    for reason in ShedReason::ALL {
        let refusal = Refusal::shed(reason, "words", Some(Duration::from_millis(20)));
        for overload in [OverloadCodes::Lambda, OverloadCodes::Triton] {
            let status = refusal_to_status(&refusal, overload);
            assert_eq!(status.message(), "words");
            assert_eq!(status.metadata().get("x-penstock-shed-reason").unwrap(), reason.name());
            assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "20");
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.name(), "penstock"));
            assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_millis(20)));
        }
        assert_eq!(refusal_headers(&refusal)["x-penstock-shed-reason"], reason.name());
    }
}

#[test]
fn a_plain_error_carries_nothing_beside_it() {
    let refusal = Refusal::invalid("field 'a' is wrong");
    let status = refusal_to_status(&refusal, OverloadCodes::Lambda);
    assert!(status.details().is_empty() && status.metadata().is_empty());
    assert!(refusal_headers(&refusal).is_empty());
    let crashed = Refusal::new(ErrorCode::Internal, "it died").with_reason("execution_crashed");
    let status = refusal_to_status(&crashed, OverloadCodes::Lambda);
    assert_eq!(status.get_details_error_info().unwrap().reason, "execution_crashed");
    assert!(refusal_headers(&crashed).is_empty());
}
