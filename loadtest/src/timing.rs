//! Reads `Server-Timing` (W3C) and the `penstock-timing` trailer, which has the same text. Called by `record`.

/// Calls `each` with every metric's name, its `dur` (milliseconds) and its `desc`.
pub fn metrics<'a>(text: &'a str, mut each: impl FnMut(&'a str, Option<f64>, Option<&'a str>)) {
    for metric in text.split(',') {
        let mut parts = metric.split(';').map(str::trim);
        let Some(name) = parts.next().filter(|name| !name.is_empty()) else { continue };
        let (mut duration, mut description) = (None, None);
        for part in parts {
            let Some((key, value)) = part.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "dur" => duration = value.parse().ok().filter(|ms: &f64| ms.is_finite() && *ms >= 0.0),
                "desc" => description = Some(value),
                _ => {}
            }
        }
        each(name, duration, description);
    }
}

#[cfg(test)]
mod tests {
    use super::metrics;

    #[test]
    fn reads_stages_and_the_batch() {
        let mut seen = Vec::new();
        metrics(r#"queue;dur=1.2, compute;dur=3.4 , batch;desc="8", total;desc=all;dur="5", odd;dur=x,"#, |a, b, c| {
            seen.push((a, b, c));
        });
        assert_eq!(
            seen,
            [
                ("queue", Some(1.2), None),
                ("compute", Some(3.4), None),
                ("batch", None, Some("8")),
                ("total", Some(5.0), Some("all")),
                ("odd", None, None),
            ]
        );
    }
}
