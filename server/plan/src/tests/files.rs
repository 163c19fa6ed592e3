//! Files: traces and tables of prices that are read, and those that are refused with what would be right.

use super::{Source, load, run, scenario, times};
use crate::{Format, LoadShape, Prices, PricesError, Rate, Trace, TraceError, over_time, svg, totals};
use penstock_scaler::{Architecture, Bounds};

/// One hour of a code-completion service, of AzurePublicDataset (CC BY 4.0).
const AZURE: &[u8] = include_bytes!("../../traces/azure-llm-2023-code.csv");

#[test]
fn the_azure_trace_runs_from_end_to_end() {
    let trace = Trace::read(AZURE, &times()).unwrap();
    assert_eq!((trace.format, trace.arrivals.len(), trace.out_of_order), (Format::Tokens, 8819, 0));
    // 18:17:03.9799600 to 19:14:19.9280160, and the second 52 ms after the first.
    assert_eq!(trace.arrivals.last().unwrap().at_ns, 3_435_948_056_000);
    assert_eq!(trace.arrivals[1].at_ns, 52_000_000);
    // 4808 tokens in, 10 out.
    assert_eq!(trace.arrivals[0].service_ns, 680_800_000);
    let mut scenario = scenario();
    scenario.environments.bounds = Bounds { min: 1, max: 100 };
    scenario.environments.slots = 8;
    scenario.environments.workers = 8;
    let report = run(&load(Source::Recorded(trace)), &scenario);
    let done = &report.totals;
    assert_eq!((done.requests, done.done + done.shed + done.expired), (8819, 8819));
    assert!(done.done > 8000, "{done:?}");
    assert!(report.notes.iter().any(|note| note.contains("AzurePublicDataset")));
    let (heads, rows) = over_time(&report);
    assert!(rows.len() <= 24 && rows.iter().all(|row| row.len() == heads.len()));
    assert!(totals(&report).iter().any(|row| row[0] == "cost" && row[1].starts_with('$')));
    let picture = svg(&report, "a < b & c");
    assert!(picture.starts_with("<svg") && picture.contains("a &lt; b &amp; c") && !picture.contains("NaN"));
    assert!(serde_json::to_string(&report).unwrap().contains("\"requests\":8819"));
}

#[test]
fn rows_are_read_as_they_are_written() {
    let read = |text: &str| Trace::read(text.as_bytes(), &times()).unwrap();
    let plain = read("seconds,service_ms\n5.25,20\n\n4.0000000019,1.5\n");
    assert_eq!((plain.format, plain.out_of_order, plain.arrivals.len()), (Format::Seconds, 1, 2));
    assert_eq!((plain.arrivals[0].at_ns, plain.arrivals[0].service_ns), (0, 1_500_000), "sorted, from the first on");
    assert_eq!(plain.arrivals[1].at_ns, 1_249_999_999, "digits beyond the ninth are dropped");
    assert_eq!(read("1700158623.979960\r\n1700158624").arrivals[1].at_ns, 20_040_000, "no header, no service time");
    let tokens = read(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-12-31 23:59:59.5,0,50\n2024-01-01T00:00:01Z,10000,0\n2024-03-01 00:00:00+00:00,0,0\n",
    );
    let at: Vec<_> = tokens.arrivals.iter().map(|arrival| arrival.at_ns).collect();
    // 2024 has a 29 February: 60 days to March.
    assert_eq!(at, [0, 1_500_000_000, 60 * 86_400_000_000_000 + 500_000_000]);
    assert_eq!(tokens.arrivals.iter().map(|arrival| arrival.service_ns).sum::<u64>(), 2_000_000_000);
}

#[test]
fn wrong_traces_are_refused_with_the_line_and_what_is_right() {
    let wrong = |text: &str| match Trace::read(text.as_bytes(), &times()).unwrap_err() {
        TraceError::Line { line, found, right } => (line, found, right),
        other => panic!("{other}"),
    };
    let (line, found, right) = wrong("seconds\n1\n2,x\n");
    assert_eq!((line, found.as_str()), (3, "2,x"));
    assert!(right.contains("seconds,service_ms"), "{right}");
    let (line, found, right) = wrong("time;tokens\n1;2\n");
    assert_eq!((line, found.as_str()), (1, "time;tokens"));
    assert!(right.contains("TIMESTAMP,ContextTokens,GeneratedTokens"), "{right}");
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
    for row in [
        "2023-11-16 18:17:03,1",
        "2023-11-16 18:17:03,1,2,3",
        "2023-13-16 18:17:03,1,2",
        "2023-11-16 18:61:03,1,2",
        "2023-11-16,1,2",
        "2023-11.5-16 18:17:03,1,2",
        "16/11/2023 18:17:03,1,2",
        "2023-11-16 18:17:03,-1,2",
        "2023-11-16 18:17:03,1.5,2",
        "12.5,1,2",
    ] {
        let (line, found, right) = wrong(&format!("{azure}2023-11-16 18:17:03.9,1,2\n{row}\n"));
        assert_eq!((line, found.as_str()), (3, row));
        assert!(right.contains("YYYY-MM-DD"), "{right}");
    }
    for row in ["-1", "1e3", "NaN", "1,-5", "1,2,3", ",", "99999999999999999999", "1,86400001"] {
        assert_eq!(wrong(&format!("1\n{row}\n")).0, 2, "{row}");
    }
    assert_eq!(wrong(&format!("1\n{}", "9".repeat(100_000))).1.len(), 60, "no more of a line is repeated");
    assert!(matches!(Trace::read(&b""[..], &times()), Err(TraceError::Empty)));
    assert!(matches!(Trace::read(azure.as_bytes(), &times()), Err(TraceError::Empty)));
    let told = Trace::read(&b"seconds\nx\n"[..], &times()).unwrap_err().to_string();
    assert!(told.starts_with("line 2: found \"x\"; right is "), "{told}");
}

