//! A strict reader of Prometheus' text format 0.0.4: what it accepts, Prometheus accepts.

use std::collections::BTreeMap;

/// A scrape, read.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    /// Type of each metric.
    pub(super) families: BTreeMap<String, String>,
    /// Value of each series, by its name and labels as written.
    pub(super) samples: BTreeMap<String, f64>,
}

impl Exposition {
    pub(super) fn sum(&self, prefix: &str) -> f64 {
        self.sum_where(prefix, "")
    }

    pub(super) fn sum_where(&self, prefix: &str, label: &str) -> f64 {
        let chosen = |series: &str| series.starts_with(prefix) && series.contains(label);
        self.samples.iter().filter(|(series, _)| chosen(series)).map(|(_, value)| value).sum()
    }
}

pub(super) fn parse(text: &str) -> Result<Exposition, String> {
    let mut read = Exposition::default();
    let mut family = (String::new(), String::new());
    if !text.ends_with('\n') {
        return Err("the last line is not ended".into());
    }
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with("# HELP ")) {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').ok_or(line)?;
            if read.families.insert(name.into(), kind.into()).is_some() {
                return Err(format!("{name} comes twice"));
            }
            family = (name.into(), kind.into());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').ok_or(line)?;
        let name = series.split('{').next().unwrap_or_default();
        if !belongs(name, &family) {
            return Err(format!("{line:?} stands under {family:?}"));
        }
        labels(&series[name.len()..]).ok_or(line)?;
        let value = value.parse().map_err(|_| line)?;
        if read.samples.insert(series.into(), value).is_some() {
            return Err(format!("{series} comes twice"));
        }
    }
    Ok(read)
}

fn belongs(name: &str, (family, kind): &(String, String)) -> bool {
    let Some(suffix) = name.strip_prefix(family.as_str()) else { return false };
    match kind.as_str() {
        "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
        "summary" => ["", "_sum", "_count"].contains(&suffix),
        _ => suffix.is_empty(),
    }
}

/// Checks `{a="b",c="d"}`, or nothing.
fn labels(text: &str) -> Option<()> {
    if text.is_empty() {
        return Some(());
    }
    let mut rest = text.strip_prefix('{')?;
    loop {
        let (name, value) = rest.split_once("=\"")?;
        let named = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !named || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        rest = after_quoted(value)?;
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (rest == "}").then_some(()),
        }
    }
}

/// What follows the closing quote.
fn after_quoted(text: &str) -> Option<&str> {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some(&text[at + 1..]),
            '\\' => match chars.next()? {
                (_, '\\' | '"' | 'n') => {}
                _ => return None,
            },
            _ => {}
        }
    }
    None
}

#[test]
fn the_reader_is_strict() {
    for bad in [
        "a 1",
        "a 1\n",
        "# TYPE a counter\nb 1\n",
        "# TYPE a counter\na 1\na 2\n",
        "# TYPE a counter\na{b=\"c} 1\n",
        "# TYPE a counter\na{b=\"\\x\"} 1\n",
        "# TYPE a counter\na one\n",
        "# TYPE a histogram\na 1\n",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
    let good = parse("# HELP a b\n# TYPE a histogram\na_bucket{b=\"\\\"\",le=\"+Inf\"} 1\na_sum 2\na_count 1\n");
    assert_eq!(good.map(|read| read.samples.len()), Ok(3));
}
