//! Revisions change when, and only when, something of the version does.

use super::Repository;
use crate::ContentRevision;

fn revision(repository: &Repository) -> ContentRevision {
    repository.function("m").versions[0].revision
}

#[test]
fn every_change_is_seen_and_only_changes() {
    let repository = Repository::new()
        .with("m/1/model.onnx", "one")
        .with("m/1/weights/part.bin", "w")
        .with("m/labels.txt", "a")
        .with("m/config.pbtxt", "parameters { key: \"a\" value { } } parameters { key: \"b\" value { } }");
    let first = revision(&repository);
    assert_eq!(revision(&repository), first);
    // Maps have no order of their own: the same file must not look new each time it is read.
    (0..20).for_each(|_| assert_eq!(revision(&repository), first));
    repository.write("m/README.md", "of no interest");
    repository.write("m/2x/model.onnx", "of no interest");
    repository.write(
        "m/config.pbtxt",
        "# the same, written otherwise\nparameters [ { key: 'b' value { } }, { key: 'a' value { } } ]",
    );
    assert_eq!(revision(&repository), first);
    let mut seen = vec![first];
    let mut changed = |path: &str, content: &str| {
        repository.write(path, content);
        let now = revision(&repository);
        assert!(!seen.contains(&now), "{path} was not noticed");
        seen.push(now);
    };
    changed("m/1/model.onnx", "longer");
    changed("m/1/weights/part.bin", "longer");
    changed("m/1/extra.txt", "new");
    let output = "output { name: \"y\" data_type: TYPE_FP32 dims: 1 label_filename: \"labels.txt\" }";
    changed("m/config.pbtxt", output);
    changed("m/labels.txt", "a\nb");
    changed("m/config.pbtxt", "max_batch_size: 3");
    std::fs::remove_file(repository.path().join("m/1/extra.txt")).unwrap();
    let now = revision(&repository);
    assert!(!seen.contains(&now));
}

#[test]
fn a_rewrite_of_the_same_size_is_seen_by_its_time() {
    let repository = Repository::new().with("m/1/model.onnx", "one");
    let first = revision(&repository);
    let file = std::fs::File::options().write(true).open(repository.path().join("m/1/model.onnx")).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified + std::time::Duration::from_nanos(100)).unwrap();
    assert_ne!(revision(&repository), first);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_those_that_lead_out_are_told() {
    use std::os::unix::fs::symlink;
    let elsewhere = Repository::new().with("blob", "weights").with("folder/part", "p");
    let repository = Repository::new().with("m/1/inner", "x");
    let version = repository.path().join("m/1");
    symlink(elsewhere.path().join("blob"), version.join("model.onnx")).unwrap();
    symlink(elsewhere.path().join("folder"), version.join("parts")).unwrap();
    symlink("inner", version.join("alias")).unwrap();
    symlink("nowhere", version.join("dangling")).unwrap();
    let source = &repository.function("m").versions[0];
    let real = elsewhere.path().canonicalize().unwrap();
    assert_eq!(source.linked_paths, [real.join("blob"), real.join("folder")]);
    elsewhere.write("folder/part", "changed behind the link");
    assert_ne!(repository.function("m").versions[0].revision, source.revision);
    // The version itself may be a link.
    std::fs::create_dir(repository.path().join("linked")).unwrap();
    symlink(elsewhere.path().join("folder"), repository.path().join("linked/1")).unwrap();
    elsewhere.write("folder/model.onnx", "");
    assert_eq!(repository.function("linked").versions[0].linked_paths, [real.join("folder")]);
    // A circle ends, with a reason.
    symlink(".", version.join("circle")).unwrap();
    let text = repository.function("m").unavailable.unwrap();
    assert!(text.contains("folders deep"), "{text}");
}
