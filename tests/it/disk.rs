//! A disk that is full, and one that cannot be written: refused in words, never a false 2xx, and well again by itself.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::process::Place;

/// A small disk of its own.
struct Disk(PathBuf);

impl Disk {
    /// `None` where we may not mount one.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap().keep();
        let done = mount(&["-t", "tmpfs", "-o", "size=6m", "tmpfs"], &folder);
        if !done {
            std::fs::remove_dir(&folder).unwrap();
            assert!(std::env::var_os("CI").is_none(), "mounting a small disk needs root");
            eprintln!("SKIPPED: mounting a small disk needs root");
            return None;
        }
        Some(Self(folder))
    }
}

fn mount(options: &[&str], folder: &Path) -> bool {
    Command::new("mount").args(options).arg(folder).stderr(Stdio::null()).status().is_ok_and(|done| done.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn post(place: &Place, name: &str) -> (u16, String) {
    let body = format!(r#"{{"name": "{name}", "description": "{}"}}"#, "long ".repeat(200));
    let json = ["-H", "content-type: application/json", "-d", &body];
    place.api("POST", "/api/v1/opportunities", &json).unwrap()
}

#[test]
fn a_full_disk_is_said_with_503_and_room_is_enough_to_go_on() {
    let Some(disk) = Disk::mount() else { return };
    let place = Place::new(5, 10, &format!("sqlite://{}/tandem.db", disk.0.display()));
    let daemon = place.serve();
    place.until("the deals are here", || {
        place.get("/api/v1/opportunities?limit=500").unwrap_or_default().matches("\"sync_state\":\"synced\"").count()
            == 10
    });
    let filler = disk.0.join("filler");
    // Fails in the middle, as it should: the disk is full then.
    std::fs::write(&filler, vec![0_u8; 16 << 20]).unwrap_err();
    let (mut kept, mut refused) = (Vec::new(), None);
    // The log may still have room in what it was given before.
    for n in 0..3_000 {
        match post(&place, &format!("deal {n}")) {
            (201, text) => {
                let made: serde_json::Value = serde_json::from_str(&text).unwrap();
                kept.push(made["id"].as_str().unwrap().to_owned());
            }
            other => {
                refused = Some(other);
                break;
            }
        }
    }
    let (status, says) = refused.expect("6 MiB are full at last");
    assert_eq!(status, 503, "{says}");
    assert!(says.contains("nothing was stored"), "{says}");
    // HubSpot tells of an edit, which cannot be kept either: it is told so, and tells again later.
    let deal = place.export()[0]["external_ids"][0]["id"].as_str().unwrap().to_owned();
    let edit = r#"{"properties": {"dealname": "edited meanwhile"}}"#;
    place.vendor("PATCH", &format!("/crm/objects/2026-09/deals/{deal}"), edit);
    assert!(place.get("/healthz").is_some() && place.get("/api/v1/opportunities").is_some(), "reading goes on");
    std::fs::remove_file(&filler).unwrap();
    place.until("there is room again", || post(&place, "after all").0 == 201);
    place.until("all that was acknowledged is at HubSpot, and the edit here", || {
        let ours = place.export();
        let known = |id: &String| ours.iter().any(|deal| deal["id"] == id.as_str() && deal["sync_state"] == "synced");
        kept.iter().all(known) && ours.iter().any(|deal| deal["name"] == "edited meanwhile")
    });
    drop(daemon);
    assert_eq!(place.export().len(), 10 + kept.len() + 1, "and nothing that was refused");
}

#[test]
fn a_disk_that_cannot_be_written_is_named_at_the_start() {
    let Some(disk) = Disk::mount() else { return };
    let place = Place::new(5, 10, &format!("sqlite://{}/tandem.db", disk.0.display()));
    place.run_ok(&["sync", "--once"]);
    assert!(mount(&["-o", "remount,ro"], &disk.0));
    for command in [&["serve"][..], &["sync", "--once"]] {
        let output = place.run(command);
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {says}");
        assert!(says.contains("look at the owner"), "{command:?} says what to look at: {says}");
    }
    assert!(mount(&["-o", "remount,rw"], &disk.0));
    place.run_ok(&["sync", "--once"]);
    assert_eq!(place.export().len(), 10);
}
