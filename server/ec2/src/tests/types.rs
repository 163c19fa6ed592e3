//! What can be bought.

use super::fake_aws::{Failure, FakeAws};
use super::{World, options};
use crate::{Ec2Provider, Types};
use penstock_scaler::Architecture;
use std::collections::BTreeMap;

fn zones(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn offered(types: &Types, prices: &[(&str, f64)]) -> (Vec<(String, f64)>, Vec<String>, bool) {
    let prices: BTreeMap<String, f64> = prices.iter().map(|(name, usd)| ((*name).to_owned(), *usd)).collect();
    let offered = types.offered(&zones(&["a", "c"]), &prices, |name, _| name != "trn1.2xlarge");
    assert!(offered.types.iter().all(|one| one.zones == ["a"]), "{offered:?}");
    let named = offered.types.into_iter().map(|one| (one.name, one.usd_per_hour)).collect();
    (named, offered.without_price, offered.is_guessed)
}

#[tokio::test]
async fn facts_are_of_ec2_and_devices_are_those_that_environments_run_on() {
    let world = World::open(|_| {}).await;
    assert_eq!(world.provider.zones(), ["a", "b"]);
    let types = world.provider.types();
    assert_eq!(types.count(), 5, "one is offered nowhere, one is a Mac, one is of the first Graviton");
    let of = |name: &str| types.get(name).map(|one| (one.shape.devices, one.shape.device_memory_mib, one.efa)).unwrap();
    assert_eq!((of("g6.xlarge"), of("p5.48xlarge")), ((1, 22_888, false), (8, 81_920, true)));
    assert_eq!((of("trn1.2xlarge"), of("c7g.large")), ((0, 0, false), (0, 0, false)), "Trainium is no GPU");
    assert_eq!(types.get("c7g.large").unwrap().shape.architecture, Architecture::Arm);
    assert_eq!(types.get("p5.48xlarge").unwrap().device.as_deref(), Some("H100"));
    let (priced, without, is_guessed) = offered(&types, &[("g6.xlarge", 0.8), ("g9.xlarge", 0.1)]);
    assert_eq!((priced, is_guessed), (vec![("g6.xlarge".to_owned(), 0.8)], false));
    assert_eq!(without, ["c7g.large", "g5.xlarge", "p5.48xlarge"]);
    let (guessed, _, is_guessed) = offered(&types, &[]);
    let usd: BTreeMap<String, f64> = guessed.into_iter().collect();
    assert!(is_guessed && usd["c7g.large"] < usd["g6.xlarge"] && usd["g6.xlarge"] < usd["p5.48xlarge"], "{usd:?}");
}

#[tokio::test]
async fn facts_are_kept_for_a_day_and_longer_if_there_are_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("types.json");
    let open = async |day: u64, aws: &FakeAws| {
        let mut options = options(&aws.url());
        options.types_file = Some(file.clone());
        options.clock = match day {
            0 => options.clock,
            _ => || std::time::UNIX_EPOCH + std::time::Duration::from_secs(super::NOW_UNIX_S + 3 * 86_400),
        };
        Ec2Provider::open(options).await.map(|provider| provider.types().count())
    };
    let (first, second) = (FakeAws::start(), FakeAws::start());
    assert_eq!(open(0, &first).await.unwrap(), 5);
    let pages = first.asked("DescribeInstanceTypes");
    assert_eq!((pages.len(), pages[1].param("NextToken")), (2, "2"));
    assert_eq!(open(0, &second).await.unwrap(), 5);
    assert_eq!(second.asked("DescribeInstanceTypes").len(), 0);
    second.fail("DescribeInstanceTypes", 1, Failure::Code(403, "UnauthorizedOperation"));
    assert_eq!(open(3, &second).await.unwrap(), 5, "old facts are better than none");
    assert_eq!(second.asked("DescribeInstanceTypes").len(), 1);
    std::fs::write(&file, "{").unwrap();
    second.fail("DescribeInstanceTypes", 1, Failure::Code(403, "UnauthorizedOperation"));
    assert!(open(0, &second).await.is_err());
    assert_eq!(open(0, &second).await.unwrap(), 5);
}
