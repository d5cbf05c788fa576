//! The fuzz targets over what was kept of them: whatever once broke something stays mended.

#[allow(clippy::expect_used, dead_code, reason = "the targets are a crate of their own")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// A target, and the folder of its corpus.
const TARGETS: [(&str, fn(&[u8])); 6] = [
    ("signatures", targets::signatures),
    ("webhook_bodies", targets::webhook_bodies),
    ("vendor_answers", targets::vendor_answers),
    ("headers", targets::headers),
    ("cursors", targets::cursors),
    ("configuration", targets::configuration),
];

#[test]
fn nothing_that_was_kept_of_the_fuzzing_breaks_anything() {
    for (name, target) in TARGETS {
        let folder = format!("fuzz/corpus/{name}");
        let mut inputs = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&std::fs::read(path).unwrap());
            inputs += 1;
        }
        assert!(inputs >= 3, "{folder} holds something");
    }
}