#[test]
fn wrong_shapes_are_refused() {
    for shape in [
        "constant",
        "constant:rate=1",
        "constant:rate=1,seconds=0",
        "constant:rate=-1,seconds=5",
        "wave:rate=1,seconds=5",
        "constant:rate=1,seconds=5,to=3",
        "step:rate=1,seconds=5",
        "constant:rate=x,seconds=5",
        "constant:rate=1,rate=2,seconds=5",
        "diurnal:rate=1,swing=2,period=5,seconds=5",
        "spikes:rate=1,to=2,every=5,for=6,seconds=9",
        "constant:rate=NaN,seconds=5",
        "constant:rate=0,seconds=5",
        "constant:rate=1e9,seconds=5",
    ] {
        let wrong = LoadShape::parse(shape).unwrap_err();
        assert_eq!((wrong.field, wrong.found), ("synthetic", format!("{shape:?}")));
    }
    assert!(LoadShape::parse("step: rate=0, to=200, at=300, seconds=900").is_ok());
}

#[test]
fn the_table_that_is_built_in_is_sound() {
    let zones = ["us-east-1a".to_owned()];
    let market = Prices::built_in().at(Rate::OnDemand, &zones);
    assert!(market.offers.len() >= 12 && market.without_rate.is_empty());
    let of = |name: &str| market.offers.iter().find(|offer| offer.instance_type.name == name).unwrap();
    let g6 = of("g6.xlarge");
    assert_eq!((g6.micro_usd_per_hour, g6.instance_type.shape.device_memory_mib), (804_800, 22_888));
    assert_eq!(of("c7g.xlarge").instance_type.shape.architecture, Architecture::Arm);
    assert_eq!(of("p5.48xlarge").instance_type.shape.devices, 8);
    let spot = Prices::built_in().at(Rate::Spot, &zones);
    assert_eq!(spot.offers.len() + spot.without_rate.len(), market.offers.len());
}

#[test]
fn wrong_tables_are_refused() {
    let row = "name = \"a\"\nvcpu = 2\nmemory_mib = 4\narchitecture = \"arm64\"\non_demand_usd_per_hour = 1.0\nsource = \"s\"\ndate = \"2026-01-01\"\n";
    let table = |row: &str| Prices::parse(&format!("region = \"r\"\n[[types]]\n{row}"));
    assert!(table(row).is_ok());
    let field = |from: &str, to: &str| match table(&row.replace(from, to)).unwrap_err() {
        PricesError::Field { name, field, .. } => (name, field),
        other => panic!("{other}"),
    };
    assert_eq!(field("vcpu = 2", "vcpu = 0"), ("a".into(), "vcpu and memory_mib"));
    assert_eq!(field("vcpu = 2", "vcpu = 2\ndevices = 1").1, "devices and device_memory_mib");
    assert_eq!(field("= 1.0", "= -1.0").1, "on_demand_usd_per_hour");
    assert_eq!(field("= 1.0", "= nan").1, "on_demand_usd_per_hour");
    assert_eq!(field("2026-01-01", "yesterday").1, "date");
    assert_eq!(field("\"s\"", "\"\"").1, "source");
    let told = |result: Result<Prices, PricesError>| result.unwrap_err().to_string();
    assert!(
        told(table(&row.replace("arm64", "sparc"))).contains("line 6"),
        "{}",
        told(table(&row.replace("arm64", "sparc")))
    );
    assert!(told(table(&row.replace("vcpu", "cores"))).contains("unknown field `cores`"));
    assert!(told(table(&format!("{row}[[types]]\n{row}"))).contains("each type once"));
    assert!(told(Prices::parse("region = \"r\"\ntypes = []")).contains("0 types"));
}
